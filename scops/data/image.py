"""Pictures: any file that people have -> an upright RGB picture -> the numbers that an encoder takes.

Alpha is laid over white (what a reader of the picture sees), EXIF rotation is applied, 16-bit grey is scaled, of an
animation the first frame counts. Nothing is fetched from the network, and formats that run other programs are not read.
"""

# C channels
import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from scops.core.layout import Cut, Pixels
from scops.data.documents import Page, drawn, measured
from scops.data.errors import MediaError
from scops.data.resize import ByPillow, normalise, resizer
from scops.data.source import content, existing, looks, where


@dataclass(frozen=True)
class Sized:
    """In place of a picture, its size alone: enough to be counted, nothing to be decoded."""

    height: int
    width: int


Source = Path | str | bytes | Image.Image | Page

PIXEL_LIMIT = 178_956_970
"""A picture of more pixels is refused before it is unpacked (512 MiB as RGB)."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI", "TGA")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".ico", ".tga"}
"""Of files that are taken for pictures where nobody says so; what is named is read whatever it is called."""
FITS = ("stretch", "crop", "pad")

_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(source: Source, name: str = "", *, limit: int = PIXEL_LIMIT) -> Image.Image:
    """An upright RGB picture.

    Args:
        source: a file, its bytes, a base64 data URL, a picture of Pillow, or a page of a document.
        name: the row, for the error.
        limit: the most pixels; Pillow itself stops at 178,956,970 whatever is allowed here.
    Raises:
        MediaError: naming row and file.
    """
    with _opened(source, name, limit) as image:
        image.load()
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))  # after load: TIFF turns itself there
        ours = image is not source
        rgb = image if ours and image.mode == "RGB" and not image.has_transparency_data else _rgb(image)
        if turn is None:
            return rgb
        upright = rgb.transpose(turn)
        upright.info.clear()  # it would ask to be turned once more
        return upright


def measure(source: Source | Sized, name: str = "", *, limit: int = PIXEL_LIMIT) -> tuple[int, int]:
    """(height, width) of what `decode` would give, from the file's header only."""
    if isinstance(source, Page):
        return measured(source, name)
    if isinstance(source, Sized):
        _check(source.height, source.width, where(source, name), limit)
        return source.height, source.width
    with _opened(source, name, limit) as image:
        # Pillow unpacks a whole PNG to look for EXIF behind its pixels; TIFF gives its size turned already
        bare = image.format == "PNG" and not isinstance(source, Image.Image) and b"eXIf" not in content(source, name)
        exif = Image.Image.getexif(image) if bare else image.getexif()
        sideways = image.format != "TIFF" and exif.get(_ORIENTATION, 1) >= 5
        return image.size if sideways else image.size[::-1]


def digest(source: Source, pixels: Pixels, name: str = "") -> str:
    """The content (the file's bytes, or the pixels of a picture in memory) and its preparation as 64 hex digits.

    Nothing is unpacked, so that what is known already need not be.
    """
    if isinstance(source, Image.Image):
        head, held = f"{source.mode} {source.size} {source.getexif().get(_ORIENTATION, 1)}", source.tobytes()
        head += repr((source.getpalette(), source.info.get("transparency")))
    elif isinstance(source, Page):
        head, held = f"page {source.number} at {source.dpi}", content(source.document, name, "document")
    else:
        head, held = "file", content(source, name)
    return hashlib.sha256(f"{head} {pixels!r}\n".encode() + held).hexdigest()


def digests(source: Source, pixels: Pixels, cut: Cut, name: str = "") -> tuple[str, ...]:
    """As `digest`, one for each picture that the source is cut into."""
    whole = digest(source, pixels, name)
    if not cut.steps:
        return (whole,)
    return tuple(hashlib.sha256(repr((whole, cut, number)).encode()).hexdigest() for number in range(len(cut)))


