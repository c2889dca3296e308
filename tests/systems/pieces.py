"""What the tests of systems that cut pictures share: rows of pieces, sessions, pictures of odd shapes and broken ones."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from scops.core.batch import Example, Span, Tiles
from scops.core.layout import Cut, Layout, Slot
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.processor import Processor
from scops.models.decoder import MultimodalDecoder
from scops.nn.cache import FixedCache, GrowingCache
from scops.nn.tiled import run_tiled
from tests.data.vocabularies import metaspace
from tests.twins import STEPS, cache_of, cached_equals_recompute, shared_equals_recompute

SIDE = 14  # pixels of a piece of the tiny systems
SESSIONS = ("fixed", "growing", "paged")
ODD = ((1, 1), (1, 4000), (4000, 1), (20_000, 30), (13, 700))


def empty(height: int, width: int) -> bytes:
    """A PNG whose header says so; its pixels are missing."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(content)


BROKEN = {
    "nothing": b"",
    "text": b"no picture at all",
    "cut off": empty(30, 40),
    "a page of 20,000 pixels along both sides": empty(20_000, 20_000),
}


def asked(*pictures: bytes | Image.Image, name: str = "") -> Sample:
    return Sample((Turn("user", (*(Media("image", picture) for picture in pictures), Text("what?"))),), name)


def promise_is_kept(system: MultimodalDecoder, layout: Layout, size: tuple[int, int]) -> bool:
    """The connector makes for a picture of this (height, width) exactly the tokens that its slots have room for."""
    media = layout.media["image"]
    cut = media.cut_of(*size)
    slots = [piece for piece in media.arrange(cut) if isinstance(piece, Slot)]
    assert [place for slot in slots for place in slot.places] == list(cut.places)
    features_IPD = torch.randn(len(cut), system.image.encoder.tokens, system.image.encoder.width)
    tiles = Tiles.of([slot.places for slot in slots])
    made_MQD = run_tiled(system.image.connector, features_IPD, tiles)
    assert [slot.tokens for slot in slots] == [made_MQD.shape[1]] * len(made_MQD)
    assert made_MQD.isfinite().all()
    return True


def is_prepared(layout: Layout, size: tuple[int, int]) -> bool:
    """A picture of this (height, width) becomes as many prepared ones as its slots say, and numbers in them."""
    example = Processor(layout, metaspace())(asked(Image.new("RGB", size[::-1], "white")), reply=True)
    pictures = example.media["image"]
    assert len(pictures) == sum(len(span.places) for span in example.spans)
    assert all(np.isfinite(picture).all() for picture in pictures)
    return True


ORDERS = {
    "first": (None, 5, 6, 7),
    "last": (1, 9, 8, 7, None),
    "adjacent": (1, 3, None, None, 4),
    "several": (1, None, 2, 3, None, 4, None, 8),
    "none": (1, 2, 3, 4, 5),
    "alone": (None,),
}
"""Ids, and None for an item."""


def in_orders(arranged: dict[tuple[int, int], Sequence[Slot | int]]) -> dict[str, Example]:
    """Rows with items anywhere.

    Args:
        arranged: by grid, the ids and slots that stand for an item that was cut so; items take the grids in turn.
    """
    grids, rows, number = list(arranged), {}, 0
    for name, order in {**ORDERS, "cut": (1, None, 6)}.items():
        pieces: list[Slot | int] = []
        for entry in order:
            pieces += [entry] if entry is not None else arranged[grids[number % len(grids)]]
            number += entry is None
        rows[name] = written(pieces, name)
    return rows


def written(pieces: Sequence[Slot | int], name: str = "") -> Example:
    """Pictures are random, and no two are alike."""
    ids, spans, pictures = [], [], []
    for piece in pieces:
        if isinstance(piece, int):
            ids.append(piece)
            continue
        spans.append(Span("image", len(ids), piece.tokens, piece.places))
        pictures += [torch.randn(3, SIDE, SIDE).numpy() for _ in piece.places]
        ids += [0] * piece.tokens
    learn = np.array([t > 0 and not any(s.start <= t < s.start + s.length for s in spans) for t in range(len(ids))])
    media = {"image": tuple(pictures)} if pictures else {}
    return Example(np.array(ids), learn, tuple(spans), media, name=name)


def side_by_side(tokens: int) -> dict[str, Example]:
    """A slot for each piece."""
    cuts = {grid: Cut(grid, ((1, 1),), "first") for grid in ((2, 1), (1, 1), (1, 3))}
    return in_orders({grid: [Slot("image", tokens, (place,)) for place in cut.places] for grid, cut in cuts.items()})


def equals_recompute(system: MultimodalDecoder, examples: list[Example], kind: str) -> bool:
    """Of SESSIONS; in pages prompts are read five tokens at a time, so that parts end inside items."""
    longest = max(map(len, examples)) + STEPS
    if kind == "paged":
        room = len(examples) * (longest + 3)
        return shared_equals_recompute(system, examples, tokens=room, page=3, most=5, media_bytes=10_000)
    cache = FixedCache if kind == "fixed" else GrowingCache
    return cached_equals_recompute(system, examples, cache_of(cache, len(examples), longest))
