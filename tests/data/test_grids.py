"""Published lists of grids, and what is chosen from them."""

import json

import numpy as np
import pytest

from scops.data.grids import GRIDS, grids, longest_side
from scops.data.tiling import AnchorFit
from tests.conftest import GOLDENS

TABLES = [
    (name, table)
    for name in ("docowl15_crops", "ureader_crops")
    for table in json.loads((GOLDENS / name / "crops.json").read_text())["tables"]
]
NAMES = {"release_yaml": "grid_20", "class_default": "grid_9"}  # UReader's


@pytest.mark.parametrize(("folder", "table"), TABLES, ids=lambda x: x if isinstance(x, str) else x["name"])
def test_lists_and_choices_are_the_published_ones(folder: str, table: dict) -> None:
    name = table["name"].split("@")[0]
    ours = grids(NAMES.get(name, name))
    assert list(ours) == [tuple(grid) for grid in table["anchors"]]
    rule = AnchorFit(table["image_size"], ours)
    for case in table["cases"]:
        assert rule(case["height"], case["width"]).grid == (case["rows"], case["cols"]), case


def test_the_whole_view_of_ureader_has_the_published_index_and_order() -> None:
    (table,) = (table for _, table in TABLES if table["name"] == "release_yaml@224")
    for case in table["patch_positions"]:
        cut = AnchorFit(case["image_size"], grids("grid_20"))(case["height"], case["width"])
        made = np.array(cut.places)
        made[made < 0] = longest_side("grid_20")
        assert made.tolist() == case["patch_positions"]


@pytest.mark.parametrize(("name", "most"), [("grid_4", 4), ("grid_9", 9), ("grid_12", 12), ("grid_20", 20)])
def test_lists_hold_each_grid_once_and_none_of_more_tiles(name: str, most: int) -> None:
    sides = range(1, most + 1)
    every = {(rows, columns) for rows in sides for columns in sides if rows * columns <= most}
    assert len(set(GRIDS[name])) == len(GRIDS[name])
    assert set(GRIDS[name]) <= every
    if name != "grid_20":
        assert set(GRIDS[name]) == every


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="grid_9"):
        grids("grid9")
