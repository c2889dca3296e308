"""The pictures of a data set on disk, each drawn once with dice of its own, so that an interrupted run can go on."""

import os
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from scops.demo.concepts import Concept, Gallery

FOLDER = "images"
COMPRESSION = 1
RUN = 48
"""Pictures that one process draws one after the other: variants of one thing share its drawing."""


def dice_of(*what: object) -> random.Random:
    """Chance that depends on nothing but what it is for."""
    return random.Random("/".join(map(str, what)))


def relative_path(name: str) -> str:
    """Of a picture, from the data set's folder."""
    return f"{FOLDER}/{name}.png"


class Album:
    """Pictures by name below one folder, all PNG of one side.

    Args:
        share: (number, of): of several albums of one folder, each in a process of its own, which this is; it draws every
            so manieth run of RUN pictures, and the others draw the rest.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        side: int,
        tick: Callable[[], None] = lambda: None,
        share: tuple[int, int] = (0, 1),
    ):
        self.folder, self.seed, self.side, self.tick, self.share = folder, seed, side, tick, share
        self.asked = 0
        self.last: tuple[tuple[str, str], Image.Image] | None = None
        self.small: dict[tuple[str, str], Image.Image] = {}

    def add(self, name: str, make: Callable[[random.Random], Image.Image]) -> str:
        """The picture's path relative to the data set's folder; made only where it does not stand already."""
        relative = relative_path(name)
        path = self.folder / relative
        number, of = self.share
        mine = self.asked // RUN % of == number
        self.asked += 1
        if mine and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".part")
            make(dice_of(self.seed, name)).save(beside, "PNG", compress_level=COMPRESSION)
            os.replace(beside, path)
        self.tick()
        return relative

    def drawing(self, gallery: Gallery, concept: Concept, style: str) -> Image.Image:
        """The full-size drawing, kept until another is asked for: variants of one thing come one after the other."""
        key = (concept.code, style)
        if self.last is None or self.last[0] != key:
            self.last = (key, gallery.draw(concept, style, self.side))
            half = (self.side // 2, self.side // 2)
            self.small[key] = self.last[1].resize(half, Image.Resampling.BOX)
        return self.last[1]

    def small_drawing(self, gallery: Gallery, concept: Concept, style: str) -> Image.Image:
        """The drawing at half the side, as scenes need it; kept for good (25 kB each at 80 pixels)."""
        if (concept.code, style) not in self.small:
            self.drawing(gallery, concept, style)
        return self.small[concept.code, style]
