"""What comparisons of the mPLUG-Owl family at random sizes share: towers and abstractors, rows with pictures, what is compared."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from scops.connectors.abstractor import AbstractorSpec
from scops.core.batch import Example
from scops.core.layout import WHOLE
from scops.encoders.vit import VitSpec
from scops.systems.mplug_owl2 import Eyes
from tests.conftest import batch_of, close, example
from tests.systems import owl_twin as twin
from tests.systems.lavis_twin import Weights

Order = Sequence[int | None]
"""Ids with None for an item."""


def drawn_eyes(draw: random.Random, *, unit: int, most: int, **vision: Any) -> tuple[VitSpec, AbstractorSpec, int]:
    """Of any sizes, and how many heads a language model may have.

    Args:
        unit: a head's width is so much, up to `most` times.
        vision: what all of these towers are.
    """
    heads, words, patch, side = draw.randint(1, 4), draw.randint(1, 4), draw.randint(2, 5), draw.randint(2, 5)
    dim = heads * unit * draw.randint(1, most)
    tower = VitSpec(
        dim=dim, hidden=draw.randint(7, 30), layers=draw.randint(1, 3), heads=heads, image=patch * side, patch=patch,
        eps=draw.choice([1e-5, 1e-6]), **vision,
    )  # fmt: skip
    abstractor = AbstractorSpec(
        dim=dim, hidden=draw.randint(5, 30), layers=draw.randint(1, 3), heads=draw.choice([1, heads]),
        queries=draw.randint(1, 7), eps=draw.choice([1e-5, 1e-6]),
    )  # fmt: skip
    return tower, abstractor, words


def row(order: Order, room: int, side: int, frames: Sequence[int] = ()) -> Example:
    """Args:
    room: tokens of an item; side: of its pictures, in pixels.
    frames: of each item; by default one.
    """
    ids: list[int] = []
    spans: list[tuple] = []
    counts = frames or [1] * order.count(None)
    left = iter(counts)
    for entry in order:
        spans += [(len(ids), room, (WHOLE,) * next(left))] if entry is None else []
        ids += [0] * room if entry is None else [entry]
    return replace(example(ids, tuple(spans), [torch.randn(3, side, side) for _ in range(sum(counts))]), digests={})


def equal(
    system: nn.Module, orders: Sequence[Order], eyes: Eyes, w: Weights, words: Tensor,
    logits: Callable[[Tensor, Tensor], Tensor],
) -> Iterator[bool]:  # fmt: skip
    """Whether what is read and what is said of each row, alone and together, are those of plain operations.

    Args:
        w: below what has `vision_model` and `visual_abstractor`; words: the table of embeddings.
        logits: of a row and of which of its tokens are media.
    """
    examples = [row(order, eyes.abstractor.queries + 1, eyes.vision.image) for order in orders]
    together = system(batch_of(*examples))
    for number, (order, one) in enumerate(zip(orders, examples, strict=True)):
        pixels = torch.stack([torch.from_numpy(picture) for picture in one.media["image"]]) if one.media else None
        seen = iter(() if pixels is None else twin.sight(w, pixels, eyes))
        x, is_media = twin.spliced(words, [next(seen) if entry is None else [entry] for entry in order])
        yield close(system.read(batch_of(one))[0], x[None])
        yield close(together[number, : len(one)], logits(x, is_media))
