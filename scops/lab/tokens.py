"""Where the tokens of a prompt go: to the template, to the user's words, to each picture and video.

The processor itself writes the prompt; of pictures it is given sizes, of words their number.
"""

# I prepared pictures of an item, C channels
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import Any

import numpy as np

from scops.core.batch import Example
from scops.core.layout import WHOLE, Arranged, Numbered, Slot
from scops.core.sample import Sample, Text
from scops.core.template import Special
from scops.data.items import Item, Picture
from scops.data.processor import PLACEHOLDER
from scops.data.tokenizer import Tokenizer

HERE = "\ue000"
"""In a text: so many tokens that nobody has written yet."""
CHARACTERS = 4
"""Of English, for a token: an estimate where no tokenizer is at hand."""


class Counting:
    """In place of a tokenizer: knows how many tokens there will be, and not all of their ids.

    Args:
        tokenizer: None counts CHARACTERS for a token.
        tokens: that HERE stands for.
    """

    def __init__(self, tokenizer: Tokenizer | None, tokens: int):
        self.tokenizer, self.tokens = tokenizer, tokens

    def encode_text(self, text: str, *, goes_on: bool = False) -> list[int]:
        before, here, behind = text.partition(HERE)
        ids = self._ids(before + behind, goes_on)
        at = min(len(self._ids(before, goes_on)), len(ids))
        return ids[:at] + [PLACEHOLDER] * (self.tokens if here else 0) + ids[at:]

    def encode_beside(self, text: str) -> np.ndarray:
        if self.tokenizer is None:
            return np.zeros(len(self.encode_text(text)) + 2, np.int64)  # and its beginning and end
        ids = self.tokenizer.encode_beside(text.replace(HERE, ""))
        return np.concatenate([ids, np.zeros(self.tokens if HERE in text else 0, np.int64)])

    def id_of(self, token: str) -> int:
        return PLACEHOLDER if self.tokenizer is None else self.tokenizer.id_of(token)

    def _ids(self, text: str, goes_on: bool) -> list[int]:
        if self.tokenizer is not None:
            return self.tokenizer.encode_text(text, goes_on=goes_on)
        return [PLACEHOLDER] * ceil(len(text) / CHARACTERS)


@dataclass(frozen=True)
class Stretch:
    """Neighbouring items that are alike.

    Args:
        what: "picture", "whole picture", "tile" or "frame"; of several prepared ones "page" or "clip".
        items: so many.
        pictures: prepared ones of each.
        tokens: of each, in the sequence.
        beside: of each, beside the sequence.
    """

    what: str
    items: int
    pictures: int
    tokens: int
    beside: int


@dataclass(frozen=True)
class Medium:
    """One picture or video that was given.

    Args:
        grid: of its tiles, (rows, columns); (1, 1) when it is not cut.
        words: that stand around its items and tell of them.
    """

    name: str
    grid: tuple[int, int]
    stretches: tuple[Stretch, ...]
    words: int

    @property
    def tokens(self) -> int:
        """In the sequence."""
        return self.words + sum(one.items * one.tokens for one in self.stretches)

    @property
    def beside(self) -> int:
        return sum(one.items * one.beside for one in self.stretches)


@dataclass(frozen=True)
class Prompt:
    """What stands in the prompt.

    Args:
        tokens: all of them.
        text: of the user's words; template: of what stands around them.
        exact: whether a tokenizer counted the words; media are always counted exactly.
    """

    tokens: int
    template: int
    text: int
    media: tuple[Medium, ...]
    exact: bool


def told(
    sample: Sample,
    example: Example,
    items: Sequence[tuple[str, Item]],
    counting: Counting,
    made: Mapping[str, Sequence[int]],
) -> Prompt:
    """Args:
    example, items: what a processor has planned of the sample.
    made: by input of the model, how many tokens its connector makes of each item.
    """
    left = {kind: iter(counts) for kind, counts in made.items()}
    named = zip(sample.media, items, strict=True)
    media = tuple(_medium(medium.name, item, counting, left[kind]) for medium, (kind, item) in named)
    words = "".join(part.text for turn in sample.turns for part in turn.parts if isinstance(part, Text))
    text = len(counting.encode_text(words))
    template = len(example) - text - sum(medium.tokens for medium in media)
    return Prompt(len(example), template, text, media, counting.tokenizer is not None)


def _medium(name: str, item: Item, counting: Counting, made: Iterator[int]) -> Medium:
    pieces = item.pieces()
    grid = item.cut.grid if isinstance(item, Picture) else (1, 1)
    each = [_stretch(piece, item, next(made)) for piece in pieces if isinstance(piece, Slot)]
    stretches = tuple(
        Stretch(one.what, len([*alike]), one.pictures, one.tokens, one.beside) for one, alike in groupby(each)
    )
    return Medium(name, grid, stretches, _words(pieces, counting))


def _stretch(slot: Slot, item: Item, made: int) -> Stretch:
    if slot.tokens not in (0, made):
        raise ValueError(f"{item.name}: the layout promises {slot.tokens} tokens, but the connector makes {made}")
    if not isinstance(item, Picture):
        what = "clip" if len(slot.places) > 1 else "frame"
    elif len(slot.places) > 1:
        what = "page"
    else:
        what = "tile" if slot.places != (WHOLE,) else "whole picture" if len(item.cut) > 1 else "picture"
    return Stretch(what, 1, len(slot.places), slot.tokens, 0 if slot.tokens else made)


def _words(pieces: Sequence[Arranged], counting: Counting) -> int:
    """Words side by side are encoded together, and what marks an item alone, as the processor does."""
    count, waiting = 0, ""
    for piece in pieces:
        if isinstance(piece, Slot | Special):
            count, waiting = count + len(counting.encode_text(waiting)), ""
            count += 1 if isinstance(piece, Special) else len(counting.encode_text(piece.written))
        else:
            waiting += piece.text.format(1) if isinstance(piece, Numbered) else piece.text
    return count + len(counting.encode_text(waiting))


def shapes_of(items: Sequence[tuple[str, Item]]) -> dict[str, tuple[int, int, int, int]]:
    """By input of the model, of all its prepared pictures (I, C, height, width).

    Raises:
        ValueError: pictures of different sizes for one input.
    """
    found: dict[str, list[Any]] = {}
    for kind, item in items:
        found.setdefault(kind, []).append(item.shape)
    for kind, shapes in found.items():
        if len({shape[1:] for shape in shapes}) > 1:
            raise ValueError(f"prepared pictures of {kind!r} differ in size: {shapes}")
    return {kind: (sum(shape[0] for shape in shapes), *shapes[0][1:]) for kind, shapes in found.items()}
