"""A profile tells where time went and changes nothing; blocks that are run again change nothing either."""

import json

import pytest
import torch

from scops.train.journal import read_metrics
from scops.train.profile import PHASES, Profile, gemm_rate
from tests.train.toy import Toy, go


def losses(folder) -> list[float]:
    return [line["loss"] for line in read_metrics(folder)]


def test_a_profile_tells_of_every_stage_and_moves_no_number(tmp_path, capsys):
    plain, module = tmp_path / "plain", Toy()
    go(plain)
    go(tmp_path / "told", module, profile=True, gradient_checkpointing=True)
    assert losses(tmp_path / "told") == losses(plain)
    assert not {"encode", "connect", "hidden"} & set(vars(module))
    for stage in ("align", "tune"):
        folder = tmp_path / "told" / "profile"
        found = json.loads((folder / f"{stage}.json").read_text())
        assert list(found["seconds"]) == list(PHASES)
        assert sum(found["seconds"].values()) == pytest.approx(found["seconds_per_step"], rel=0.2)
        assert all(
            found["seconds"][phase] > 0 for phase in ("data", "connector", "language model", "backward", "optimiser")
        )
        assert found["flops_per_step"] > 0
        assert 0 < found["mfu"] < 1
        assert (found["steps"], found["dtype"]) == (8, "float32")
        assert (folder / f"{stage}.png").stat().st_size > 1000
        names = {event.get("name") for event in json.loads((folder / f"{stage}-trace.json").read_text())["traceEvents"]}
        assert {"language model", "backward"} <= names
    assert "of its products' rate" in capsys.readouterr().err


def test_operations_are_those_of_the_products(tmp_path):
    class Linear(torch.nn.Linear):
        def encode(self): ...
        def connect(self): ...
        def hidden(self, x):
            return self(x)

    module, said = Linear(7, 5, bias=False), []
    watch = Profile(tmp_path, "one", module, device=torch.device("cpu"), dtype=torch.float32, say=said.append)
    for _ in range(9):
        watch.begin()
        with watch.phase("backward"):
            module.hidden(torch.randn(3, 7)).sum().backward()
        watch.end(tokens=3, samples=1)
    watch.close()
    found = json.loads((tmp_path / "one.json").read_text())
    assert found["steps"] == 6
    assert found["flops_per_step"] == 2 * (2 * 3 * 7 * 5)  # forward, and the weight's gradient
    assert found["tokens_per_second"] == pytest.approx(3 * found["samples_per_second"])
    assert not (tmp_path / "one-trace.json").exists()
    assert len(said) == 1


def test_too_short_a_stage_says_so(tmp_path, capsys):
    go(tmp_path, profile=True, stages=[{"name": "align", "max_steps": 2}])
    assert "nothing is profiled: stage 'align' has 2 steps" in capsys.readouterr().err
    assert not (tmp_path / "profile").exists()


def test_the_journal_tells_how_long_the_step_waited_for_data(tmp_path, capsys):
    go(tmp_path)
    assert all(0 <= line["data_share"] <= 1 for line in read_metrics(tmp_path) if "loss" in line)
    assert "samples/s  data " in capsys.readouterr().err


def test_the_rate_of_products_is_a_machines():
    assert gemm_rate(torch.device("cpu"), torch.float32) > 1e8
