"""Large pictures as tiles of one size, and the whole picture as one more: the rules that choose a grid, and the pixels.

The rules know sizes only. Grids are (rows, columns), tiles stand row by row.
"""

# I prepared pictures, C channels, G grids
from dataclasses import dataclass
from math import ceil, inf

import numpy as np
from PIL import Image

from scops.core.layout import Cut, Pixels
from scops.data.image import prepare
from scops.data.resize import normalise, resizer

Size = tuple[int, int]
"""(height, width)."""


@dataclass(frozen=True)
class BestFit:
    """The grid that keeps most of the picture's pixels, then the one that wastes least (LLaVA-NeXT, "any resolution").

    The aspect is kept, the whole picture stands first. Source: haotian-liu/LLaVA, mm_utils.select_best_resolution.
    """

    side: int
    grids: tuple[tuple[int, int], ...]

    def __call__(self, height: int, width: int) -> Cut:
        rows, columns = grid = min(self.grids, key=lambda grid: self._worth(grid, height, width))  # first of equals
        high, wide = rows * self.side, columns * self.side
        scale = min(high / height, wide / width)
        size = min(ceil(height * scale), high), min(ceil(width * scale), wide)
        return Cut(grid, (size,), whole="first", size=(height, width))

    def _worth(self, grid: tuple[int, int], height: int, width: int) -> tuple[float, float]:
        """Negative kept pixels, wasted pixels."""
        high, wide = grid[0] * self.side, grid[1] * self.side
        scale = min(wide / width, high / height)
        kept = min(int(width * scale) * int(height * scale), height * width)
        return (-kept, high * wide - kept) if kept else (0, inf)


@dataclass(frozen=True)
class AnchorFit:
    """The grid whose box overlaps most with the picture's shape, then with the picture itself; the aspect is not kept.

    score = 100 IoU(grid, picture at the grid's width) + IoU(grid, picture), of boxes that share a corner; the first of
    equals counts. Source: UReader (arXiv 2310.05126, section 3.1; the factor 100 stands in the code), DocOwl, mPLUG-Owl3.

    Args:
        whole: where the whole picture stands, "first", "last" or "" for nowhere.
    """

    side: int
    grids: tuple[tuple[int, int], ...]
    whole: str = "first"

    def __call__(self, height: int, width: int) -> Cut:
        boxes_G2 = np.array(self.grids, np.int64) * self.side
        shape_G = np.trunc(height / width * boxes_G2[:, 1]).astype(np.int64)
        shaped = _overlap(boxes_G2, np.stack([shape_G, boxes_G2[:, 1]], 1))
        score_G = np.float32(100) * shaped + _overlap(boxes_G2, np.array([[height, width]]))
        rows, columns = self.grids[int(score_G.argmax())]
        return Cut((rows, columns), ((rows * self.side, columns * self.side),), self.whole)


def _overlap(a_G2: np.ndarray, b_G2: np.ndarray) -> np.ndarray:
    """Intersection over union, float32 as published."""
    areas = a_G2.prod(1) + b_G2.prod(1)
    shared = np.minimum(a_G2, b_G2).prod(1)
    return shared.astype(np.float32) / ((areas - shared).astype(np.float32) + np.float32(1e-5))


@dataclass(frozen=True)
class LongSide:
    """The longer side to a fixed length, then both sides up to whole tiles (Idefics3, arXiv 2408.12637; SmolVLM).

    The whole picture stands last and is made of the tiles' picture; a picture of one tile stands alone.
    """

    side: int
    longest: int
    limit: int = 4096

    def __call__(self, height: int, width: int) -> Cut:
        first = _within(*_to_length(height, width, self.longest), self.limit)
        second = self._whole_tiles(*first)
        grid = second[0] // self.side, second[1] // self.side
        return Cut(grid, (first, second), "last" if grid != (1, 1) else "", 2)

    def _whole_tiles(self, height: int, width: int) -> Size:
        aspect = width / height
        if width >= height:
            width = ceil(width / self.side) * self.side
            return ceil(int(width / aspect) / self.side) * self.side, width
        height = ceil(height / self.side) * self.side
        return height, ceil(int(height * aspect) / self.side) * self.side


def tiles(image: Image.Image, pixels: Pixels, cut: Cut, *, name: str = "") -> np.ndarray:
    """(I, C, height, width) float32, as `prepare` makes one picture; of `pixels` the size is a tile's.

    Args:
        image: upright RGB, as `decode` gives it.
        cut: what a rule says of (image.height, image.width).
    """
    if not cut.steps:
        return prepare(image, pixels, name=name)[None]
    if pixels.fit != "stretch":
        raise ValueError(f"tiles are cut after stretching; pixels with fit {pixels.fit!r} have no tiles")
    by = resizer(pixels.resize, pixels.resample)
    stages = [by.taken(image)]
    for size in cut.steps:
        stages.append(by.resized(stages[-1], *size))
    made = np.empty((len(cut), 3, pixels.height, pixels.width), np.float32)
    if cut.whole:
        whole = by.resized(stages[cut.whole_after], pixels.height, pixels.width)
        normalise(by.levels(whole), pixels, made[0 if cut.whole == "first" else -1])
    _spread(by.levels(stages[-1]), pixels, cut, made[1:] if cut.whole == "first" else made)
    return made


def _spread(levels_CHW: np.ndarray, pixels: Pixels, cut: Cut, made: np.ndarray) -> None:
    """The picture in the middle of the grid, each tile written once."""
    (rows, columns), (_, height, width) = cut.grid, levels_CHW.shape
    above, beside = (rows * pixels.height - height) // 2, (columns * pixels.width - width) // 2
    black = normalise(np.zeros((3, 1, 1), np.uint8), pixels, np.empty((3, 1, 1), np.float32))
    for number in range(rows * columns):
        top, left = number // columns * pixels.height - above, number % columns * pixels.width - beside
        down, right = slice(max(top, 0), top + pixels.height), slice(max(left, 0), left + pixels.width)
        part = levels_CHW[:, down, right]
        if part.shape[1:] != (pixels.height, pixels.width):
            made[number] = black
        at = down.start - top, right.start - left
        normalise(part, pixels, made[number, :, at[0] : at[0] + part.shape[1], at[1] : at[1] + part.shape[2]])


def _to_length(height: int, width: int, longest: int) -> Size:
    """The longer side exactly, the other rounded down and up to an even number."""
    aspect = width / height
    if width >= height:
        other = int(longest / aspect)
        return max(other + other % 2, 1), longest
    other = int(longest * aspect)
    return longest, max(other + other % 2, 1)


def _within(height: int, width: int, limit: int) -> Size:
    aspect = width / height
    if width >= height and width > limit:
        height, width = int(limit / aspect), limit
    elif height > width and height > limit:
        height, width = limit, int(limit * aspect)
    return max(height, 1), max(width, 1)
