"""mPLUG-Owl for pictures and videos at random sizes, against the same in plain operations and transformers' LLaMA."""

import random

import pytest
import torch
from torch import Tensor

from scops.language.llama import LlamaSpec
from scops.systems import mplug_owl_video
from tests.conftest import batch_of, close, randomise
from tests.systems import owl_twin as twin
from tests.systems.lavis_twin import Weights, below, language, named, project
from tests.systems.owl_rows import Order, drawn_eyes, row

CASES: tuple[tuple[Order, tuple[int, ...]], ...] = (
    ([None, 5, 6, 7], (3,)),
    ([1, 9, 8, None], (1,)),
    ([1, None, None, 3], (2, 1)),
    ([1, None, 2, None, 4, None, 6], (1, 5, 2)),
    ([1, 2, 3], ()),
)
"""And the frames of each item."""


def drawn(seed: int) -> mplug_owl_video.Spec:
    """Of any sizes."""
    draw = random.Random(seed)
    vision, abstractor, words = drawn_eyes(draw, unit=2, most=4)
    spoken = LlamaSpec(
        dim=words * draw.choice([4, 6, 10]), hidden=draw.randint(9, 40), layers=draw.randint(1, 3), heads=words,
        kv_heads=draw.choice([1, words]), vocab=draw.randint(20, 90), eps=draw.choice([1e-5, 1e-6]),
    )  # fmt: skip
    return mplug_owl_video.Spec(vision, abstractor, spoken)


def tokens(w: Weights, frames_TCHW: Tensor, spec: mplug_owl_video.Spec) -> Tensor:
    """(Q + 1, D) of one picture or clip."""
    clip, asking = len(frames_TCHW) > 1, spec.abstractor
    features = twin.tower(below(w, "vision_model."), frames_TCHW, spec.vision, twin.mixed if clip else None)
    queries = torch.cat([w["query_tokens"], *([w["temporal_query_tokens"]] if clip else [])], 1)
    x = twin.asked(below(w, "abstractor.encoder."), queries, features.flatten(0, 1)[None], asking.heads, asking.eps)[0]
    told = project(w, "abstractor.visual_fc", x[: asking.queries])
    if clip:
        told = told + project(w, "abstractor.temporal_visual_fc", x[asking.queries :])
    return torch.cat([told, w["abstractor.vit_eos"][0]])


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_pictures_and_clips_become_the_logits_of_plain_operations(seed: int) -> None:
    spec = drawn(seed)
    system = randomise(mplug_owl_video.build(spec))
    w = named(mplug_owl_video.KEYS["authors"](spec), system)
    reference = language(below(w, "language_model."), spec.language)
    examples = [row(order, spec.abstractor.queries + 1, spec.vision.image, frames) for order, frames in CASES]
    together = system(batch_of(*examples))
    for number, one in enumerate(examples):
        x = w["language_model.model.embed_tokens.weight"][torch.from_numpy(one.ids_T)].clone()
        for span, taken in one.items():
            frames = torch.stack([torch.from_numpy(picture) for picture in one.media["image"][taken]])
            x[span.start : span.start + span.length] = tokens(w, frames, spec)
        assert close(system.read(batch_of(one))[0], x[None])
        assert close(together[number : number + 1, : len(one)], reference(inputs_embeds=x[None]).logits)
