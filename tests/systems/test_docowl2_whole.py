"""DocOwl 2 from pages to logits, at random sizes, against the same in plain operations."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from scops.connectors.doc_compressor import CompressorSpec
from scops.connectors.h_reducer import HReducerSpec
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.grids import GRIDS
from scops.data.processor import Processor
from scops.encoders.vit import VitSpec
from scops.language.llama import LlamaSpec
from scops.systems import docowl2
from tests.conftest import batch_of, close, randomise
from tests.data.vocabularies import metaspace
from tests.systems import docowl2_twin as twin
from tests.systems import owl_twin
from tests.systems.lavis_twin import Weights, below, named

CASES: list[list[str | tuple[int, int]]] = [
    [(30, 40), "what is it?"],
    ["of", (90, 17), "and", (20, 100), "which?"],
    [(33, 70), (64, 64), (200, 9), "how many pages?"],
    ["no page"],
]
"""Words and pages (width, height)."""


def drawn(seed: int) -> docowl2.Spec:
    """Of any sizes."""
    draw = random.Random(seed)
    heads, words, asking = (draw.randint(1, 4) for _ in range(3))
    kernel = draw.choice([(1, 4), (1, 2), (1, 3), (2, 2)])
    patch, side = draw.randint(2, 5), draw.choice([4, 5, 6, 8])
    dim = words * asking * draw.choice([4, 6])
    vision = VitSpec(
        dim=heads * draw.randint(2, 6), hidden=draw.randint(7, 30), layers=draw.randint(1, 3), heads=heads,
        image=patch * side, patch=patch, eps=draw.choice([1e-5, 1e-6]),
    )  # fmt: skip
    language = LlamaSpec(
        dim=dim, hidden=draw.randint(9, 40), layers=draw.randint(1, 3), heads=words, kv_heads=draw.choice([1, words]),
        vocab=metaspace().vocab_size + draw.randint(0, 9), eps=draw.choice([1e-5, 1e-6]), rope_base=draw.choice([1e4, 5e5]),
    )  # fmt: skip
    compressor = CompressorSpec(dim=dim, layers=draw.randint(1, 3), heads=asking, eps=draw.choice([1e-5, 1e-6]))
    grids = draw.choice(["grid_4", "grid_9", "grid_12"])
    return docowl2.Spec(vision, HReducerSpec(vision.dim, kernel), compressor, language, grids)


def page(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng([width, height])
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


def row(case: list[str | tuple[int, int]]) -> Sample:
    parts = [Text(part) if isinstance(part, str) else Media("image", page(*part)) for part in case]
    return Sample((Turn("user", tuple(parts)),))


def parts_of(w: Weights, case: list[str | tuple[int, int]], spec: docowl2.Spec) -> list[list[int] | Tensor]:
    """USER: ... ASSISTANT:, each page as <img i> and its tokens; words between two pages are read together."""
    tokenizer, written, number = metaspace(), "USER: ", 0
    parts: list[list[int] | Tensor] = [[tokenizer.bos_id]]
    for part in case:
        if isinstance(part, str):
            written += part
            continue
        number += 1
        parts += [tokenizer.encode_text(f"{written}<img {number}>")]
        parts += [twin.page_tokens(w, page(*part), GRIDS[spec.grids], spec)]
        written = ""
    return [*parts, tokenizer.encode_text(f"{written} ASSISTANT:")]


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_pages_become_the_logits_of_plain_operations(seed: int) -> None:
    spec = drawn(seed)
    system = randomise(docowl2.build(spec))
    w = named(docowl2.KEYS["authors"](spec), system)
    make = Processor(docowl2.layout(spec), metaspace())
    examples = [make(row(case), reply=True) for case in CASES]
    batch = batch_of(*examples)
    together, read = system(batch), system.read(batch)[0]
    for number, (case, one) in enumerate(zip(CASES, examples, strict=True)):
        pages = [part for part in case if isinstance(part, tuple)]
        if pages:
            views = [
                twin.cut(page(*size), twin.grid_of(*size, GRIDS[spec.grids], spec.vision.image), spec.vision.image)
                for size in pages
            ]
            assert close(torch.from_numpy(np.stack(one.media["image"])), torch.cat(views))
            features = owl_twin.tower(below(w, "model.vision_model."), torch.cat(views), spec.vision)
            assert close(system.encode(batch_of(one))["image"], features)
            made = torch.stack([twin.page_tokens(w, page(*size), GRIDS[spec.grids], spec) for size in pages])
            assert close(system.connect(batch_of(one))["image"], made)
        x, is_media = owl_twin.spliced(w["model.embed_tokens.weight"], parts_of(w, case, spec))
        assert len(x) == len(one)
        assert close(read[number, : len(one)], x)
        assert close(together[number, : len(one)], owl_twin.logits(w, x, is_media, spec.language))


@torch.no_grad()
def test_the_twin_sees_what_it_must_see() -> None:
    """It is blind neither to the place of a tile nor to the modality of a token."""
    spec = drawn(1)
    w = named(docowl2.KEYS["authors"](spec), randomise(docowl2.build(spec)))
    x, is_media = owl_twin.spliced(w["model.embed_tokens.weight"], parts_of(w, CASES[1], spec))
    made = owl_twin.logits(w, x, is_media, spec.language)
    assert (owl_twin.logits(w, x, torch.zeros_like(is_media), spec.language) - made).abs().max() > 1e-2
    features = owl_twin.tower(
        below(w, "model.vision_model."), twin.cut(page(20, 100), (3, 1), spec.vision.image), spec.vision
    )
    maps = twin.reduced(below(w, "model.vision2text."), features, spec)
    asked = below(w, "model.hr_compressor.")
    before = twin.compressed(asked, maps, (3, 1), spec)
    maps[2] = torch.randn_like(maps[2])
    changed = (twin.compressed(asked, maps, (3, 1), spec) - before).abs().amax(-1) > 1e-4
    high, wide = maps.shape[1:3]
    reached = sorted({y // 3 for y in range(high, 2 * high)})  # the second tile's rows in the large map
    assert [bool(one) for one in changed[:-1].unflatten(0, (high, wide)).any(1)] == [y in reached for y in range(high)]
    assert not changed[-1]
