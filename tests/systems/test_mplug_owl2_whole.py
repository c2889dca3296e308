"""mPLUG-Owl2 at random sizes, and after its pictures have grown, against the same in plain operations."""

import random
from dataclasses import replace
from math import isqrt

import pytest
import torch
from torch.nn.functional import interpolate

from scops.connectors.abstractor import AbstractorSpec
from scops.core.batch import Example
from scops.encoders.vit import VitSpec
from scops.language.llama import LlamaSpec
from scops.model import Model
from scops.model.changing import with_changes
from scops.systems import mplug_owl2
from tests.conftest import batch_of, close, example, randomise
from tests.data.vocabularies import metaspace
from tests.systems import owl_twin as twin
from tests.systems.lavis_twin import Weights, below, named

CASES: tuple[list[int | None], ...] = (
    [None, 5, 6, 7],
    [1, 9, 8, None],
    [1, None, None, 3],
    [1, None, 2, None, 4],
    [1, 2, 3],
)
"""Ids with None for a picture."""


def drawn(seed: int) -> mplug_owl2.Spec:
    """Of any sizes, with fewer keys than queries in some."""
    draw = random.Random(seed)
    heads, words, patch, side = draw.randint(1, 4), draw.randint(1, 4), draw.randint(2, 5), draw.randint(2, 5)
    dim = heads * 4 * draw.randint(1, 3)
    vision = VitSpec(
        dim=dim, hidden=draw.randint(7, 30), layers=draw.randint(1, 3), heads=heads, image=patch * side, patch=patch,
        eps=draw.choice([1e-5, 1e-6]),
    )  # fmt: skip
    abstractor = AbstractorSpec(
        dim=dim, hidden=draw.randint(5, 30), layers=draw.randint(1, 3), heads=draw.choice([1, heads]),
        queries=draw.randint(1, 7), eps=draw.choice([1e-5, 1e-6]),
    )  # fmt: skip
    language = LlamaSpec(
        dim=words * draw.choice([4, 6, 10]), hidden=draw.randint(9, 40), layers=draw.randint(1, 3), heads=words,
        kv_heads=draw.choice([1, words]), vocab=metaspace().vocab_size, eps=draw.choice([1e-5, 1e-6]),
        rope_base=draw.choice([1e4, 1e6]),
    )  # fmt: skip
    return mplug_owl2.Spec(mplug_owl2.Eyes(vision, abstractor), language)


def rows(spec: mplug_owl2.Spec) -> list[Example]:
    room, side, made = spec.eyes.abstractor.queries + 1, spec.eyes.vision.image, []
    for order in CASES:
        ids: list[int] = []
        spans = []
        for entry in order:
            spans += [(len(ids), room)] if entry is None else []
            ids += [0] * room if entry is None else [entry]
        made.append(replace(example(ids, tuple(spans), [torch.randn(3, side, side) for _ in spans]), digests={}))
    return made


def equal(system: torch.nn.Module, w: Weights, spec: mplug_owl2.Spec) -> bool:
    examples = rows(spec)
    together = system(batch_of(*examples))
    for number, (order, one) in enumerate(zip(CASES, examples, strict=True)):
        pixels = torch.stack([torch.from_numpy(picture) for picture in one.media["image"]]) if one.media else None
        seen = iter(() if pixels is None else twin.sight(below(w, "model."), pixels, spec.eyes))
        x, is_media = twin.spliced(
            w["model.embed_tokens.weight"], [next(seen) if entry is None else [entry] for entry in order]
        )
        assert close(system.read(batch_of(one))[0], x[None])
        assert close(together[number, : len(one)], twin.logits(w, x, is_media, spec.language))
    return True


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_pictures_become_the_logits_of_plain_operations(seed: int) -> None:
    spec = drawn(seed)
    system = randomise(mplug_owl2.build(spec))
    assert equal(system, named(mplug_owl2.KEYS["authors"](spec), system), spec)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_larger_pictures_go_on_with_spread_positions_and_places_of_their_grid(seed: int) -> None:
    spec, speaking = drawn(seed), metaspace()
    system = randomise(mplug_owl2.build(spec))
    w, name = named(mplug_owl2.KEYS["authors"](spec), system), "model.vision_model.embeddings.position_embedding"
    table, vision = w[name], spec.eyes.vision
    old, new = isqrt(table.shape[1] - 1), 2 * (vision.image // vision.patch)
    grid = table[:, 1:].transpose(1, 2).unflatten(2, (old, old))
    grid = interpolate(grid, (new, new), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    larger = {**w, name: torch.cat([table[:, :1], grid], 1)}
    model = Model("mplug-owl2", spec, system, speaking, mplug_owl2.layout(spec))
    grown = with_changes(model, {"eyes": {"vision": {"image": 2 * vision.image}}})
    assert equal(grown.module, larger, grown.spec)
