"""mPLUG-Owl2.1 at random sizes, within and beyond the trained length, against the same in plain operations."""

import random
from functools import partial
from math import ceil, log, log2

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from scops.language.qwen import QwenSpec
from scops.systems import mplug_owl2, mplug_owl21
from tests.conftest import randomise
from tests.systems.lavis_twin import Weights, below, named, project
from tests.systems.owl_rows import Order, drawn_eyes, equal

CASES: tuple[Order, ...] = ([None, 5, 6, 7], [1, 9, 8, None], [1, None, None, 3], [1, 2, 3])


def drawn(seed: int) -> mplug_owl21.Spec:
    """Of any sizes; every second is trained on documents shorter than these."""
    draw = random.Random(seed)
    vision, abstractor, words = drawn_eyes(draw, unit=4, most=3, activation="gelu")
    language = QwenSpec(
        dim=words * draw.choice([4, 6, 10]), hidden=draw.randint(9, 40), layers=draw.randint(1, 3), heads=words,
        vocab=draw.randint(20, 90), eps=draw.choice([1e-5, 1e-6]), rope_base=draw.choice([1e4, 1e6]),
        trained=5 if seed % 2 else 60, bias=draw.random() < 0.5, stretched=seed % 3 > 0, sharpened=draw.random() < 0.7,
    )  # fmt: skip
    return mplug_owl21.Spec(mplug_owl2.Eyes(vision, abstractor, cls=0, post_norm=draw.random() < 0.5), language)


def logits(w: Weights, x: Tensor, is_media: Tensor, spec: QwenSpec) -> Tensor:
    """(T, V): queries, keys and values are those of each token's modality; all else is one for both."""
    count, width = len(x), spec.dim // spec.heads
    doublings = 2 ** ceil(log2(count / spec.trained) + 1) - 1
    base = spec.rope_base * (max(doublings, 1) if spec.stretched else 1) ** (width / (width - 2))
    angles = torch.arange(count)[:, None] / base ** (torch.arange(0, width, 2) / width)
    cos, sin = (f(torch.cat([angles, angles], -1))[:, None] for f in (torch.cos, torch.sin))
    grown = torch.tensor(
        [log(at) / log(spec.trained) if spec.sharpened and at > spec.trained else 1.0 for at in range(1, count + 1)]
    )
    later = torch.full((count, count), -torch.inf).triu(1)

    def rms(name: str, y: Tensor, of: Weights) -> Tensor:
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + spec.eps) * of[name + ".weight"]

    def turned(y: Tensor) -> Tensor:
        left, right = y.chunk(2, -1)
        return y * cos + torch.cat([-right, left], -1) * sin

    for number in range(spec.layers):
        layer = below(w, f"transformer.h.{number}.")
        y = rms("ln_1", x, layer)
        both = [project(layer, f"attn.c_attn.multiway.{expert}", y) for expert in (0, 1)]
        q, k, v = (z.unflatten(-1, (-1, width)) for z in torch.where(is_media[:, None], both[1], both[0]).chunk(3, -1))
        q, k = turned(q) * grown[:, None, None], turned(k)
        scores = torch.einsum("tnd,snd->nts", q, k) / width**0.5 + later
        x = x + project(layer, "attn.c_proj", torch.einsum("nts,snd->tnd", scores.softmax(-1), v).flatten(1))
        y, mlp = rms("ln_2", x, layer), below(layer, "mlp.")
        x = x + project(mlp, "c_proj", project(mlp, "w1", y) * silu(project(mlp, "w2", y)))
    return rms("transformer.ln_f", x, w) @ w["lm_head.weight"].T


@torch.no_grad()
@pytest.mark.parametrize("seed", range(12))
def test_pictures_become_the_logits_of_plain_operations(seed: int) -> None:
    spec = drawn(seed)
    system = randomise(mplug_owl21.build(spec))
    w = named(mplug_owl21.KEYS["authors"](spec), system)
    said = partial(logits, w, spec=spec.language)
    assert all(equal(system, CASES, spec.eyes, below(w, "transformer."), w["transformer.wte.weight"], said))
