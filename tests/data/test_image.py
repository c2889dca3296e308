"""Pictures of every kind that people have are read the same way, and hostile ones are refused by name."""

# C channels
import base64
import io
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import scops.data.image
from scops.core.layout import Pixels
from scops.data.errors import MediaError
from scops.data.image import Sized, decode, digest, measure, prepare

CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 50), (50, 1), (17, 31), (31, 17), (24, 24), (23, 9), (301, 97), (97, 302)]
)
@pytest.mark.parametrize("edge", [7, 24])
def test_crop_equals_the_clip_processor(size: tuple[int, int], edge: int) -> None:
    image = noise(*size)
    square = {"height": edge, "width": edge}
    theirs = CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size=square)(image, return_tensors="np")
    ours = prepare(image, Pixels(edge, edge, fit="crop", **CLIP))
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs["pixel_values"][0])


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
def test_stretch_equals_the_steps_done_by_hand(resample: str) -> None:
    image = noise(41, 23)
    small = image.resize((13, 11), getattr(Image.Resampling, resample.upper()))
    levels_CHW = np.asarray(small).astype(np.float64).transpose(2, 0, 1) / 255
    wanted = (levels_CHW - np.reshape(CLIP["mean"], (3, 1, 1))) / np.reshape(CLIP["std"], (3, 1, 1))
    ours = prepare(image, Pixels(11, 13, resample=resample, **CLIP))
    assert ours.shape == (3, 11, 13)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=5e-7)


def test_pad_centres_on_the_mean_colour() -> None:
    image = noise(6, 3)
    ours = prepare(image, Pixels(6, 6, (0.2, 0.4, 0.6), (1.0, 1.0, 1.0), fit="pad"))
    levels = np.rint((ours + np.reshape([0.2, 0.4, 0.6], (3, 1, 1))) * 255).astype(int).transpose(1, 2, 0)
    assert (levels[0] == (51, 102, 153)).all()
    assert (levels[4:] == (51, 102, 153)).all()
    np.testing.assert_array_equal(levels[1:4], np.asarray(image))


def test_crop_of_unequal_sides_covers_the_box() -> None:
    image = noise(40, 10)
    wanted = image.resize((40, 10)).crop((13, 0, 27, 10))  # sides need no scaling at height 10
    ours = prepare(image, Pixels(10, 14, (0, 0, 0), (1, 1, 1), fit="crop"))
    np.testing.assert_array_equal(np.rint(ours * 255).astype(np.uint8).transpose(1, 2, 0), np.asarray(wanted))


def test_very_thin_pictures_are_prepared_without_a_giant_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    thin = noise(1, 5000)
    assert decode(encoded(thin)).size == (1, 5000)
    for fit in ("stretch", "crop", "pad"):  # uncropped it would have 224 x 1,120,000 pixels
        assert np.isfinite(prepare(thin, Pixels(224, 224, fit=fit, **CLIP))).all()
    pixels = Pixels(24, 24, fit="crop", **CLIP)
    smooth = noise(2, 3).resize((3, 400), Image.Resampling.BICUBIC)  # noise would show the order of Pillow's two passes
    whole = prepare(smooth, pixels)
    monkeypatch.setattr(scops.data.image, "PIXEL_LIMIT", 1000)
    assert np.abs(prepare(smooth, pixels) - whole).max() < 1.01 / 255 / min(CLIP["std"])  # one level
    with pytest.raises(MediaError, match=r"row 3.*400x3 is too thin"):
        prepare(noise(3, 400), Pixels(24, 24, fit="pad", **CLIP), name="row 3")


