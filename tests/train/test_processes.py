"""Two processes do what one does."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import in_processes
from tests.train import toy


def learn(folder: Path) -> None:
    module = toy.Toy()
    for dropout in (m for m in module.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.0
    toy.go(folder, module, stages=["align", {"name": "tune", "lora": {"dropout": 0.0}}])


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_equal_one(tmp_path):
    learn(tmp_path / "one")
    in_processes(learn, tmp_path / "two")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("one", "two"))
    assert all((one[key] - two[key]).abs().max() < 1e-4 for key in one)
    state = json.loads((tmp_path / "two" / "checkpoint-30" / "state.json").read_text())
    assert len(state["positions"]) == len(state["random"]) == 2
