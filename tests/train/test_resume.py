"""Stopped, killed, gone on: the same numbers, bit by bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scops.train import checkpoint
from scops.train import loop as loop_module
from scops.train.interrupt import Interrupted
from tests.train.toy import Toy, go

ROOT = Path(__file__).parents[2]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["grad_norm"], line["learning_rate"]) for line in lines}


class Stop(Exception):
    pass


def broken_after(steps, monkeypatch):
    """The next run dies before step number `steps + 1`, without any farewell."""
    whole, count = loop_module.gradients, [0]

    def gradients(*args, **words):
        if count[0] == steps:
            raise Stop
        count[0] += 1
        return whole(*args, **words)

    monkeypatch.setattr(loop_module, "gradients", gradients)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    go(folder)
    return folder


@pytest.mark.parametrize("steps", [7, 14, 16, 22])
def test_losses_and_weights_after_a_resume_are_bit_equal(whole, tmp_path, monkeypatch, steps):
    broken_after(steps, monkeypatch)
    with pytest.raises(Stop):
        go(tmp_path)
    monkeypatch.undo()
    torch.manual_seed(99)
    go(tmp_path)
    assert losses(tmp_path) == losses(whole)
    one, two = (load_file(folder / "final" / "model.safetensors") for folder in (whole, tmp_path))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert set(one) == set(two)


def test_a_killed_process_goes_on_with_equal_losses(whole, tmp_path):
    slow = "import sys, time, tests.train.toy as toy; from scops.train import loop; keep = loop.gradients\n"
    slow += "def gradients(*a, **k):\n    time.sleep(0.05)\n    return keep(*a, **k)\n"
    slow += "loop.gradients = gradients; toy.go(toy.Path(sys.argv[1]))"
    child = subprocess.Popen([sys.executable, "-c", slow, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not checkpoint.complete(tmp_path) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    stopped = checkpoint.read(checkpoint.latest(tmp_path)).state["step"]
    assert stopped < 30
    go(tmp_path)
    assert losses(tmp_path) == losses(whole)


def test_an_interrupt_saves_and_says_how_to_go_on(whole, tmp_path, monkeypatch):
    keep = loop_module.gradients

    def gradients(*args, where, **words):
        if where == "stage 'tune', step 3":
            os.kill(os.getpid(), signal.SIGINT)
        return keep(*args, where=where, **words)

    monkeypatch.setattr(loop_module, "gradients", gradients)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"stopped after step 17 and saved; go on with: scops train .*run\.yaml"):
        go(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint.latest(tmp_path).name == "checkpoint-17"
    monkeypatch.undo()
    go(tmp_path)
    assert losses(tmp_path) == losses(whole)


def test_lines_between_the_last_checkpoint_and_the_kill_are_written_once(tmp_path, monkeypatch):
    broken_after(8, monkeypatch)
    with pytest.raises(Stop):
        go(tmp_path)
    assert max(losses(tmp_path)) == 8
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    monkeypatch.undo()
    go(tmp_path)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == list(
        range(1, 31)
    )


def test_a_stage_may_be_made_longer_or_shorter_at_a_resume(tmp_path, monkeypatch):
    broken_after(22, monkeypatch)
    with pytest.raises(Stop):
        go(tmp_path)
    monkeypatch.undo()
    shorter = ["align", {"name": "tune", "max_steps": 9}]
    assert go(tmp_path, stages=shorter).steps == 14 + 9
    rates = {step: rate for step, (_, _, rate) in losses(tmp_path).items()}
    as_planned = go(tmp_path / "straight", stages=shorter).folder
    assert rates[23] == losses(as_planned)[23][2]  # the schedule came to its end with the stage
    assert rates[20] > losses(as_planned)[20][2]
    with pytest.raises(ValueError, match=r"stages\.1\.batch was None and is 5"):
        go(tmp_path, stages=["align", {"name": "tune", "batch": 5}])


def test_workers_and_caches_may_change_at_a_resume(whole, tmp_path, monkeypatch):
    broken_after(12, monkeypatch)
    with pytest.raises(Stop):
        go(tmp_path)
    monkeypatch.undo()
    go(tmp_path, dataloader_num_workers=1, feature_cache="disk")
    assert losses(tmp_path) == losses(whole)


def test_a_checkpoint_of_another_system_is_refused(tmp_path):
    go(tmp_path, stages=["align"])

    class Other(Toy):
        def __init__(self):
            super().__init__()
            self.image.connector.append(torch.nn.Linear(12, 12))

    with pytest.raises(ValueError, match=r"the checkpoint lacks image\.connector\.2\.bias"):
        go(tmp_path, Other(), stages=["align"])
