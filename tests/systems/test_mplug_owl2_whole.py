"""mPLUG-Owl2 at random sizes, and after its pictures have grown, against the same in plain operations."""

import random
from functools import partial
from math import isqrt

import pytest
import torch
from torch.nn.functional import interpolate

from scops.language.llama import LlamaSpec
from scops.model import Model
from scops.model.changing import with_changes
from scops.systems import mplug_owl2
from tests.conftest import randomise
from tests.data.vocabularies import metaspace
from tests.systems import owl_twin as twin
from tests.systems.lavis_twin import Weights, below, named
from tests.systems.owl_rows import Order, drawn_eyes, equal

CASES: tuple[Order, ...] = (
    [None, 5, 6, 7],
    [1, 9, 8, None],
    [1, None, None, 3],
    [1, None, 2, None, 4],
    [1, 2, 3],
)


def drawn(seed: int) -> mplug_owl2.Spec:
    """Of any sizes, with fewer keys than queries in some."""
    draw = random.Random(seed)
    vision, abstractor, words = drawn_eyes(draw, unit=4, most=3)
    language = LlamaSpec(
        dim=words * draw.choice([4, 6, 10]), hidden=draw.randint(9, 40), layers=draw.randint(1, 3), heads=words,
        kv_heads=draw.choice([1, words]), vocab=metaspace().vocab_size, eps=draw.choice([1e-5, 1e-6]),
        rope_base=draw.choice([1e4, 1e6]),
    )  # fmt: skip
    return mplug_owl2.Spec(mplug_owl2.Eyes(vision, abstractor), language)


def all_equal(system: torch.nn.Module, w: Weights, spec: mplug_owl2.Spec) -> bool:
    logits = partial(twin.logits, w, language=spec.language)
    return all(equal(system, CASES, spec.eyes, below(w, "model."), w["model.embed_tokens.weight"], logits))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_pictures_become_the_logits_of_plain_operations(seed: int) -> None:
    spec = drawn(seed)
    system = randomise(mplug_owl2.build(spec))
    assert all_equal(system, named(mplug_owl2.KEYS["authors"](spec), system), spec)


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
    assert all_equal(grown.module, larger, grown.spec)
