"""Grids and tiles are those of transformers' Pillow processors and of the mPLUG family's code, for pictures of every shape."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from scops.core.layout import UNCUT, WHOLE, Cut, Pixels
from scops.data.image import prepare
from scops.data.tiling import AnchorFit, BestFit, LongSide, tiles
from tests.conftest import GOLDENS

SIDE = 14
GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # those of LLaVA-1.6
TILE = Pixels(SIDE, SIDE, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = replace(TILE, mean=(0.5,) * 3, std=(0.5,) * 3, resample="lanczos")
SIZES = [(1, 1), (1, 60), (60, 1), (13, 15), (14, 14), (28, 14), (27, 29), (41, 43), (42, 14), (97, 31), (33, 90)]


def noise(high: int, wide: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(high * 999 + wide).integers(0, 256, (high, wide, 3), dtype=np.uint8))


def odd_sizes(count: int, limit: int, seed: int = 0) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in np.random.default_rng(seed).integers(1, limit, (count, 2))]


def llava_next(image: Image.Image) -> np.ndarray:
    points = [[rows * SIDE, columns * SIDE] for rows, columns in GRIDS]
    square = {"height": SIDE, "width": SIDE}
    peer = LlavaNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square, image_grid_pinpoints=points)
    return peer(image, return_tensors="np")["pixel_values"][0]


def idefics3(image: Image.Image, longest: int) -> np.ndarray:
    peer = Idefics3ImageProcessorPil(size={"longest_edge": longest}, max_image_size={"longest_edge": SIDE})
    return peer(image, return_tensors="np")["pixel_values"][0]


def test_the_best_fitting_grid_is_llava_nexts() -> None:
    grids = (*GRIDS, (2, 4), (4, 2), (3, 3))
    points = [(rows * 336, columns * 336) for rows, columns in grids]
    rule = BestFit(336, grids)
    for size in [*odd_sizes(2000, 3000), *odd_sizes(500, 40, seed=1)]:
        rows, columns = rule(*size).grid
        assert (rows * 336, columns * 336) == (select_best_resolution(size, points) or points[0]), size


@pytest.mark.parametrize("size", [*SIZES, *odd_sizes(12, 90)])
def test_tiles_equal_llava_nexts(size: tuple[int, int]) -> None:
    cut = BestFit(SIDE, GRIDS)(*size)
    made = tiles(noise(*size), TILE, cut)
    assert len(made) == len(cut)
    np.testing.assert_array_equal(made, llava_next(noise(*size)))


@pytest.mark.parametrize("longest", [SIDE, 3 * SIDE, 4 * SIDE + 5])
@pytest.mark.parametrize("size", [*SIZES, *odd_sizes(9, 90)])
def test_tiles_equal_idefics3s(size: tuple[int, int], longest: int) -> None:
    cut = LongSide(SIDE, longest)(*size)
    made = tiles(noise(*size), HALF, cut)
    assert len(made) == len(cut)
    np.testing.assert_array_equal(made, idefics3(noise(*size), longest))


def test_a_picture_of_one_tile_has_no_second_look() -> None:
    assert LongSide(SIDE, SIDE)(9, 9) == Cut((1, 1), ((SIDE, SIDE), (SIDE, SIDE)), "", 2)
    assert len(BestFit(SIDE, ((1, 1),))(9, 9)) == 2


def test_long_sides_stop_at_the_limit() -> None:
    assert LongSide(64, 900, limit=256)(100, 1000).steps == ((25, 256), (64, 256))


def test_tiles_without_padding_put_together_are_the_resized_picture() -> None:
    image, plain = noise(40, 61), Pixels(5, 9, (0.0,) * 3, (1.0,) * 3)
    for pixels in (plain, replace(plain, resize="torch")):
        made = tiles(image, pixels, Cut((2, 3), ((10, 27),)))
        rows = [np.concatenate(list(made[start : start + 3]), axis=2) for start in (0, 3)]
        whole = tiles(image, replace(pixels, height=10, width=27), Cut((1, 1), ((10, 27),)))[0]
        np.testing.assert_array_equal(np.concatenate(rows, axis=1), whole)


@pytest.mark.parametrize("size", SIZES)
def test_torch_tiles_are_close_to_pillows(size: tuple[int, int]) -> None:
    image, cut = Image.fromarray(np.asarray(noise(3, 4))).resize(size[::-1], 3), BestFit(SIDE, GRIDS)(*size)
    fast = tiles(image, replace(TILE, resize="torch"), cut)
    assert np.abs(fast - tiles(image, TILE, cut)).max() <= 0.035


def test_pixels_that_do_not_stretch_are_refused() -> None:
    with pytest.raises(ValueError, match="fit 'crop'"):
        tiles(noise(9, 9), replace(TILE, fit="crop"), Cut((1, 1), ((9, 9),)))


@pytest.mark.parametrize("name", ["owl3_crops", "docowl15_crops", "ureader_crops"])
def test_the_grid_by_anchors_is_the_reference_s(name: str) -> None:
    for table in json.loads((GOLDENS / name / "crops.json").read_text())["tables"]:
        rule = AnchorFit(table["image_size"], tuple(map(tuple, table["anchors"])))
        for case in table["cases"]:
            assert rule(case["height"], case["width"]).grid == (case["rows"], case["cols"]), (table["name"], case)


def test_places_stand_in_the_order_of_the_pictures() -> None:
    tiles_23 = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
    assert Cut((2, 3), ((9, 9),), "first").places == (WHOLE, *tiles_23)
    assert Cut((2, 3), ((9, 9),), "last").places == (*tiles_23, WHOLE)
    assert Cut((1, 1), ((9, 9),)).places == ((0, 0),)
    assert UNCUT.places == (WHOLE,)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (20000, 30), (1, 1), (9, 9)])
def test_pieces_by_anchors_are_the_stretched_picture_and_its_parts(size: tuple[int, int]) -> None:
    image, cut = noise(*size), AnchorFit(SIDE, ((1, 1), (1, 3), (4, 1), (2, 2)))(*size)
    made, (rows, columns) = tiles(image, TILE, cut), cut.grid
    whole = prepare(image, replace(TILE, height=rows * SIDE, width=columns * SIDE))
    parts = whole.reshape(3, rows, SIDE, columns, SIDE).transpose(1, 3, 0, 2, 4).reshape(-1, 3, SIDE, SIDE)
    np.testing.assert_array_equal(made, np.concatenate([prepare(image, TILE)[None], parts]))


def test_a_picture_that_is_not_cut_is_prepared_whole() -> None:
    crop = replace(TILE, fit="crop")
    np.testing.assert_array_equal(tiles(noise(40, 30), crop, UNCUT), prepare(noise(40, 30), crop)[None])
