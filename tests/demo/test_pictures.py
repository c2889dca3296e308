"""Where things end up in composed pictures."""

import math
import random

import numpy as np
import pytest
from PIL import Image

from scops.demo.pictures import GRIDS, Grid, affine, background, faces, font, scene, single, written

INK = (200, 0, 0)


def inked(picture: Image.Image) -> np.ndarray:
    return (np.abs(np.asarray(picture, np.int16) - INK) < 3).all(-1)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("seed", range(5))
def test_every_thing_of_a_scene_stands_inside_its_cell(grid: Grid, seed: int) -> None:
    dice = random.Random(seed)
    cells = sorted(dice.sample(range(len(grid.places)), 3))
    picture = scene([Image.new("RGBA", (40, 40), (*INK, 255))] * 3, cells, grid, 97, dice)
    found = inked(picture)
    edges = [round(i * 97 / grid.across) for i in range(grid.across + 1)]
    for cell in range(len(grid.places)):
        row, column = divmod(cell, grid.across)
        inside = found[edges[row] + 1 : edges[row + 1] - 1, edges[column] + 1 : edges[column + 1] - 1]
        assert (inside.mean() > 0.4) == (cell in cells)


def test_affine_takes_the_shifted_middle_to_the_middle_and_scales_and_turns() -> None:
    a, b, c, d, e, f = affine(100, 0.5, math.pi / 2, (7, -3))
    x, y = 57, 47
    assert (a * x + b * y + c, d * x + e * y + f) == pytest.approx((50, 50))
    assert (a * (x + 1) + b * y + c, d * (x + 1) + e * y + f) == pytest.approx((50, 48))


def test_a_single_thing_stays_in_the_picture_and_differs_from_dice_to_dice() -> None:
    drawing = Image.new("RGBA", (64, 64))
    drawing.paste((*INK, 255), (16, 16, 48, 48))
    made = [single(drawing, random.Random(seed), flips=True) for seed in range(6)]
    assert all(0.05 < inked(picture).mean() < 0.3 for picture in made)
    assert len({picture.tobytes() for picture in made}) == 6
    again = single(drawing, random.Random(3), flips=True)
    assert again.tobytes() == made[3].tobytes()


def test_words_fit_and_can_be_told_from_their_background() -> None:
    for seed in range(12):
        picture = np.asarray(written("harbor", 120, random.Random(seed)).convert("L"), np.int16)
        rim = np.concatenate(
            [picture[:2].ravel(), picture[-2:].ravel(), picture[:, :2].ravel(), picture[:, -2:].ravel()]
        )
        assert rim.min() >= 120
        assert 0.01 < (picture < 120).mean() < 0.3


def test_fonts_are_of_several_kinds_and_backgrounds_are_pale() -> None:
    assert len(faces()) >= 2
    assert all(font(face, 12).getlength("word") > 5 for face in faces())
    assert all(np.asarray(background(31, random.Random(seed))).min() >= 149 for seed in range(20))
