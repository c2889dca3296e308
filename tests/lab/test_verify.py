"""Verify finds what is wrong with weights, and nothing wrong with whole ones."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scops.cli.verify import look
from scops.data.messages import sample_of
from scops.generate.talk import prompts
from scops.lab.verify import Finding, check_golden, write_golden
from tests import tiny


def bad(folder: Path, golden: Path | None = None) -> dict[str, str]:
    return {finding.check: finding.says for finding in look(folder, golden) if not finding.good}


@pytest.mark.parametrize(
    ("name", "layout"),
    [("owl", "scops"), *((name, "authors") for name in ("mplug", "owl2", "owl21")), ("text", "transformers")],
)
def test_a_whole_folder_has_nothing_wrong(name: str, layout: str, tmp_path: Path) -> None:
    model = tiny.MODELS[name]()
    folder = model.save(tmp_path / "m", layout)
    asks = ["what?"] if name == "text" else ["what?", [tiny.picture(), "a", tiny.picture("blue")]]
    write_golden(tmp_path / "golden", model.module, prompts(model.processor, [sample_of(ask) for ask in asks]))
    findings = look(folder, tmp_path / "golden")
    assert bad(folder, tmp_path / "golden") == {}
    checks = {finding.check for finding in findings}
    assert checks >= {"config", "tokenizer", "processor", "weights", "names", "shapes", "dtypes", "values", "golden"}


def damaged(tmp_path: Path, change: object) -> Path:
    folder = tiny.text_only().save(tmp_path / "m", "transformers")
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    return folder


def test_leftover_keys_are_named_with_the_nearest(tmp_path: Path) -> None:
    def rename(state: dict) -> None:
        state["model.layers.0.mlp.gate_prj.weight"] = state.pop("model.layers.0.mlp.gate_proj.weight")

    says = bad(damaged(tmp_path, rename))["names"]
    assert "gate_prj" in says
    assert "gate_proj" in says


def test_missing_keys_are_named(tmp_path: Path) -> None:
    says = bad(damaged(tmp_path, lambda state: state.pop("model.norm.weight")))["names"]
    assert "1 missing" in says
    assert "language.norm.weight" in says


def test_not_a_number_is_found(tmp_path: Path) -> None:
    def spoil(state: dict) -> None:
        state["lm_head.weight"][3, 4] = float("nan")
        state["model.norm.weight"][1] = float("inf")

    says = bad(damaged(tmp_path, spoil))["values"]
    assert "2 tensors" in says
    assert "1 NaN" in says
    assert "1 infinite" in says


def test_wrong_shapes_are_found(tmp_path: Path) -> None:
    def cut(state: dict) -> None:
        state["model.norm.weight"] = state["model.norm.weight"][:-1].clone()

    assert "(23,), expected (24,)" in bad(damaged(tmp_path, cut))["shapes"]


def tied(tmp_path: Path, head: str) -> Path:
    model = tiny.made("llama-7b", {"language": tiny.LANGUAGE | {"tied": True}})
    folder = model.save(tmp_path / "m", "transformers")
    state = load_file(folder / "model.safetensors")
    embed = state["model.embed_tokens.weight"]
    state["lm_head.weight"] = embed.clone() if head == "same" else embed + 1
    save_file(state, folder / "model.safetensors")
    return folder


def test_a_tied_head_must_be_the_embedding(tmp_path: Path) -> None:
    assert bad(tied(tmp_path / "a", "same")) == {}
    assert "its numbers differ" in bad(tied(tmp_path / "b", "other"))["ties"]


def test_a_golden_of_another_model_does_not_fit(tmp_path: Path) -> None:
    model = tiny.text_only()
    write_golden(tmp_path, model.module, prompts(model.processor, [sample_of("what?")]))
    assert "1 inputs" in check_golden(tmp_path, model.module)
    with torch.no_grad():
        model.module.language.norm.weight[0] += 0.1
    with pytest.raises(ValueError, match="logits differ by"):
        check_golden(tmp_path, model.module)


def test_a_folder_without_tokenizer_is_told_so(tmp_path: Path) -> None:
    folder = tiny.text_only().save(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in bad(folder)["tokenizer"]


def test_an_unreadable_config_ends_the_look(tmp_path: Path) -> None:
    folder = tiny.text_only().save(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps({"scops": {"system": "llama"}}))
    assert [*look(folder)] == [Finding("config", False, f"{folder / 'config.json'}: the 'scops' section has no 'spec'")]
