"""Large pictures as tiles on both sides: scops.data.tiling and transformers' Pillow processors of LLaVA-NeXT and Idefics3."""

# M tiles, C channels
import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from transformers import Idefics3ImageProcessorPil, LlavaNextImageProcessorPil

from scops.core.layout import Pixels
from scops.data.image import decode
from scops.data.tiling import BestFit, Cut, LongSide, tiles

GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (2, 4), (4, 2))
"""Those of LLaVA-1.6, and the two of eight tiles, which with the whole picture make nine."""
CLOSE = 0.035
"""How far torch's resize may be from Pillow's after normalisation: two levels of 255."""


@dataclass(frozen=True)
class Tiled:
    """One way to cut, on both sides."""

    name: str
    rule: Callable[[int, int], Cut]
    pixels: Pixels
    peer: LlavaNextImageProcessorPil | Idefics3ImageProcessorPil

    def ours(self, file: bytes, resize: str = "pillow") -> np.ndarray:
        """(M, C, height, width)"""
        image = decode(file)
        return tiles(image, replace(self.pixels, resize=resize), self.rule(image.height, image.width))

    def theirs(self, file: bytes) -> np.ndarray:
        return self.peer(Image.open(io.BytesIO(file)), return_tensors="np")["pixel_values"][0]


def llava_next(side: int, pixels: Pixels) -> Tiled:
    """Args:
    pixels: whose mean and deviation are taken.
    """
    points = [[rows * side, columns * side] for rows, columns in GRIDS]
    square = {"height": side, "width": side}
    peer = LlavaNextImageProcessorPil(size={"shortest_edge": side}, crop_size=square, image_grid_pinpoints=points)
    return Tiled("LLaVA-NeXT", BestFit(side, GRIDS), replace(pixels, height=side, width=side, fit="stretch"), peer)


def idefics3(side: int) -> Tiled:
    """Its published proportion: four tiles along the longer side."""
    half = (0.5, 0.5, 0.5)
    peer = Idefics3ImageProcessorPil(size={"longest_edge": 4 * side}, max_image_size={"longest_edge": side})
    return Tiled("Idefics3", LongSide(side, 4 * side), Pixels(side, side, half, half, resample="lanczos"), peer)


def check_tiles(files: list[bytes], tiled: Tiled, resize: str) -> str:
    """Every number is equal to the bit where Pillow resizes, close where torch does."""
    furthest = 0.0
    for at, file in enumerate(files):
        mine, other = tiled.ours(file, resize), tiled.theirs(file)
        if (mine.dtype, mine.shape) != (other.dtype, other.shape):
            raise ValueError(f"picture {at}: {mine.dtype} {mine.shape}, theirs {other.dtype} {other.shape}")
        furthest = max(furthest, float(np.abs(mine - other).max()))
    if furthest > (CLOSE if resize == "torch" else 0):
        raise ValueError(f"tiles resized by {resize} differ by {furthest:.3g}")
    return f"{len(files)} pictures equal to the bit" if not furthest else f"numbers differ by {furthest:.3f} at most"
