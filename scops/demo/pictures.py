"""Pictures composed of drawings: one thing on a background, several in a grid, a written word."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCALES = (0.6, 1.0)
TURN = 12.0
CELL_SCALES = (0.78, 0.98)
PALE, DEEP = (150, 256), (0, 110)
FONT_FILES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSansMono.ttf",
)


@dataclass(frozen=True)
class Grid:
    """Cells of a scene, row by row, each with its words."""

    across: int
    places: tuple[str, ...]


TWO = Grid(2, ("at the top left", "at the top right", "at the bottom left", "at the bottom right"))
THREE = Grid(
    3,
    (
        "at the top left", "at the top", "at the top right",
        "on the left", "in the middle", "on the right",
        "at the bottom left", "at the bottom", "at the bottom right",
    ),
)  # fmt: skip
GRIDS = (TWO, THREE)


def background(side: int, dice: random.Random) -> Image.Image:
    """Plain, a gradient in any direction, halves, or stripes; pale enough for things to stand out."""
    kind = dice.choice(("plain", "gradient", "gradient", "halves", "stripes"))
    one, two = (np.array([dice.randrange(*PALE) for _ in "rgb"], np.float32) for _ in "ab")
    angle, waves = dice.uniform(0, 2 * math.pi), dice.randint(2, 5)
    if kind == "plain":
        return Image.new("RGB", (side, side), tuple(int(v) for v in one))
    axis = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    along = axis[:, None] * math.sin(angle) + axis[None] * math.cos(angle)
    if kind == "gradient":
        share = along * 0.7 + 0.5
    elif kind == "halves":
        share = (along > 0).astype(np.float32)
    else:
        share = 0.5 + 0.5 * np.sin(along * 2 * math.pi * waves)
    pixels = one + share[..., None].clip(0, 1) * (two - one)
    return Image.fromarray(pixels.astype(np.uint8), "RGB")


def single(drawing: Image.Image, dice: random.Random, *, flips: bool) -> Image.Image:
    """One thing: random background, size, place, a small turn, and its mirror image where that is harmless."""
    side = drawing.width
    picture = background(side, dice)
    scale = dice.uniform(*SCALES)
    room = side * (1 - scale) / 2
    shift = [dice.uniform(-room, room) for _ in "xy"]
    turn = math.radians(dice.uniform(-TURN, TURN))
    if dice.random() < 0.5 and flips:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    placed = drawing.transform(
        (side, side), Image.Transform.AFFINE, affine(side, scale, turn, shift), Image.Resampling.BILINEAR
    )
    picture.paste(placed, (0, 0), placed)
    return picture


def affine(side: int, scale: float, turn: float, shift: Sequence[float]) -> tuple[float, ...]:
    """Where each pixel of the made picture comes from: turned and scaled about the middle, then shifted."""
    cos, sin, middle = math.cos(turn) / scale, math.sin(turn) / scale, side / 2
    x, y = middle + shift[0], middle + shift[1]
    return (cos, sin, middle - cos * x - sin * y, -sin, cos, middle + sin * x - cos * y)


def scene(
    drawings: Sequence[Image.Image], cells: Sequence[int], grid: Grid, side: int, dice: random.Random
) -> Image.Image:
    """Several things, each in its cell of the grid, a little off its middle."""
    picture = background(side, dice)
    cell = side / grid.across
    for drawing, number in zip(drawings, cells, strict=True):
        width = round(cell * dice.uniform(*CELL_SCALES))
        small = drawing.resize((width, width), Image.Resampling.BICUBIC)
        row, column = divmod(number, grid.across)
        free = cell - width
        place = (round(column * cell + dice.uniform(0, free)), round(row * cell + dice.uniform(0, free)))
        picture.paste(small, place, small)
    return picture


def written(word: str, side: int, dice: random.Random) -> Image.Image:
    """A word in dark letters, as large as a random share of the picture allows."""
    picture = background(side, dice)
    face = dice.choice(faces())
    room = side * dice.uniform(0.6, 0.94)
    probe = font(face, 40)
    size = min(40 * room / probe.getlength(word), side * 0.45)
    place = (side / 2 + dice.uniform(-0.03, 0.03) * side, side * dice.uniform(0.3, 0.7))
    colour = tuple(dice.randrange(*DEEP) for _ in "rgb")
    ImageDraw.Draw(picture).text(place, word, fill=colour, font=font(face, int(size)), anchor="mm")
    return picture


@cache
def faces() -> tuple[str, ...]:
    """Font files at hand; the empty name is Pillow's own."""
    try:
        import matplotlib
    except ImportError:
        return ("",)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ("", *(str(folder / name) for name in FONT_FILES if (folder / name).is_file()))


@cache
def font(face: str, size: int) -> ImageFont.FreeTypeFont:
    made = ImageFont.truetype(face, size) if face else ImageFont.load_default(size)
    assert isinstance(made, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return made
