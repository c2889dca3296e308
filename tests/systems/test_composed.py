"""Parts go together as they are said to: every encoder, connector, fusion and language model of the house, and one's own."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch

import scops
from scops.core.batch import Tiles
from scops.core.layout import UNCUT, WHOLE
from scops.core.sample import Media, Sample, Text, Turn
from scops.core.stage import Stage
from scops.data.collate import pad
from scops.model import Model
from scops.model.empty import outline
from scops.models.recompute import Recompute
from scops.nn.tiled import run_tiled
from scops.systems import composed, spec_for
from scops.systems.composing.offered import OFFERED
from scops.train.stage import enter
from tests import tiny
from tests.conftest import close, randomise
from tests.systems.test_stages import two_steps

TOWER = {"dim": 12, "hidden": 20, "layers": 1, "heads": 2, "image": 32, "patch": 8}
ENCODERS = {
    "efficientnet-lite0": {"side": 64},
    "clip": TOWER,
    "siglip": TOWER,
    "eva": TOWER,
    "grid-vit": {"vit": TOWER, "table": 3},
}
LAYERS = {"dim": 12, "hidden": 20, "layers": 1, "heads": 2}
CONNECTORS = {
    "linear": {},
    "mlp": {},
    "abstractor": LAYERS | {"queries": 3},
    "h_reducer": {"dim": 12, "kernel": [1, 2]},
    "qformer": LAYERS | {"queries": 3, "width": 12},
    "perceiver": {"dim": 12, "hidden": 20, "depth": 1, "heads": 2, "head_dim": 6, "queries": 3, "first": 0},
    "tests.my_pkg.connectors:Pooled": {"window": 2},
}
FUSIONS = {
    "inline": {},
    "modality_adaptive": {},
    "hyper_attention": {"layers": [1, 3]},
    "hyper_attention fused": {"layers": [2], "arrangement": "fused"},
    "gated_cross_attention": {"every": 2, "heads": 2, "head_dim": 6},
}
LANGUAGES = {
    "smollm2-135m": {"hidden": 36, "kv_heads": 2, "context": 400},
    "bloomz-7b": {},
    "opt-2.7b": {"hidden": 36, "words": 20, "context": 400},
    "redpajama-3b": {"hidden": 36, "rotary": 0.5},
    "mpt-7b": {"times": 2},
}
PAGE = Path(__file__).parents[2] / "docs" / "systems" / "composed.md"
SMALL = {"dim": 24, "layers": 3, "heads": 4, "vocab": 307}
NEED_LLAMA = ("modality_adaptive", "hyper_attention", "hyper_attention fused")
Four = tuple[str, str, str, str]


def goes_together(four: Four) -> bool:
    *_, fusion, language = four
    return language == "smollm2-135m" or fusion not in NEED_LLAMA


EVERY: list[Four] = [four for four in product(ENCODERS, CONNECTORS, FUSIONS, LANGUAGES) if goes_together(four)]


def every_pair() -> list[Four]:
    """Few combinations in which every two parts that go together meet."""

    def pairs(four: Four) -> set[tuple[str, str]]:
        return {*combinations(four, 2)}

    left, chosen = set().union(*map(pairs, EVERY)), []
    while left:
        best = max(EVERY, key=lambda four: len(pairs(four) & left))
        left -= pairs(best)
        chosen.append(best)
    return chosen


def words(encoder: str, connector: str, fusion: str, language: str) -> dict[str, Any]:
    """As a run says it."""
    return {
        "encoder": {"kind": encoder, **ENCODERS[encoder]},
        "connector": {"kind": connector, **CONNECTORS[connector]},
        "fusion": {"kind": fusion.split()[0], **FUSIONS[fusion]},
        "language": {"kind": language, **SMALL, **LANGUAGES[language]},
    }


def made(
    encoder: str,
    connector: str,
    fusion: str,
    language: str = "smollm2-135m",
    *,
    changes: Mapping[str, Any] | None = None,
) -> Model:
    chosen = words(encoder, connector, fusion, language) | {"template": "chatml"} | (changes or {})
    model = scops.compose(**chosen, tokenizer=tiny.tokenizer(), pretrained=False)
    randomise(model.module)
    return model


def asked(model: Model, pictures: int, words: str, answer: str = "an owl") -> Sample:
    parts = (*(Media("image", tiny.picture(c)) for c in ("red", "blue", "green")[:pictures]), Text(words))
    return Sample((Turn("user", parts), Turn("assistant", (Text(answer),), learn=True)))


@pytest.mark.parametrize("four", every_pair(), ids=" ".join)
def test_every_two_parts_learn_answer_and_come_back_from_their_folder(four: Four, tmp_path: Path) -> None:
    model = made(*four)
    rows = pad([model.processor(asked(model, n, "what is this?")) for n in (1, 2)], pad_id=0)
    moved = two_steps(model.module, Stage("all", train=("image.connector", "language"), data=()), rows)
    assert any(path.startswith("image.connector.") for path in moved)
    assert any(path.startswith("language.") for path in moved)
    model.module.eval()
    model.save(tmp_path / "kept")
    asks = [[tiny.picture(), "what is this?"], ["and this?"], [tiny.picture("blue"), tiny.picture(), "which?"]]
    with torch.no_grad():
        said = model.generate(asks, max_tokens=6)
        assert scops.load(tmp_path / "kept", trust=["tests"]).generate(asks, max_tokens=6) == said
        assert [model.chat(ask, max_tokens=6) for ask in asks] == said


@torch.no_grad()
def test_every_combination_makes_what_its_layout_promises() -> None:
    for four in EVERY:
        *_, spec = spec_for("composed", words(*four))
        features = composed.eyes_of(spec).features
        system, layout = outline("composed", spec), composed.layout(spec)
        (slot,) = layout.media["image"].arrange(UNCUT)
        assert bool(slot.tokens) != bool(slot.written), four
        pixels = layout.media["image"].pixels
        with torch.device("meta"):
            features_MPD = system.image.encoder(torch.zeros(2, 3, pixels.height, pixels.width))
            connector = system.image.connector.to("meta")
            tokens_MQD = run_tiled(connector, features_MPD, Tiles.of([(WHOLE,)] * 2))
        assert features_MPD.shape == (2, features.count, features.width), four
        assert tokens_MQD.shape == (2, composed.bridge_of(spec).tokens, system.language.embed.embedding_dim), four


SMALLEST = {"encoder": "efficientnet-lite0", "connector": "linear", "fusion": "inline", "language": "smollm2-135m"}


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, offered in OFFERED.items() for name in offered])
def test_every_offered_part_stands_in_a_system_at_its_published_size(part: str, name: str) -> None:
    encoder = {"encoder": "clip"} if part == "connector" else {}  # whose grid an H-Reducer divides
    *_, spec = spec_for("composed", SMALLEST | encoder | {part: name})
    system, layout = outline("composed", spec), composed.layout(spec)
    assert layout.media["image"].tokens == (0 if composed.body_of(spec).mark else composed.bridge_of(spec).tokens)
    stages = composed.STAGES[composed.recipe_of(spec)]
    assert all(enter(system, stage) for stage in stages)
    assert f"`{name}`" in PAGE.read_text("utf-8")


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "smollm2-135m"])
@pytest.mark.parametrize("fusion", NEED_LLAMA)
def test_what_does_not_go_together_is_refused_with_the_reason(fusion: str, language: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{fusion.split()[0]} .* LLaMA family .* inline and gated_cross_attention go"
    ):
        made("clip", "linear", fusion, language)


REFUSED = {
    "an unknown encoder": ({"encoder": "clap"}, "no encoder 'clap'; did you mean 'clip'"),
    "an unknown connector": ({"connector": "abstracter"}, "no connector 'abstracter'.*did you mean 'abstractor'"),
    "an unknown fusion": ({"fusion": "hyper"}, "no fusion 'hyper'.*'hyper_attention'"),
    "an unknown language model": ({"language": "smollm"}, "no language 'smollm'; did you mean 'smollm2-135m'"),
    "an unknown number": ({"connector": {"kind": "mlp", "hiden": 3}}, "no field 'hiden'; did you mean 'hidden'"),
    "a number that is none": ({"connector": {"kind": "mlp", "hidden": "lots"}}, r"hidden is 'lots', expected int \| None"),
    "a kind that is no name": ({"connector": {"kind": 5}}, "kind of connector is a name, not 5"),
    "numbers of nothing": ({"connector": {"hidden": 5}}, "connector has numbers, but no 'kind'"),
    "no part at all": ({"connector": 5}, "connector is a name"),
    "a template": ({"template": "chatlm"}, "no template 'chatlm'; did you mean 'chatml'"),
    "an arrangement": ({"fusion": {"kind": "hyper_attention", "arrangement": "fuzed"}}, "no arrangement 'fuzed'.*fused"),
    "layers that are not there": ({"fusion": "hyper_attention"}, r"layers \[9, 17, 25\].* but the model has 3"),
    "a kernel that does not fit": ({"connector": "h_reducer", "encoder": {"kind": "clip", **TOWER, "image": 40}},
                                   "would leave away some of 5 x 5"),
    "a Q-Former that reads": ({"connector": {"kind": "qformer", "vocab": 30}}, "needs a layout that brings them"),
    "a resampler that cuts": ({"connector": {"kind": "perceiver", "first": 2}}, "first is 1 at most"),
    "no gates": ({"fusion": {"kind": "gated_cross_attention", "every": 4}}, "before layers none"),
    "a size of EfficientNet": ({"encoder": {"kind": "efficientnet-lite0", "size": "lite9"}}, "no EfficientNet-Lite 'lite9'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_there_is_named(name: str) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        made("clip", "linear", "inline", changes=changes)


def test_a_part_may_also_be_its_own_spec_and_names_bring_their_templates() -> None:
    for part, offered in OFFERED.items():
        for name, spec in offered.items():
            *_, whole = spec_for("composed", {part: name})
            assert getattr(whole, part) == getattr(spec_for("composed", {part: spec})[2], part) == spec
    assert spec_for("composed", {"language": "vicuna-7b-v1.5"})[2].template == "vicuna"
    assert spec_for("composed", {"language": "vicuna-7b-v1.5", "template": "plain"})[2].template == "plain"
    assert spec_for("owl2-smol", {"connector": {"queries": 5}})[2].connector == replace(composed.QUERIES, queries=5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_stages_of_a_fusion_train_what_it_adds(fusion: str) -> None:
    model = made("clip", "linear", fusion)
    align, instruct = composed.STAGES[composed.recipe_of(model.spec)]
    rows = pad([model.processor(asked(model, n, "what is this?")) for n in (1, 2)], pad_id=0)
    paths = {path for path, _ in model.module.named_parameters()}
    torch.nn.init.normal_(model.module.image.encoder.patch.weight)  # so that rounding hides no movement
    moved = two_steps(model.module, align, rows)
    plain = set(made("clip", "linear", "inline").module.language.state_dict())
    added = {path for path in paths if path.startswith("language.") and path.removeprefix("language.") not in plain}
    added -= {path for path in added if ".experts.0." in path}  # the text's, under a new name
    added -= {"language.blocks.2.mlp.norm.experts.1.weight"}  # behind it nobody reads pictures' places
    assert moved == {path for path in paths if path.startswith("image.connector.")} | added
    assert set(enter(model.module, instruct)) == {path for path in paths if not path.startswith("image.encoder.")}


@torch.no_grad()
@pytest.mark.parametrize(("fusion", "language"), sorted({four[2:] for four in EVERY}))
def test_cached_sessions_of_cut_pictures_equal_recompute(fusion: str, language: str) -> None:
    model = made("clip", "mlp", fusion, language, changes={"grids": ((1, 1), (1, 2), (2, 2))})
    prompts = [Sample(asked(model, n, "a b c"[: 2 * n + 1]).turns[:1]) for n in (0, 1, 3)]
    examples = [model.processor(prompt, reply=True) for prompt in prompts]
    assert [len(one.media.get("image", ())) for one in examples] == [0, 5, 15]
    fast = model.module.session(pad(examples, pad_id=0), capacity=290)
    slow = Recompute(model.module, [pad([one], pad_id=0) for one in examples])
    assert close(fast.logits_BV, slow.logits_BV)
    for ids_B in torch.randint(1, 300, (3, 3)):
        assert close(fast.step(ids_B), slow.step(ids_B))


@pytest.mark.parametrize("size", ["owl1-smol", "owl2-smol", "docowl-smol"])
def test_an_encoder_learns_where_a_recipe_says_so_and_nowhere_else(size: str) -> None:
    fusion = "inline" if size == "owl1-smol" else "modality_adaptive"
    model = made("efficientnet-lite0", "linear", fusion)
    rows = pad([model.processor(asked(model, n, "what is this?")) for n in (1, 2)], pad_id=0)
    blind, seeing = composed.STAGES[size][0], composed.STAGES[f"{size}-eyes"][0]
    assert seeing.lr_of == {"image.encoder": seeing.lr / 10}
    assert blind == replace(seeing, train=tuple(one for one in seeing.train if one != "image.encoder"), lr_of={})
    for part in model.module.image.encoder.modules():  # so that something of the picture reaches the end
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    learnt = {name for name, _ in model.module.named_parameters() if name.startswith("image.encoder.")}
    assert not {path for path in two_steps(model.module, blind, rows) if path.startswith("image.encoder.")}
    assert two_steps(model.module, seeing, rows) >= learnt


def test_sizes_name_their_published_stages() -> None:
    for size in composed.SIZES:
        stages = composed.STAGES[size]
        with torch.device("meta"):
            paths = [path for path, _ in composed.build(composed.SIZES[size]).named_parameters()]
        for stage in stages:
            assert stage.source.startswith("shortened from ")
            assert all(any(path.startswith(one.split("*")[0]) for path in paths) for one in stage.train)
