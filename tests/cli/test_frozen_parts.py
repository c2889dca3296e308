"""Systems that learn a bridge between frozen parts, from the command line: a folder answers, learns two steps, and answers again."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import scops
from scops.cli.app import main
from tests import tiny
from tests.films import film

BRIDGES = {
    "minigpt4": ("minigpt4-7b", "minigpt4", "pretrain", "image"),
    "minigpt_v2": ("minigpt-v2-7b", "minigpt-v2-7b", "instruct", "image"),
    "timechat": ("timechat-7b", "timechat-7b", "instruct", "video"),
}
"""Tiny model -> size, recipe, stage, kind of media."""


def say(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    printed = capsys.readouterr()
    assert not stopped.value.code, printed.err
    return printed.out


@pytest.mark.parametrize("name", BRIDGES)
def test_a_folder_chats_and_learns(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size, recipe, stage, kind = BRIDGES[name]
    made = tiny.MODELS[name]()
    made.save(tmp_path / "fresh")
    shown = tmp_path / ("a.mp4" if kind == "video" else "a.png")
    film(shown, 7) if kind == "video" else tiny.picture().save(shown)
    said = say(capsys, "chat", tmp_path / "fresh", shown, "what is this?", "--max-tokens", 5)
    assert said == made.chat([shown, "what is this?"], max_tokens=5) + "\n"
    question = {
        "role": "user",
        "content": [{"type": kind, kind: shown.name}, {"type": "text", "text": "what is this?"}],
    }
    rows = [{"messages": [question, {"role": "assistant", "content": f"an owl {number}"}]} for number in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapters = {"lora": {"targets": ["language.blocks.*.attn.body.q"], "rank": 2}} if name != "minigpt4" else {}
    run = {
        "system": size, "recipe": recipe, "init": str(tmp_path / "fresh"), "output_dir": str(tmp_path / "out"),
        "data": {"rows": {"path": str(tmp_path / "rows.jsonl")}}, "device": "cpu",
        "stages": [{"name": stage, "max_steps": 2, "batch": 2, "data": ["rows"], "warmup_steps": 0, **adapters}],
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    assert "2 steps" in say(capsys, "train", tmp_path / "run.yaml")
    trained = scops.load(tmp_path / "out")
    before, after = made.module.state_dict(), trained.module.state_dict()
    moved = {path for path, x in before.items() if not torch.equal(x, after[path])}
    assert "image.connector.project.weight" in moved
    assert all(path.startswith("image.connector.") for path in moved)
    assert any(path.endswith("lora_b") for path in after) == bool(adapters)
    assert say(capsys, "chat", tmp_path / "out", shown, "what is this?", "--max-tokens", 5)
    assert json.loads(say(capsys, "info", tmp_path / "fresh", "--json"))["media"]
    assert json.loads(say(capsys, "verify", tmp_path / "fresh", "--json"))["good"]
