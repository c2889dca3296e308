"""Devices by name."""

import pytest
import torch

import scops
from scops.core.batch import Batch
from scops.core.device import device_of
from scops.data.collate import pad
from tests import tiny
from tests.conftest import example
from tests.train.toy import go


def test_a_device_that_is_there_is_itself() -> None:
    assert device_of("cpu") == device_of(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "words"),
    [("cuda:99", r"'cuda:99' was asked for, but torch .* sees \d+ of its kind"), ("cdua", "did you mean 'cuda'")],
)
def test_one_that_is_not_is_named(name: str, words: str, tmp_path) -> None:
    tiny.owl().save(tmp_path / "owl")
    with pytest.raises(ValueError, match=words):
        scops.load(tmp_path / "owl", device=name)
    with pytest.raises(ValueError, match=words):
        go(tmp_path / "run", device=name)


def test_a_gpu_fetches_batches_from_pinned_memory(monkeypatch) -> None:
    pinned, moved = [], []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x.shape) or x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, non_blocking: moved.append(non_blocking) or x)
    batch: Batch = pad([example([5, 6, 7])], pad_id=0)
    assert batch.to("cuda") == batch
    assert len(pinned) == len(moved) > 1
    assert all(moved)
    batch.to("cpu")
    assert len(moved) == 2 * len(pinned)
