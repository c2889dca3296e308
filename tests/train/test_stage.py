"""A stage trains what it names, and nothing else moves."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from scops.core.stage import Stage
from scops.train.optimise import Optimiser
from scops.train.stage import enter, frozen_roles, role_of, table
from tests.train.toy import STAGES, Toy

ALIGN, TUNE = STAGES["align"], STAGES["tune"]


def test_trainables_are_exactly_the_named_parameters_and_the_adapters():
    module = Toy()
    assert set(enter(module, ALIGN)) == {"image.connector.0.weight", "image.connector.0.bias"}
    assert set(enter(module, TUNE)) == {
        "image.connector.0.weight", "image.connector.0.bias", "language.q.lora_a", "language.q.lora_b",
        "language.up.lora_a", "language.up.lora_b",
    }  # fmt: skip
    assert {p for p, t in module.named_parameters() if t.requires_grad} == set(enter(module, TUNE))


def test_adapters_of_an_earlier_stage_freeze_when_not_named():
    module = Toy()
    enter(module, TUNE)
    assert set(enter(module, ALIGN)) == {"image.connector.0.weight", "image.connector.0.bias"}


def test_frozen_parts_stay_in_eval_mode_whatever_is_called():
    module = Toy()
    enter(module, ALIGN)
    for put in (module.train, module.eval, module.train, module.image.train):
        put()
        assert not any(m.training for m in [*module.image.encoder.modules(), *module.language.modules()])
    assert module.training
    assert all(m.training for m in module.image.connector.modules())
    module.eval()
    assert not any(m.training for m in module.modules())


def test_dropout_beside_what_trains_is_active():
    module = Toy()
    enter(module, TUNE)
    assert module.language.drop.training
    assert module.language.q.training
    assert not module.language.norm.training
    assert not module.language.embed.training


def test_the_next_stage_wakes_what_it_trains():
    module = Toy()
    enter(module, ALIGN)
    enter(module, replace(ALIGN, train=("image.encoder",)))
    module.train()
    assert module.image.encoder.training
    assert not module.image.connector[0].training


def test_a_deep_copy_stays_frozen_on_its_own():
    module = Toy()
    enter(module, ALIGN)
    other = copy.deepcopy(module)
    assert other.image.encoder.train() is other.image.encoder
    assert not other.train().image.encoder.training


def test_a_glob_that_covers_nothing_names_the_nearest():
    with pytest.raises(ValueError, match=r"stage 'x' trains 'image.conector'.*did you mean 'image.connector'"):
        enter(Toy(), Stage("x", train=("image.conector",), data=()))


def test_a_stage_that_trains_nothing_is_refused():
    with pytest.raises(ValueError, match="stage 'x' trains nothing"):
        enter(Toy(), Stage("x", train=(), data=()))


def test_table_counts_every_parameter_once():
    module = Toy()
    stage = replace(TUNE, lr_of={"language": 7e-4}, weight_decay=0.1)
    optimiser = Optimiser(enter(module, stage), module, stage=stage)
    rows = {row.role: row for row in table(module, stage, optimiser.lrs, optimiser.decays)}
    assert set(rows) == {"image.encoder", "image.connector", "language"}
    assert sum(row.parameters for row in rows.values()) == sum(p.numel() for p in module.parameters())
    assert sum(row.trainable for row in rows.values()) == sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert (rows["language"].lora, rows["language"].lrs, rows["image.connector"].lrs) == (96, (7e-4,), (5e-3,))
    assert frozen_roles(module) == ["image.encoder"]


def test_roles_are_one_or_two_pieces():
    assert [role_of(p) for p in ("image.encoder.a.b", "language.blocks.0", "image.cut", "head")] == [
        "image.encoder", "language", "image", "head",
    ]  # fmt: skip


def test_one_step_moves_only_the_named():
    module = Toy()
    trainables = enter(module, TUNE)
    optimiser = Optimiser(trainables, module, stage=TUNE)
    before = {p: t.detach().clone() for p, t in module.named_parameters()}
    for parameter in trainables.values():
        parameter.grad = torch.randn_like(parameter)
    optimiser.step(0)
    moved = {p for p, t in module.named_parameters() if not torch.equal(before[p], t)}
    assert moved == set(trainables)


def test_only_the_named_rows_learn_and_nothing_decays_the_others():
    torch.manual_seed(0)
    module = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 4)})
    rows = Stage("rows", train=("embed", "head"), data=("x",), rows={"embed": (-2, 0)}, lr=0.1, weight_decay=0.5)

    def moved(stage: Stage) -> list[int]:
        before, optimiser = (
            module["embed"].weight.detach().clone(),
            Optimiser(enter(module, stage), module, stage=stage),
        )
        for done in range(2):
            module["head"](module["embed"](torch.arange(5))).square().sum().backward()
            optimiser.step(done)
        return [row for row in range(5) if not torch.equal(before[row], module["embed"].weight[row])]

    assert moved(rows) == [0, 3]
    assert moved(replace(rows, rows={})) == [0, 1, 2, 3, 4]
    assert moved(replace(rows, train=("head",))) == []
    with pytest.raises(ValueError, match="trains rows of"):
        enter(module, replace(rows, rows={"embedding": (0,)}))
