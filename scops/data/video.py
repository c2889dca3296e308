"""Videos: any file that people have -> how many frames it shows, and chosen ones of them as upright RGB pictures.

Frames are counted in the container, without decoding. Decoding keeps the chosen frames alone. Rotation that a phone wrote
beside the frames is applied. Containers that point to other files are not read.
"""

# k-th frame: counted from 0 in the order in which they are shown
import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from scops.data.errors import MediaError
from scops.data.source import Stored, content, content_hash, existing, is_url, looks, where

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv", ".3gp")
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,gif,h264,hevc"
"""FFmpeg's names of what is read; playlists (HLS, DASH, concat) are not among them."""
PIXEL_LIMIT = 178_956_970
"""A video of more pixels per frame is refused before it is decoded."""

HEAD = 4096
"""Bytes of a file that are looked at first."""

_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


def is_video(source: object) -> bool:
    """By a file's name, or by what a data URL says that it holds; bytes alone do not tell."""
    if isinstance(source, str) and is_url(source):
        return source.startswith("data:video/")
    return isinstance(source, Path | str) and Path(source).suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class Facts:
    """What is known without decoding.

    Args:
        count: frames; fps: of them a second, on average.
    """

    count: int
    fps: float


def facts(source: Stored | Facts, name: str = "") -> Facts:
    """By walking through the container's packets; facts alone, in place of a video, can be counted and not decoded.

    Raises:
        MediaError: naming row and file; also where the file ends before it says that it does (streams do not say it).
    """
    if isinstance(source, Facts):
        return source
    with _opened(source, name) as (container, stream):
        count = _walked(container, stream)
        if not count:
            raise MediaError(f"{where(source, name)}: the video has no frames")
        return Facts(count, _fps(container, stream, count))


def frames(source: Stored, numbers: Sequence[int], name: str = "") -> list[Image.Image]:
    """The frames of these numbers, ascending; a number that stands twice gives its frame twice.

    Raises:
        MediaError: naming row and file; also where fewer frames can be decoded than the container says.
    """
    assert list(numbers) == sorted(numbers), "frames are asked for in their order"
    wanted, made, seen = set(numbers), {}, 0
    with _opened(source, name) as (container, stream):
        for frame in container.decode(stream):
            if seen in wanted:
                made[seen] = _upright(frame)
            seen += 1
            if len(made) == len(wanted):
                break
    if len(made) < len(wanted):
        raise MediaError(
            f"{where(source, name)}: the video says that it has frame {max(numbers)}, but only {seen} frames can be decoded"
        )
    return [made[number] for number in numbers]


def digests(source: Stored, numbers: Sequence[int], preparation: object, name: str = "") -> tuple[str, ...]:
    """One for each chosen frame: the content, all that was chosen, and its place among them.

    Also of a frame that stands twice, because an encoder that sees several frames makes something else of each.
    """
    head = content_hash(source, name, "video"), tuple(numbers), repr(preparation)
    return tuple(hashlib.sha256(repr((head, place)).encode()).hexdigest() for place in range(len(numbers)))


@contextmanager
def _opened(source: Stored, name: str) -> Iterator[tuple[Any, Any]]:
    """(container, its video stream); whatever goes wrong inside becomes a MediaError."""
    import av  # slow to import, and only videos need it

    here = where(source, name)
    in_memory = isinstance(source, bytes) or (isinstance(source, str) and is_url(source))
    raw = content(source, name, "video") if in_memory else b""
    size = len(raw) if in_memory else existing(source, name, "video").stat().st_size
    with io.BytesIO(raw) if in_memory else existing(source, name, "video").open("rb") as file:
        start = file.read(HEAD)
        file.seek(0)
        if not start:
            raise MediaError(f"{here}: this is not a whole video but an empty file")
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": ""}
        try:
            with av.open(file, container_options=options) as container:
                shown = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
                if not shown:
                    raise MediaError(f"{here}: there is no video in it, only {_streams(container)}")
                stream = shown[0]
                high, wide = stream.codec_context.height, stream.codec_context.width
                if high * wide > PIXEL_LIMIT:
                    raise MediaError(f"{here}: the video is {high}x{wide}, over the limit of {PIXEL_LIMIT} pixels")
                end = max(_end(start), *(entry.pos + entry.size for entry in stream.index_entries), 0)
                if end > size:
                    raise MediaError(f"{here}: the file is cut off: the video reaches to byte {end}, but it has {size}")
                stream.thread_type = "AUTO"
                yield container, stream
        except MediaError:
            raise
        except (av.error.InvalidDataError, av.error.ArgumentError) as error:
            raise MediaError(f"{here}: this is not a whole video but {looks(start[:64])}: {error.strerror}") from error
        except Exception as error:  # hostile files make decoders raise anything
            raise MediaError(f"{here}: the video cannot be read: {error or type(error).__name__}") from error


def _streams(container: Any) -> str:
    return ", ".join(stream.type for stream in container.streams) or "nothing"


def _end(start: bytes) -> int:
    """Where a file says that it ends: AVI in its RIFF header, Matroska and WebM (EBML, RFC 8794) in their segment's; else 0."""
    if start.startswith(b"RIFF"):
        return 8 + int.from_bytes(start[4:8], "little")
    if not start.startswith(b"\x1a\x45\xdf\xa3"):
        return 0
    header, at = _size(start, 4)
    segment = at + (header or 0)
    if start[segment : segment + 4] != b"\x18\x53\x80\x67":
        return 0
    size, at = _size(start, segment + 4)
    return 0 if size is None else at + size


def _size(data: bytes, at: int) -> tuple[int | None, int]:
    """(an EBML element's size, where its data begins); the size is None when unknown."""
    if at >= len(data) or not data[at]:
        return None, at
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length]) - (1 << 7 * length)
    return (None if value == (1 << 7 * length) - 1 else value), at + length


def _walked(container: Any, stream: Any) -> int:
    """Packets that are shown; one packet is one frame."""
    count = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ValueError(f"the file is cut off or damaged after {count} frames")
        count += packet.size > 0 and not packet.is_discard
    return count


def _fps(container: Any, stream: Any, count: int) -> float:
    rate: Fraction | None = stream.average_rate or stream.guessed_rate or stream.base_rate
    if rate:
        return float(rate)
    seconds = (container.duration or 0) / 1_000_000
    return count / seconds if seconds > 0 else float(count)


def _upright(frame: Any) -> Image.Image:
    turn = _TURNS.get(round(frame.rotation / 90) * 90 % 360)
    image = frame.to_image()
    return image if turn is None else image.transpose(turn)
