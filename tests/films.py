"""Tiny real videos, written on the spot: frame number k is all of one grey, `level(k)`, with a white left upper corner."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def level(number: int) -> int:
    return 20 + 7 * number % 200


def frame(number: int, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3)"""
    height, width = size
    made = np.full((height, width, 3), level(number), np.uint8)
    made[: height // 2, : width // 2] = 255
    return made


def film(
    path: Path,
    count: int,
    *,
    size: tuple[int, int] = (32, 48),
    fps: int = 8,
    codec: str = "mpeg4",
    format: str = "mp4",
    turned: int = 0,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """Written to the path; returns the content.

    Args:
        turned: degrees counterclockwise that a player is told to turn it by.
        times: of the frames, in 1 / fps seconds, where they are no steady beat.
    """
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        stream.bit_rate = 2_000_000
        if turned:
            stream.set_display_rotation(turned)
        for number in range(count):
            one = av.VideoFrame.from_ndarray(frame(number, size), format="rgb24")
            one.pts, one.time_base = (times[number] if times else number), Fraction(1, fps)
            container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return path.read_bytes()


def sound(path: Path) -> bytes:
    """No picture in it."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        one = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        one.sample_rate = 8000
        container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return path.read_bytes()


def shown(image: Image.Image) -> int:
    """The grey of the right lower corner."""
    return int(np.asarray(image)[-3:, -3:].mean().round())