def prepare(image: Image.Image, pixels: Pixels, *, name: str = "") -> np.ndarray:
    """(C, height, width) float32: fit, x / 255, - mean, / std.

    Resized by Pillow (as `pixels` says) it is equal to the bit to transformers' Pillow processors.
    """
    if pixels.fit not in FITS:
        raise ValueError(f"a picture is fitted by one of {', '.join(FITS)}, not {pixels.fit!r}")
    levels_CHW = _fitted(image, pixels, name)
    return normalise(levels_CHW, pixels, np.empty(levels_CHW.shape, np.float32))


def _fitted(image: Image.Image, pixels: Pixels, name: str) -> np.ndarray:
    by = resizer(pixels.resize, pixels.resample)
    height, width = pixels.height, pixels.width
    if pixels.fit == "pad":
        image = _squared(image, tuple(int(level * 255) for level in pixels.mean), name)
    if pixels.fit != "crop":
        return by.levels(by.resized(by.taken(image), height, width))
    wide, high = image.size
    by_height = height * wide >= width * high
    new_wide, new_high = (height * wide // high, height) if by_height else (width, width * high // wide)
    left, top = (new_wide - width) // 2, (new_high - height) // 2
    if new_wide * new_high <= PIXEL_LIMIT:
        whole_CHW = by.levels(by.resized(by.taken(image), new_high, new_wide))
        return whole_CHW[:, top : top + height, left : left + width]
    # so thin that the uncropped picture would not fit in memory: the same numbers up to the order of the two passes
    step_x, step_y = wide / new_wide, high / new_high
    box = (left * step_x, top * step_y, (left + width) * step_x, (top + height) * step_y)
    small = image.resize((width, height), Image.Resampling[pixels.resample.upper()], box=box)  # torch has no box
    return ByPillow(pixels.resample).levels(small)


def _squared(image: Image.Image, colour: tuple[int, ...], name: str) -> Image.Image:
    wide, high = image.size
    side = max(wide, high)
    if side * side > PIXEL_LIMIT:
        raise MediaError(
            f"{where(image, name)}: {high}x{wide} is too thin to be padded to a square ({PIXEL_LIMIT} pixels)"
        )
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - wide) // 2, (side - high) // 2))
    return square


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _grey(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)  # premultiplied
    rgba = (image.convert(straight) if straight else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """Deep grey to 8 bits: integers are 16-bit levels, floats are in [0, 1]."""
    levels, top = np.asarray(image), 1.0 if image.mode == "F" else 65535
    if not (levels.min() >= 0 and levels.max() <= top):  # so that NaN fails too
        raise ValueError(f"mode {image.mode} is read from 0 to {top}, not {levels.min()} to {levels.max()}")
    grey = np.rint(levels * (255 / top)).astype(np.uint8)
    if "transparency" in image.info:
        grey[levels == image.info["transparency"]] = 255
    return Image.fromarray(grey)


@contextmanager
def _opened(source: Source, name: str, limit: int) -> Iterator[Image.Image]:
    """The picture, checked but not unpacked; whatever goes wrong inside becomes a MediaError."""
    here = where(source, name)
    try:
        with _open(source, name) as image:
            _check(image.height, image.width, here, limit)
            yield image
    except MediaError:
        raise
    except Image.UnidentifiedImageError as error:
        assert not isinstance(source, Image.Image | Page), "Pillow opens files only"
        raise MediaError(
            f"{here}: this is not a picture but {looks(content(source, name)[:64])}; read are {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # hostile files make decoders raise anything
        raise MediaError(f"{here}: the picture cannot be read: {error or type(error).__name__}") from error


def _check(height: int, width: int, here: str, limit: int) -> None:
    if height < 1 or width < 1:
        raise MediaError(f"{here}: the picture is {height}x{width}, so it has no pixels")
    if height * width > limit:
        raise MediaError(f"{here}: the picture is {height}x{width}, over the limit of {limit} pixels")


@contextmanager
def _open(source: Source, name: str) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        yield source  # the caller's: not closed here
        return
    if isinstance(source, Page):
        yield drawn(source, name)
        return
    file = existing(source, name) if isinstance(source, Path) else io.BytesIO(content(source, name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is an error
        image = Image.open(file, formats=_formats())
    with image:
        yield image


@cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow can read."""
    Image.init()
    return tuple(one for one in FORMATS if one in Image.OPEN)
