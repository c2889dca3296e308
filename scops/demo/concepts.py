"""What the demo's pictures show: concepts with a name and a kind, drawn in several styles."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

from PIL import Image

HELD_SHARE = 0.1
GENDERS = ("2640", "2642")
PEOPLE = ("1f468", "1f469", "1f9d1")
JOINER, FACING = "200d", ("27a1", "2194", "2195")


@dataclass(frozen=True)
class Concept:
    """One thing that can be drawn.

    Args:
        code: its identity, lower-case code points joined by "-" without the variation selector (an owl is "1f989").
        name: as it stands in a sentence, without an article.
        kind: a key of scops.demo.wording.KINDS.
        styles: the styles that draw it.
        flips: whether its mirror image still shows the same thing.
    """

    code: str
    name: str
    kind: str
    tags: tuple[str, ...] = ()
    chinese: str = ""
    styles: tuple[str, ...] = ()
    flips: bool = False


@dataclass(frozen=True)
class Gallery:
    """Concepts and how to draw them.

    Args:
        source: what it was made from, exactly; two galleries with the same source draw the same.
        draw: (concept, style, side) -> RGBA picture of side x side pixels.
        held_style: the style that is never trained on.
    """

    source: str
    concepts: tuple[Concept, ...]
    draw: Callable[[Concept, str, int], Image.Image]
    trained_styles: tuple[str, ...]
    held_style: str

    @cached_property
    def trained(self) -> tuple[Concept, ...]:
        """Concepts that training may show or speak of, all drawn in a trained style."""
        return tuple(c for c in self.concepts if concept_split(c.code) == "train")

    @cached_property
    def held(self) -> tuple[Concept, ...]:
        """Concepts that training never shows nor mentions."""
        return tuple(c for c in self.concepts if concept_split(c.code) == "heldout")

    def styles_of(self, concept: Concept) -> tuple[str, ...]:
        """The trained styles that draw a concept."""
        return tuple(style for style in self.trained_styles if style in concept.styles)


@cache
def concept_split(code: str) -> str:
    """ "train" or "heldout": a fixed tenth by hash, the same on every machine. Relatives are never parted."""
    number = int.from_bytes(hashlib.sha256(f"scops {relatives(code)}".encode()).digest()[:8], "big")
    return "heldout" if number < HELD_SHARE * 2**64 else "train"


def relatives(code: str) -> str:
    """What a man, a woman and a person doing the same have in common, facing either way: almost the same picture."""
    parts = code.lower().split("-")
    parts = [PEOPLE[-1] if part in PEOPLE else part for part in parts if part not in GENDERS + FACING + ("fe0f",)]
    while parts and parts[-1] == JOINER:
        parts.pop()
    return "-".join(part for part in parts if part != JOINER)
