"""Two processes do what one does."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
CHILD = """
import sys, torch
from torch import distributed
from tests.train import toy
folder, world, rank, port = toy.Path(sys.argv[1]), *map(int, sys.argv[2:])
if world > 1:
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
module = toy.Toy()
for dropout in (m for m in module.modules() if isinstance(m, torch.nn.Dropout)):
    dropout.p = 0.0
stages = ["align", {"name": "tune", "lora": {"dropout": 0.0}}]
toy.go(folder, module, stages=stages)
if world > 1:
    distributed.destroy_process_group()  # its threads must not outlive the interpreter
"""


def start(folder: Path, world: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = [[sys.executable, "-c", CHILD, str(folder), str(world), str(rank), str(port)] for rank in range(world)]
    children = [subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) for words in given]
    for child in children:
        _, error = child.communicate(timeout=120)
        assert child.returncode == 0, error


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_equal_one(tmp_path):
    start(tmp_path / "one", 1)
    start(tmp_path / "two", 2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("one", "two"))
    assert all((one[key] - two[key]).abs().max() < 1e-4 for key in one)
    state = json.loads((tmp_path / "two" / "checkpoint-30" / "state.json").read_text())
    assert len(state["positions"]) == len(state["random"]) == 2
