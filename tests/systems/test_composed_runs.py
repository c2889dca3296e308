"""Composed systems from a run, and from the published weights of their parts."""

from pathlib import Path
from typing import Any

import pytest
import torch

import scops
from scops.checkpoints.hub_clip import HUB_CLIP
from scops.checkpoints.hub_llama import HUB_LLAMA_TIED
from scops.checkpoints.write import save_tensors
from scops.model.training import build, stages_of
from scops.train.run import Run
from tests import tiny
from tests.conftest import randomise
from tests.systems.test_composed import FUSIONS, NEED_LLAMA, words
from tests.systems.test_own_connector import run_of, said
from tests.test_parts import below


def run(**more: Any) -> Run:
    return Run.check({"system": "composed", "stages": ["align"], "pretrained": False, **more})


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_run_of_short_words_trains_and_chats(fusion: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    language = "smollm2-135m" if fusion in NEED_LLAMA else "redpajama-3b"
    file = run_of(tmp_path, **words("siglip", "mlp", fusion, language))
    assert said(capsys, "train", file, "stages.0.batch=1", "learning_rate=1e-4")[0] == 0
    final = tmp_path / "out" / "final"
    status, out, error = said(capsys, "chat", final, tmp_path / "red.png", "what is this?", "--max-tokens", 3)
    assert (status, error) == (0, "")
    assert out.endswith("\n")
    assert scops.load(final).spec == build(Run.load(file)).spec


def test_parts_that_a_run_names_choose_its_recipe() -> None:
    assert "learns with the connector" in stages_of(run(fusion="modality_adaptive"))["align"].source
    assert any("gated_attn" in glob for glob in stages_of(run(fusion="gated_cross_attention"))["align"].train)
    fused = {"kind": "hyper_attention", "arrangement": "fused"}
    assert not any("gate" in glob for glob in stages_of(run(fusion=fused))["align"].train)
    assert stages_of(run(system="owl2-smol"))["align"].source.startswith("shortened")
    assert stages_of(run(connector="mlp", recipe="owl2-smol"))["align"].source.startswith("shortened")


def test_init_of_a_composed_system_chooses_the_recipe_of_its_fusion(tmp_path: Path) -> None:
    chosen = words("clip", "linear", "gated_cross_attention", "mpt-7b")
    folder = scops.compose(**chosen, tokenizer=tiny.tokenizer(), pretrained=False).save(tmp_path / "kept")
    stages = stages_of(run(init=str(folder)))
    assert any("gated_attn" in glob for glob in stages["align"].train)
    with pytest.raises(ValueError, match=r"brings its own parts and tokenizer; leave out connector"):
        build(run(init=str(folder), connector="mlp"))


WRONG = {
    "another system": ({"system": "owl-tiny", "connector": "mlp"}, "owl-tiny is made of parts of its own; choose connector"),
    "twice": ({"connector": "mlp", "system_overrides": {"connector": "linear"}}, "connector stands in the run and in"),
    "no such part": ({"encoder": "clap"}, "no encoder 'clap'; did you mean 'clip'"),
    "a misspelt key": ({"conector": "mlp"}, "conector: there is no such key; did you mean 'connector'"),
    "what does not fit": ({"fusion": "modality_adaptive", "language": "mpt-7b"}, "LLaMA family and not with Mpt"),
    "weights of nobody": ({"pretrained": True, "encoder": "clip"}, r"no registry carries the weights of image\.encoder; "),
}  # fmt: skip


def start(**words: Any) -> None:
    asked = run(**words)
    stages_of(asked)
    build(asked)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_run_of_parts_is_named(name: str, tmp_path: Path) -> None:
    changes, message = WRONG[name]
    tiny.tokenizer().save(tmp_path)
    with pytest.raises(ValueError, match=message):
        start(**({"tokenizer": str(tmp_path)} | changes))


# Published weights of parts -------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path: Path) -> dict[str, Any]:
    """The words of a composed system, and where CLIP's file and LLaMA's folder are."""
    chosen = words("clip", "mlp", "modality_adaptive", "smollm2-135m")
    plain = scops.compose(**{**chosen, "fusion": "inline"}, tokenizer=tiny.tokenizer(), pretrained=False)
    randomise(plain.module)
    state = plain.module.state_dict()
    clip = HUB_CLIP.save(below("image.encoder.", state)) | {"text_model.final_layer_norm.weight": torch.ones(3)}
    save_tensors(tmp_path / "clip.safetensors", clip)
    save_tensors(tmp_path / "llama" / "model.safetensors", HUB_LLAMA_TIED.save(below("language.", state)))
    plain.tokenizer.save(tmp_path / "llama")
    where = {"image.encoder": tmp_path / "clip.safetensors", "language": tmp_path / "llama"}
    return {"words": chosen, "where": where, "state": state}


def test_parts_begin_with_published_weights_and_the_rest_is_fresh(published: dict[str, Any]) -> None:
    model = scops.compose(**published["words"], pretrained=published["where"])
    state, wanted = model.module.state_dict(), published["state"]
    assert torch.equal(state["image.encoder.patch.weight"], wanted["image.encoder.patch.weight"])
    for expert in "01":
        keys = state[f"language.blocks.0.attn.body.k.experts.{expert}.weight"]
        assert torch.equal(keys, wanted["language.blocks.0.attn.body.k.weight"])
    assert "fresh image.connector" in model.origin
    anew = scops.compose(**published["words"], pretrained=published["where"] | {"image.encoder": False})
    assert not torch.equal(anew.module.image.encoder.patch.weight, wanted["image.encoder.patch.weight"])
    assert torch.equal(anew.module.language.norm.weight, wanted["language.norm.weight"])


def test_weights_that_are_missing_or_of_another_part_are_named(published: dict[str, Any]) -> None:
    where = published["where"]
    cases = {
        r"no registry carries the weights of language; .*pretrained=\{'language': FOLDER\}": {"image.encoder": False},
        "fits no layout of image.encoder": where | {"image.encoder": where["language"]},
        "has no part 'image.encode'; did you mean": where | {"image.encode": where["language"]},
        "no part 'image.conector' to begin anew; did you mean 'image.connector": where | {"image.conector": False},
    }
    for message, pretrained in cases.items():
        with pytest.raises(ValueError, match=message):
            scops.compose(**published["words"], tokenizer=tiny.tokenizer(), pretrained=pretrained)
