"""What DocOwl 2 computes from pages to logits, said once more: plain operations on weights by their published names.

From arXiv 2409.03420 section 3 and 2403.12895 section 3.1, X-PLUG/mPLUG-DocOwl (tower, H-Reducer, modality-adaptive layers) and the
remote code of mPLUG/DocOwl2 (compressor, one page after the other here).
"""

# J tiles of a page, P features per picture, Q cells of a picture, T tokens, D width
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, gelu

from scops.systems.docowl2 import Spec
from tests.systems.lavis_twin import Weights, attend, below, norm, project
from tests.systems.owl_twin import swiglu, tower

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def grid_of(width: int, height: int, grids: tuple[tuple[int, int], ...], side: int) -> tuple[int, int]:
    """Of (rows, columns) the first that overlaps most: 100 times with the page's shape, once with the page."""
    best, chosen = -1.0, grids[0]
    for rows, columns in grids:
        wide, high = columns * side, rows * side
        score = 0.0
        for weight, w, h in ((100, wide, int(height / width * wide)), (1, width, height)):
            shared = min(wide, w) * min(high, h)
            score += weight * shared / (wide * high + w * h - shared + 1e-5)
        if score > best:
            best, chosen = score, (rows, columns)
    return chosen


def cut(page: Image.Image, grid: tuple[int, int], side: int) -> Tensor:
    """(1 + J, 3, side, side): the whole page, then its tiles row by row."""
    rows, columns = grid
    large = page.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    views = [page.resize((side, side), Image.Resampling.BICUBIC)]
    for row in range(rows):
        for column in range(columns):
            views.append(large.crop((column * side, row * side, (column + 1) * side, (row + 1) * side)))
    pixels = torch.from_numpy(np.stack([np.asarray(view, np.float32) for view in views])) / 255
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def reduced(w: Weights, features: Tensor, spec: Spec) -> Tensor:
    """(1 + J, rows, columns, D): the H-Reducer's map; its end token is let go, and its norm never used."""
    kernel = spec.reducer.kernel
    side = spec.vision.image // spec.vision.patch
    maps = features[:, 1:].transpose(1, 2).reshape(len(features), -1, side, side)
    wide = gelu(conv2d(maps, w["reducer_before.0.weight"], w["reducer_before.0.bias"], stride=kernel))
    count, channels = kernel[0] * kernel[1], features.shape[-1]
    spread = torch.stack([wide[:, x * channels : (x + 1) * channels] for x in range(count)], -1).flatten(3)
    return project(
        w, "visual_fc", conv2d(spread, w["reducer.weight"], w["reducer.bias"], stride=kernel).permute(0, 2, 3, 1)
    )


def compressed(w: Weights, maps: Tensor, grid: tuple[int, int], spec: Spec) -> Tensor:
    """(Q + 1, D) of one page: each cell of the whole view asks those of the large map that lie behind it.

    Args:
        maps: of the whole view first, then of the tiles.
    """
    rows, columns = grid
    high, wide = maps.shape[1:3]
    large = torch.cat([torch.cat(list(maps[1 + row * columns : 1 + (row + 1) * columns]), 1) for row in range(rows)], 0)
    made = []
    for y in range(high):
        for x in range(wide):
            behind = large[y * rows : (y + 1) * rows, x * columns : (x + 1) * columns].flatten(0, 1)[None]
            made.append(asked(w, maps[0, y, x][None, None], behind, spec)[0, 0])
    return torch.cat([project(w, "compressor_fc", torch.stack(made)), w["compressor_eos"][0]])


def asked(w: Weights, x: Tensor, behind: Tensor, spec: Spec) -> Tensor:
    for number in range(spec.compressor.layers):
        layer = below(w, f"compressor_crossatt.layers.{number}.")
        x, keys = norm(layer, "norm1", x, 1e-5), norm(layer, "normk", behind, 1e-5)
        q, k, v = (
            project(layer, f"attention.{name}", of) for name, of in (("query", x), ("key", keys), ("value", keys))
        )
        x = x + project(layer, "output.out_proj", attend(q, k, v, spec.compressor.heads))
        x = x + swiglu(layer, x, spec.compressor.eps)
    return x


def page_tokens(w: Weights, page: Image.Image, grids: tuple[tuple[int, int], ...], spec: Spec) -> Tensor:
    grid = grid_of(*page.size, grids, spec.vision.image)
    features = tower(below(w, "model.vision_model."), cut(page, grid, spec.vision.image), spec.vision)
    maps = reduced(below(w, "model.vision2text."), features, spec)
    return compressed(below(w, "model.hr_compressor."), maps, grid, spec)
