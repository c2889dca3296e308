"""A checkpoint is whole or not there."""

import random

import numpy as np
import pytest
import torch

from scops.train import checkpoint
from scops.train.checkpoint import Checkpoint


def made(step: int) -> Checkpoint:
    return Checkpoint(
        {"a.weight": torch.full((2, 3), float(step))}, {"a.weight|exp_avg": torch.ones(2, 3)}, {"step": step}
    )


def put(folder, step, limit=3, run=lambda path: path.write_text("system: toy\n")):
    return checkpoint.write(folder, made(step), run=run, limit=limit)


def test_reading_gives_what_was_written(tmp_path):
    found = checkpoint.read(put(tmp_path, 5))
    assert torch.equal(found.weights["a.weight"], made(5).weights["a.weight"])
    assert torch.equal(found.optimiser["a.weight|exp_avg"], torch.ones(2, 3))
    assert found.state["step"] == 5


def test_the_newest_are_kept_by_number(tmp_path):
    for step in (5, 20, 100, 9):
        put(tmp_path, step, limit=2)
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["checkpoint-20", "checkpoint-100"]
    assert checkpoint.latest(tmp_path).name == "checkpoint-100"


def test_a_failing_save_leaves_the_one_before_and_no_rest(tmp_path):
    put(tmp_path, 5)

    def full(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        put(tmp_path, 10, run=full)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-5"]
    assert checkpoint.read(checkpoint.latest(tmp_path)).state["step"] == 5


def test_rests_of_a_killed_save_are_not_checkpoints_and_are_swept(tmp_path):
    put(tmp_path, 5)
    rest = tmp_path / "checkpoint-10.tmp-1234"
    rest.mkdir()
    (rest / "state.json").write_text("{")
    assert checkpoint.latest(tmp_path).name == "checkpoint-5"
    put(tmp_path, 10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5"]


def test_a_folder_is_replaced_whole(tmp_path):
    final = tmp_path / "final"
    for word in ("one", "two"):
        checkpoint.replace_folder(final, lambda beside, word=word: (beside / word).write_text(word))
    assert [p.name for p in final.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_generators_go_on_where_they_were():
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    np.random.normal()  # one gauss is kept back
    state = checkpoint.random_state()

    def dice():
        return [random.random(), np.random.normal(), torch.rand(2).tolist(), np.random.rand()]

    expected = dice()
    checkpoint.restore_random(state)
    assert dice() == expected
