"""Every encoder, connector and fusion of the house goes with every other."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

import scops
from scops.connectors.abstractor import AbstractorSpec
from scops.connectors.h_reducer import HReducerSpec
from scops.core.sample import Media, Sample, Text, Turn
from scops.core.stage import Stage
from scops.data.collate import pad
from scops.encoders.vit import VitSpec
from scops.language.llama import LlamaSpec
from scops.model import Model
from scops.models.recompute import Recompute
from scops.systems import composed
from scops.systems.composed import Spec
from scops.systems.composed_parts import BesideTheText, ByModality, InTheText, LiteSpec, MlpSpec
from tests import tiny
from tests.conftest import close, randomise
from tests.systems.test_stages import two_steps

LANGUAGE = LlamaSpec(dim=24, hidden=36, layers=3, heads=4, kv_heads=2, vocab=307, context=400, tied=True)
ENCODERS = {"lite": LiteSpec(side=128), "vit": VitSpec(dim=12, hidden=20, layers=1, heads=2, image=32, patch=8)}
CONNECTORS = {
    "abstractor": AbstractorSpec(dim=12, hidden=20, layers=1, heads=2, queries=3),
    "h_reducer": HReducerSpec(dim=12),
    "mlp": MlpSpec(hidden=16),
    "linear": MlpSpec(),
}
FUSIONS = {
    "text": InTheText(),
    "modality": ByModality(),
    "beside": BesideTheText((1, 3)),
    "fused": BesideTheText((2,), "fused"),
}
ALL = [*product(("vit",), CONNECTORS, FUSIONS), ("lite", "linear", "text"), ("lite", "abstractor", "beside")]


def made(encoder: str, connector: str, fusion: str, **changes: object) -> Model:
    spec = Spec(ENCODERS[encoder], CONNECTORS[connector], FUSIONS[fusion], LANGUAGE)
    module = randomise(composed.build(replace(spec, **changes)))
    return Model("composed", spec, module, tiny.tokenizer(), composed.layout(replace(spec, **changes)), "")


def asked(model: Model, pictures: int, words: str, answer: str = "an owl") -> Sample:
    parts = (*(Media("image", tiny.picture(c)) for c in ("red", "blue", "green")[:pictures]), Text(words))
    return Sample((Turn("user", parts), Turn("assistant", (Text(answer),), learn=True)))


@pytest.mark.parametrize(("encoder", "connector", "fusion"), ALL)
def test_every_combination_learns_answers_and_comes_back_from_its_folder(
    encoder: str, connector: str, fusion: str, tmp_path: Path
) -> None:
    model = made(encoder, connector, fusion)
    rows = pad([model.processor(asked(model, n, "what is this?")) for n in (1, 2)], pad_id=0)
    moved = two_steps(model.module, Stage("all", train=("image.connector", "language"), data=()), rows)
    assert any(path.startswith("image.connector.") for path in moved)
    assert any(path.startswith("language.") for path in moved)
    model.module.eval()
    model.save(tmp_path / "kept")
    asks = [[tiny.picture(), "what is this?"], ["and this?"], [tiny.picture("blue"), tiny.picture(), "which?"]]
    with torch.no_grad():
        said = model.generate(asks, max_tokens=6)
        assert scops.load(tmp_path / "kept").generate(asks, max_tokens=6) == said
        assert [model.chat(ask, max_tokens=6) for ask in asks] == said


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_cached_sessions_of_cut_pictures_equal_recompute(fusion: str) -> None:
    model = made("vit", "mlp", fusion, grids=((1, 1), (1, 2), (2, 2)))
    prompts = [Sample(asked(model, n, "a b c"[: 2 * n + 1]).turns[:1]) for n in (0, 1, 3)]
    examples = [model.processor(prompt, reply=True) for prompt in prompts]
    assert [len(one.media.get("image", ())) for one in examples] == [0, 5, 15]
    fast = model.module.session(pad(examples, pad_id=0), capacity=290)
    slow = Recompute(model.module, [pad([one], pad_id=0) for one in examples])
    assert close(fast.logits_BV, slow.logits_BV)
    for ids_B in torch.randint(1, 300, (3, 3)):
        assert close(fast.step(ids_B), slow.step(ids_B))


def test_sizes_name_their_published_stages() -> None:
    assert set(composed.SIZES) == set(composed.STAGES)
    for size, stages in composed.STAGES.items():
        with torch.device("meta"):
            paths = [path for path, _ in composed.build(composed.SIZES[size]).named_parameters()]
        for stage in stages:
            assert stage.source.startswith("shortened from ")
            assert all(any(path.startswith(one.split("*")[0]) for path in paths) for one in stage.train)