def test_unknown_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="stretch, crop, pad, not 'squash'"):
        prepare(noise(2, 2), Pixels(2, 2, fit="squash", **CLIP))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied(orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(noise(5, 3), form, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        wanted = ImageOps.exif_transpose(image).convert("RGB")
    ours = decode(data)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(wanted))
    assert ours.size == ((3, 5) if orientation >= 5 else (5, 3))
    assert measure(data) == ours.size[::-1]


def test_exif_behind_the_pixels_of_a_png_is_found() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(noise(5, 3), exif=exif)
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    moved = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert measure(moved) == measure(data) == (5, 3)
    np.testing.assert_array_equal(np.asarray(decode(moved)), np.asarray(decode(data)))


def test_alpha_is_laid_over_white() -> None:
    rgba = Image.fromarray(np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], np.uint8))
    wanted = [[[200, 0, 0], [255, 255, 255], [204, 204, 204]]]
    np.testing.assert_array_equal(np.asarray(decode(encoded(rgba))), wanted)
    grey = Image.fromarray(np.array([[[9, 255], [9, 0]]], np.uint8), "LA")
    np.testing.assert_array_equal(np.asarray(decode(encoded(grey)))[0, :, 0], [9, 255])
    np.testing.assert_array_equal(np.asarray(decode(rgba.convert("RGBa"))), wanted)


def test_palette_transparency_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(np.asarray(decode(encoded(image))), [[[10, 20, 30], [40, 50, 60]]])
    for form in ("PNG", "GIF"):
        ours = np.asarray(decode(encoded(image, form, transparency=1)))
        np.testing.assert_array_equal(ours, [[[10, 20, 30], [255, 255, 255]]])


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    levels = np.array([[0, 257, 256 * 100, 65535]], np.uint16)
    wanted = [0, 1, 100, 255]
    for image in (Image.fromarray(levels), Image.fromarray(levels.astype(np.int32))):
        np.testing.assert_array_equal(np.asarray(decode(image))[0, :, 0], wanted)
    for form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(np.asarray(decode(encoded(Image.fromarray(levels), form)))[0, :, 1], wanted)
    with pytest.raises(MediaError, match="70000"):
        decode(Image.fromarray(np.array([[70000]], np.int32)))


def test_float_grey_is_read_from_zero_to_one() -> None:
    ours = decode(encoded(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), "TIFF"))
    np.testing.assert_array_equal(np.asarray(ours)[0, :, 2], [0, 128, 255])
    for bad in (3.0, np.nan):
        with pytest.raises(MediaError, match="mode F is read from 0 to 1"):
            decode(Image.fromarray(np.array([[0.0, bad]], np.float32)))


def test_cmyk_bilevel_and_grey_become_rgb() -> None:
    assert decode(encoded(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "TIFF")).getpixel((0, 0)) == (255, 0, 0)
    red = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)).getpixel((4, 4))
    assert red[0] > 240
    assert max(red[1:]) < 15
    assert decode(encoded(Image.new("1", (3, 2), 1))).getpixel((2, 1)) == (255, 255, 255)
    assert decode(encoded(Image.new("L", (3, 2), 77))).getpixel((2, 1)) == (77, 77, 77)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(form: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    ours = decode(encoded(frames[0], form, save_all=True, append_images=frames[1:], **options))
    assert ours.getpixel((1, 2)) == (255, 0, 0)


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    image = noise(5, 4)
    data = encoded(image)
    path = tmp_path / "odd: näme.png"
    path.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (data, path, str(path), url, image):
        np.testing.assert_array_equal(np.asarray(decode(source)), np.asarray(image))
        assert measure(source) == (4, 5)


def refused(source: object, *words: str, **options: int) -> None:
    for work in (decode, measure):
        with pytest.raises(MediaError) as error:
            work(source, "train.jsonl row 17", **options)
        for word in ("train.jsonl row 17", *words):
            assert word in str(error.value)


def test_files_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    page = tmp_path / "photo.jpg"
    page.write_text("<!DOCTYPE html><title>404</title>")
    refused(page, "photo.jpg", "a web page")
    page.write_text("owl\n")
    refused(page, "text that begins 'owl")
    page.write_bytes(b"")
    refused(page, "an empty file")
    refused(b"\x00\x01\xff" * 9, "00 01 ff")
    refused(tmp_path, "a folder")
    refused(tmp_path / "none.png", "none.png", "missing")
    refused(Path("/dev/zero"), "not a regular file")
    refused("https://example.org/owl.png", "not fetched")
    refused("data:image/png;base64,@@", "not base64")
    refused("data:image/png,owl", "data URL")
    refused(17, "path, bytes")
    refused(Image.new("RGB", (0, 5)), "5x0")
    refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture")  # would run a program


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_files_are_refused(form: str) -> None:
    data = encoded(noise(64, 64), form)
    for keep in (len(data) // 2, 12):
        with pytest.raises(MediaError, match="row 3"):
            decode(data[:keep], "row 3")


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_bombs_are_errors_and_not_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(bomb(12_000, 12_000), "12000x12000", "over the limit of 1000000", limit=1_000_000)
        refused(bomb(60_000, 60_000))
        refused(encoded(noise(11, 10)), "10x11", "limit of 109", limit=109)
        decode(encoded(noise(11, 10)), limit=110)
        assert measure(bomb(12_000, 12_000)) == (12_000, 12_000)


def test_random_damage_gives_a_picture_or_a_media_error() -> None:
    rng = np.random.default_rng(1)
    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "ICO", "QOI", "TGA", "JPEG2000", "AVIF"):
        data = encoded(noise(16, 16), form)
        for _ in range(25):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 3):
                broken[at] = rng.integers(256)
            try:
                assert decode(bytes(broken), "row 1", limit=10_000).mode == "RGB"
            except MediaError as error:
                assert "row 1" in str(error)  # noqa: PT017


