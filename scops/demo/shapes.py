"""Drawn shapes and letters in eight colours: what the demo shows where the emoji packages cannot be had."""

import math

from PIL import Image, ImageDraw, ImageFont

from scops.demo.concepts import Concept, Gallery

FLAT, RINGED, OUTLINED = "flat", "ringed", "outlined"
COLOURS = {
    "red": (211, 47, 47),
    "orange": (245, 124, 0),
    "yellow": (251, 192, 45),
    "green": (56, 142, 60),
    "blue": (25, 118, 210),
    "purple": (123, 31, 162),
    "brown": (109, 76, 65),
    "black": (33, 33, 33),
}
CORNERS = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6}
POINTS = {"four-pointed star": 4, "star": 5, "six-pointed star": 6, "sun": 12}
ROUND = {"circle": (1.0, 1.0), "wide ellipse": (1.0, 0.55), "tall ellipse": (0.55, 1.0)}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SHARPER = 4
"""Drawn this many times larger and then made small, for smooth edges."""


def shapes() -> Gallery:
    """Every colour in every form, the same on every machine."""
    forms = [(form, "shape-round") for form in ROUND] + [(form, "shape-cornered") for form in CORNERS]
    forms += [(form, "shape-pointed") for form in POINTS] + [(f"letter {letter}", "letter") for letter in LETTERS]
    concepts = tuple(
        Concept(
            code=f"{colour} {form}".replace(" ", "_"),
            name=f"{colour} {form}",
            kind=kind,
            tags=(colour,),
            styles=(FLAT, RINGED, OUTLINED),
            flips=kind != "letter",
        )
        for form, kind in forms
        for colour in COLOURS
    )
    return Gallery("drawn shapes", concepts, draw, (FLAT, RINGED), OUTLINED)


def draw(concept: Concept, style: str, side: int) -> Image.Image:
    """RGBA, side x side."""
    large = side * SHARPER
    colour, form = concept.name.split(" ", 1)
    mask = Image.new("L", (large, large))
    fill_form(ImageDraw.Draw(mask), form, large, 0.92)
    ink = COLOURS[colour]
    picture = Image.new("RGBA", (large, large), (*ink, 0))
    if style == RINGED:
        ImageDraw.Draw(picture).ellipse((0, 0, large - 1, large - 1), fill=(255, 255, 255, 255))
        mask = Image.new("L", (large, large))
        fill_form(ImageDraw.Draw(mask), form, large, 0.62)
    picture.paste((*ink, 255), (0, 0), mask)
    if style == OUTLINED:
        inner = Image.new("L", (large, large))
        fill_form(ImageDraw.Draw(inner), form, large, 0.66)
        picture.paste((255, 255, 255, 255), (0, 0), inner)
    return picture.resize((side, side), Image.Resampling.BOX)


def fill_form(pen: ImageDraw.ImageDraw, form: str, side: int, scale: float) -> None:
    """The form in white, `scale` of the side wide, in the middle."""
    middle, radius = side / 2, side / 2 * scale
    if form in ROUND:
        width, height = (radius * part for part in ROUND[form])
        pen.ellipse((middle - width, middle - height, middle + width, middle + height), fill=255)
    elif form in CORNERS:
        pen.polygon(around(middle, [radius] * CORNERS[form]), fill=255)
    elif form in POINTS:
        pen.polygon(around(middle, [radius, radius * 0.45] * POINTS[form]), fill=255)
    else:
        pen.text((middle, middle), form[-1], fill=255, font=ImageFont.load_default(side * scale), anchor="mm")


def around(middle: float, radii: list[float]) -> list[tuple[float, float]]:
    """Corners at these distances, clockwise from the top."""
    step = 2 * math.pi / len(radii)
    return [(middle + r * math.sin(i * step), middle - r * math.cos(i * step)) for i, r in enumerate(radii)]
