"""The compressor of pages against a golden of DocOwl 2's remote code, and against one page at a time."""

import pytest
import torch

from scops.connectors.doc_compressor import CompressorSpec, DocCompressor
from scops.core.batch import Tiles
from scops.core.layout import Cut
from scops.systems import docowl2
from tests.conftest import Golden, close, randomise


def pages(*grids: tuple[int, int]) -> Tiles:
    return Tiles.of([Cut(grid, ((1, 1),), "first").places for grid in grids])


@torch.no_grad()
def test_pages_equal_the_reference() -> None:
    golden = Golden("docowl2_compressor")
    config, tiles = golden.config, pages(*map(tuple, golden.config["grids"]))
    spec = CompressorSpec(
        config["high_reso_cross_hid_size"], config["layer"], config["high_reso_cross_num_att_heads"],
        config["layer_norm_eps"],
    )  # fmt: skip
    published = golden.inputs["patch_positions"]
    whole = published == config["anchor_max"]
    assert torch.equal(torch.where(whole.all(1, keepdim=True), -1, published), tiles.place_I2)
    compressor = DocCompressor(spec, columns=config["v2t_img_col_tokens"])
    compressor.load_state_dict(docowl2.COMPRESSOR.load(golden.weights))
    assert close(compressor(golden.inputs["hidden_states"], tiles), golden.outputs["output"])


@pytest.mark.parametrize("cells", [(4, 2), (6, 3), (5, 1)])
@torch.no_grad()
def test_pages_of_different_grids_in_a_batch_equal_each_alone(cells: tuple[int, int]) -> None:
    rows, columns = cells
    compressor = randomise(DocCompressor(CompressorSpec(dim=8, layers=2, heads=2), columns=columns))
    grids = [(1, 1), (3, 4), (1, 5), (2, 2), (12, 1)]
    tiles = pages(*grids)
    tokens = torch.randn(sum(tiles.count_M), rows * columns + 1, 8)
    together = compressor(tokens, tiles)
    for grid, one, made in zip(grids, tokens.split(tiles.count_M), together, strict=True):
        assert close(made, compressor(one, pages(grid))[0])


@torch.no_grad()
def test_a_cell_hears_of_the_place_behind_it_and_of_no_other() -> None:
    rows, columns, grid = 4, 2, (2, 3)
    compressor = randomise(DocCompressor(CompressorSpec(dim=8, layers=2, heads=2), columns=columns))
    tiles = pages(grid)
    tokens = torch.randn(7, rows * columns + 1, 8)
    before = compressor(tokens, tiles)[0]
    row, column = 5, 4  # in the map of 2 * 4 rows and 3 * 2 columns
    tile, cell = 1 + (row // rows) * grid[1] + column // columns, (row % rows) * columns + column % columns
    tokens[tile, cell] = torch.randn(8)
    changed = (compressor(tokens, tiles)[0] - before).abs().amax(1) > 1e-4
    assert changed.nonzero().flatten().tolist() == [(row // grid[0]) * columns + column // grid[1]]


def test_a_page_that_was_not_cut_is_refused() -> None:
    compressor = DocCompressor(CompressorSpec(dim=8, heads=2), columns=2)
    with pytest.raises(ValueError, match="page 1 is made of 1 prepared pictures"):
        compressor(torch.zeros(4, 9, 8), Tiles.of([Cut((1, 2), ((1, 1),), "first").places, ((-1, -1),)]))