def test_the_callers_picture_stays_open_and_unchanged() -> None:
    image = noise(3, 2)
    before = image.tobytes()
    decode(image).putpixel((0, 0), (1, 2, 3))
    assert image.tobytes() == before


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "QOI", "TGA", "JPEG2000", "AVIF", "ICO"])
def test_a_picture_is_there_after_its_file_is_closed(form: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encoded(noise(16, 16), form))
    with Image.open(path) as image:
        wanted = np.asarray(image.convert("RGB"))
    ours = decode(path)
    path.unlink()
    assert ours.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(ours), wanted)
    np.testing.assert_array_equal(np.asarray(ours.resize((16, 16))), wanted)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_picture_that_was_turned_is_not_turned_again(form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    ours = decode(encoded(noise(5, 3), form, exif=exif))
    assert ours.size == decode(ours).size == (3, 5)
    assert measure(ours) == (5, 3)
    np.testing.assert_array_equal(np.asarray(decode(ours)), np.asarray(ours))


def test_digests_tell_content_and_preparation_apart(tmp_path: Path) -> None:
    first, second = Pixels(4, 4, **CLIP), Pixels(4, 4, fit="crop", **CLIP)
    a, b = noise(5, 4, 1), noise(5, 4, 2)
    flat = Image.new("RGB", (2, 8)), Image.new("RGB", (8, 2))
    path = tmp_path / "a.png"
    path.write_bytes(encoded(a))
    seen = {digest(source, pixels) for source in (a, b, *flat, encoded(a), encoded(b)) for pixels in (first, second)}
    assert len(seen) == 12
    assert all(len(one) == 64 for one in seen)
    assert digest(path, first) == digest(encoded(a), first) == digest(str(path), first)
    palette = [Image.new("P", (2, 2)) for _ in range(2)]
    palette[1].putpalette([1, 2, 3])
    assert digest(palette[0], first) != digest(palette[1], first)


def test_media_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(MediaError("row 3 (a.png): missing")))
    assert isinstance(error, ValueError)
    assert str(error) == "row 3 (a.png): missing"


def test_a_size_stands_for_a_picture_and_holds_no_pixels() -> None:
    assert measure(Sized(30, 40)) == (30, 40)
    for size, says in ((Sized(0, 4), "has no pixels"), (Sized(99_999, 99_999), "over the limit")):
        with pytest.raises(MediaError, match=f"row 3.*{says}"):
            measure(size, "row 3")
    with pytest.raises(MediaError, match="a picture is a path, bytes or a data URL"):
        decode(Sized(30, 40))
