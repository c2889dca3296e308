"""Several views of a picture as one run of tokens (LLaVA-NeXT; haotian-liu/LLaVA, llava/model/llava_arch.py).

The whole picture is the first view; then come the tiles, row by row.
"""

# M items, I views of all items, V views of one, P features per view, Q tokens of an item, R rows and C columns of a map, D width
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scops.core.batch import Extent, Tiles
from scops.nn.tiled import Tiled


class Views(Tiled):
    """merge(project(features)) of each item.

    forward: (I, P, D) -> (Q, out) of each item
    """

    def __init__(self, project: nn.Module, merge: nn.Module):
        super().__init__()
        self.project, self.merge = project, merge

    def forward(self, features_IPD: Tensor, tiles: Tiles) -> Sequence[Tensor]:
        items = self.project(features_IPD).split(tiles.count_M)
        return [self.merge(*item) for item in zip(items, tiles.grid_M, tiles.extent_M, strict=True)]


class Flat(nn.Module):
    """View behind view. forward: (V, P, D), grid, extent -> (Q, D)"""

    def forward(self, views_VPD: Tensor, grid: tuple[int, int], extent: Extent) -> Tensor:
        return views_VPD.flatten(0, 1)


class Spatial(nn.Module):
    """The whole view, then the tiles' features as one map, row by row. forward: (V, P, D), grid, extent -> (Q, D)"""

    def forward(self, views_VPD: Tensor, grid: tuple[int, int], extent: Extent) -> Tensor:
        whole_PD, *tiles = views_VPD
        return torch.cat([whole_PD, laid(views_VPD[1:], grid).flatten(0, 1)]) if tiles else whole_PD


class SpatialUnpad(nn.Module):
    """The whole view, then of the map what shows the picture, and a learned token at the end of each of its rows.

    A view alone has one such token behind it. forward: (V, P, D), grid, extent -> (Q, D)
    """

    def __init__(self, width: int):
        super().__init__()
        self.newline = nn.Parameter(torch.zeros(width))

    def forward(self, views_VPD: Tensor, grid: tuple[int, int], extent: Extent) -> Tensor:
        whole_PD = views_VPD[0]
        if len(views_VPD) == 1:
            return torch.cat([whole_PD, self.newline[None]])
        map_RCD = laid(views_VPD[1:], grid)
        map_RCD = map_RCD if extent is None else middle(map_RCD, extent)
        ends_R1D = self.newline.expand(len(map_RCD), 1, -1)
        return torch.cat([whole_PD, torch.cat([map_RCD, ends_R1D], 1).flatten(0, 1)])


def laid(tiles_VPD: Tensor, grid: tuple[int, int]) -> Tensor:
    """(R, C, D): square tiles of a grid side by side."""
    side = round(tiles_VPD.shape[1] ** 0.5)
    map_RCD = tiles_VPD.unflatten(0, grid).unflatten(2, (side, side)).transpose(1, 2)
    return map_RCD.flatten(2, 3).flatten(0, 1)


def middle(map_RCD: Tensor, extent: tuple[int, int]) -> Tensor:
    """So many rows and columns, with as much left out on either side."""
    (rows, columns), (high, wide, _) = extent, map_RCD.shape
    top, left = (high - rows) // 2, (wide - columns) // 2
    return map_RCD[top : top + rows, left : left + columns]


MERGES = {
    "flat": lambda width: Flat(),
    "spatial": lambda width: Spatial(),
    "spatial_unpad": SpatialUnpad,
}
"""By the published name (`mm_patch_merge_type`), made for a width."""
