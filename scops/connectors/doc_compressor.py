"""DocOwl 2's high-resolution compressor (arXiv 2409.03420, section 3.2; remote code of mPLUG/DocOwl2, visual_compressor.py).

A page is its whole view and its tiles. Each cell of the whole view asks the cells of the tiles that show the same place.
"""

# M pages, I pictures of all pages, J tiles of them, Q cells of a picture, R rows and C columns of these cells,
# K cells of the tiles behind one of the page's, D width
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

import torch
from torch import Tensor, nn

from scops.connectors.abstractor import QueryLayer
from scops.core.batch import Tiles
from scops.nn.tiled import Tiled


@dataclass(frozen=True)
class CompressorSpec:
    """Args:
    dim: the language model's width, in which the H-Reducer's tokens stand.
    eps: of the norm inside the feed-forward; the other norms have 1e-5.
    """

    dim: int = 4096
    layers: int = 2
    heads: int = 16
    eps: float = 1e-6

    @property
    def hidden(self) -> int:
        """Of the feed-forward: two thirds of four widths, up to the next 256."""
        return 256 * ceil(int(8 * self.dim / 3) / 256)


class CompressorLayer(QueryLayer):
    """Queries see the features alone: keys = norm_features(f)."""

    def __init__(self, spec: CompressorSpec):
        super().__init__(spec.dim, hidden=spec.hidden, heads=spec.heads, eps=spec.eps)

    def forward(self, queries_MQD: Tensor, features_MKD: Tensor, visible: Tensor | None = None) -> Tensor:
        x_MQD, keys_MKD = self.norm_queries(queries_MQD), self.norm_features(features_MKD)
        return self.answered(x_MQD, x_MQD, keys_MKD, keys_MKD, visible)


class DocCompressor(Tiled):
    """The whole view's cells, each after asking the R * C cells of the tiles behind it; a last learned token ends the page.

    forward: tokens (I, Q + 1, D) with an end token each, which is dropped -> (M, Q + 1, D)

    Args:
        columns: of a picture's cells, which stand row by row.
    """

    def __init__(self, spec: CompressorSpec, *, columns: int):
        super().__init__()
        self.columns = columns
        self.layers = nn.ModuleList(CompressorLayer(spec) for _ in range(spec.layers))
        self.project = nn.Linear(spec.dim, spec.dim)
        self.end = nn.Parameter(torch.zeros(1, 1, spec.dim))

    def forward(self, tokens_IQD: Tensor, tiles: Tiles) -> Tensor:
        cells_IQD, whole_M = tokens_IQD[:, :-1], list(accumulate(tiles.count_M, initial=0))[:-1]
        x_MQD = cells_IQD[torch.tensor(whole_M, device=cells_IQD.device)]
        keys, visible = self.behind(cells_IQD, tiles)
        x = x_MQD.flatten(0, 1)[:, None]  # every cell of every page asks for itself
        for layer in self.layers:
            x = layer(x, keys, visible)
        x_MQD = self.project(x[:, 0].unflatten(0, x_MQD.shape[:2]))
        return torch.cat([x_MQD, self.end.expand(len(x_MQD), -1, -1)], 1)

    def behind(self, cells_IQD: Tensor, tiles: Tiles) -> tuple[Tensor, Tensor]:
        """What lies behind each cell of each page, (M * Q, K, D), and which of it is real, bool (M * Q, 1, 1, K).

        All tiles of a page together are a map of R * rows by C * columns cells; R * C of them lie behind one of the page's.
        """
        device, pages, most = cells_IQD.device, len(tiles.count_M), max(tiles.count_M) - 1
        rows, columns = cells_IQD.shape[1] // self.columns, self.columns
        page_J, at_J = (torch.tensor(numbers, device=device) for numbers in _tiles_of(tiles.count_M))
        place_J2 = tiles.place_I2[at_J]
        grid_M2 = torch.tensor(tiles.grid_M, device=device)
        high_J1, wide_J1 = grid_M2[page_J].split(1, dim=1)
        row_JR = place_J2[:, :1] * rows + torch.arange(rows, device=device)  # in the page's map
        column_JC = place_J2[:, 1:] * columns + torch.arange(columns, device=device)
        cell_JRC = (row_JR // high_J1 * columns)[:, :, None] + (column_JC // wide_J1)[:, None]
        slot_JRC = (row_JR % high_J1 * wide_J1)[:, :, None] + (column_JC % wide_J1)[:, None]
        to_JRC = ((page_J * rows * columns)[:, None, None] + cell_JRC) * most + slot_JRC
        keys = cells_IQD.new_zeros(pages * rows * columns * most, cells_IQD.shape[2])
        keys = keys.index_copy(0, to_JRC.flatten(), cells_IQD[at_J].flatten(0, 1)).unflatten(0, (-1, most))
        tiles_M1 = torch.tensor(tiles.count_M, device=device)[:, None] - 1
        real_MK = torch.arange(most, device=device) < tiles_M1
        return keys, real_MK.repeat_interleave(rows * columns, 0)[:, None, None]


def _tiles_of(count_M: Sequence[int]) -> tuple[list[int], list[int]]:
    """Of each tile the page's number and its own among all pictures; a page's first picture is its whole view."""
    for page, count in enumerate(count_M):
        if count < 2:
            raise ValueError(
                f"page {page} is made of {count} prepared pictures; it needs its whole view first and then its tiles, "
                "so the layout must cut every page"
            )
    pictures = [(page, number) for page, count in enumerate(count_M) for number in range(count)]
    tiles = [(page, at) for at, (page, number) in enumerate(pictures) if number]
    return [page for page, _ in tiles], [at for _, at in tiles]
