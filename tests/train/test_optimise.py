"""The optimiser and its learning rates."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from scops.core.stage import Stage
from scops.train.optimise import Optimiser, factor
from scops.train.stage import enter
from tests.train.toy import Toy

ALL = Stage("all", train=("image", "language"), data=(), lr=1e-2, weight_decay=0.3, steps=20)


def made(stage: Stage = ALL, module: nn.Module | None = None) -> Optimiser:
    module = module or Toy()
    return Optimiser(enter(module, stage), module, stage=stage)


def test_groups_partition_the_trainables():
    stage = replace(ALL, lr_of={"image": 1e-3, "image.connector": 1e-4, "language.q": 3e-3})
    optimiser = made(stage)
    grouped = [id(p) for group in optimiser.adamw.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in optimiser.trainables.values()}


def test_a_later_glob_sets_the_rate():
    optimiser = made(replace(ALL, lr_of={"image": 1e-3, "image.connector": 1e-4}))
    assert optimiser.lrs["image.encoder.0.weight"] == 1e-3
    assert optimiser.lrs["image.connector.0.weight"] == 1e-4
    assert optimiser.lrs["language.q.weight"] == 1e-2


def test_a_rate_for_what_does_not_train_is_refused():
    with pytest.raises(ValueError, match=r"stage 'all' gives a learning rate to 'image.encode'.*did you mean"):
        made(replace(ALL, lr_of={"image.encode": 1e-3}))


def test_norms_biases_and_vectors_are_not_decayed():
    decays = made().decays
    assert {p for p, d in decays.items() if d == 0} == {
        "image.encoder.0.bias", "image.encoder.1.weight", "image.encoder.1.bias", "image.connector.0.bias",
        "language.q.bias", "language.norm.weight", "language.norm.bias",
    }  # fmt: skip


def test_schedule_warms_up_then_falls_to_the_minimum():
    for name, half in (("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)):
        stage = replace(ALL, steps=110, warmup=10, lr=1e-3, min_lr=1e-4, schedule=name)
        assert [factor(stage, done) for done in (0, 4, 9)] == [0.1, 0.5, 1.0]
        assert factor(stage, 10) == 1.0
        assert factor(stage, 60) == pytest.approx(half)
        assert factor(stage, 110) == pytest.approx(1.0 if name == "constant" else 0.1)


def test_equals_plain_adamw_with_the_rate_set_by_hand():
    stage = replace(ALL, warmup=2, weight_decay=0.0)
    ours, twin = Toy(), Toy()
    optimiser, reference = made(stage, ours), torch.optim.AdamW(twin.parameters(), betas=stage.betas, weight_decay=0.0)
    for done in range(4):
        for a, b in zip(ours.parameters(), twin.parameters(), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        optimiser.step(done)
        reference.param_groups[0]["lr"] = stage.lr * factor(stage, done)
        reference.step()
    for a, b in zip(ours.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_state_goes_out_and_in_bit_by_bit():
    one, two, kept = made(module=Toy().bfloat16()), made(module=Toy().bfloat16()), {}
    for optimiser in (one, two):
        torch.manual_seed(3)
        for done in range(3):
            if done == 2 and optimiser is two:
                optimiser.load(kept)
            for parameter in optimiser.trainables.values():
                parameter.grad = torch.randn_like(parameter)
            optimiser.step(done)
            if done == 1 and optimiser is one:
                kept |= {k: v.clone() for k, v in one.state().items()}
    assert any(key.endswith("|master") for key in one.state())
    assert all(torch.equal(one.state()[key], two.state()[key]) for key in one.state())


def test_sixteen_bit_parameters_gather_steps_that_rounding_would_lose():
    module = nn.ModuleDict({"language": nn.Linear(3, 3).bfloat16()})
    nn.init.ones_(module["language"].weight)
    stage = replace(ALL, train=("language",), lr=1e-4, schedule="constant", weight_decay=0.0)
    optimiser = made(stage, module)
    for done in range(60):  # 60 steps of 1e-4; bfloat16 at 1 has steps of 4e-3 below
        for parameter in optimiser.trainables.values():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step(done)
    assert (module["language"].weight < 1).all()


def test_state_of_another_parameter_is_refused():
    with pytest.raises(ValueError, match=r"language.other, which stage 'all' does not train"):
        made().load({"language.other|exp_avg": torch.zeros(1)})
