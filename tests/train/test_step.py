"""One step: the mean over all units, however they are cut."""

import math

import pytest
import torch

from scops.core.stage import Stage
from scops.data.collate import pack, pad
from scops.objectives import next_token
from scops.train.stage import enter
from scops.train.step import gradients, silent_roles
from tests.train.toy import STAGES, Toy, Writer, rows

ALL = Stage("all", train=("image", "language"), data=())


def grads(cuts: list[int], *, packed: bool = False, clip: float | None = None, objective: str = "next_token"):
    module = Toy()
    trainables = enter(module, ALL)
    module.eval()
    made, batches = [Writer()(row) for row in rows(9)], []
    for at, end in zip([0, *cuts], [*cuts, 9], strict=True):
        batches.append(pack(made[at:end], capacity=30, pad_id=0) if packed else pad(made[at:end], pad_id=0))
    outcome = gradients(module, objective, batches, trainables, state={}, clip=clip, where="here")
    return {path: p.grad for path, p in trainables.items()}, outcome


def test_micro_batches_of_unequal_token_counts_equal_one_big_batch():
    whole, one = grads([])
    for cuts in ([3, 6], [1], [2, 3, 8]):
        parts, many = grads(cuts)
        assert many.sums["loss"][1] == one.sums["loss"][1]
        assert many.sums["loss"][0] == pytest.approx(one.sums["loss"][0], rel=1e-5)
        assert many.norm == pytest.approx(one.norm, rel=1e-4)
        for path in whole:
            torch.testing.assert_close(parts[path], whole[path], atol=1e-6, rtol=1e-4)


def test_the_gradient_is_that_of_the_mean_over_all_tokens():
    found, _ = grads([4])
    module = Toy()
    trainables = enter(module, ALL)
    module.eval()
    loss = next_token(module, pad([Writer()(row) for row in rows(9)], pad_id=0), {})
    (loss.sum / loss.count).backward()
    for path, parameter in trainables.items():
        torch.testing.assert_close(found[path], parameter.grad, atol=1e-6, rtol=1e-4)


def test_clipping_bounds_the_norm_and_reports_the_one_before():
    found, outcome = grads([], clip=0.01)
    assert outcome.norm > 0.01
    assert math.sqrt(sum(g.square().sum().item() for g in found.values() if g is not None)) == pytest.approx(
        0.01, rel=1e-3
    )


def test_a_micro_batch_without_pairs_adds_nothing():
    module = Toy()
    trainables = enter(module, STAGES["align"])
    made = [Writer()(row) for row in rows(6)]
    pictures, text = [e for e in made if e.spans], [e for e in made if not e.spans]
    batches = [pad(text, pad_id=0), pad(pictures, pad_id=0)]
    outcome = gradients(module, "word_alignment", batches, trainables, state={}, clip=None, where="here")
    assert outcome.sums["loss"][1] == len(pictures)
    with pytest.raises(ValueError, match=r"here: objective 'word_alignment' finds nothing to learn in .*row 2"):
        gradients(module, "word_alignment", batches[:1], trainables, state={}, clip=None, where="here")


def test_a_loss_that_is_not_finite_names_step_and_rows():
    module = Toy()
    trainables = enter(module, ALL)
    with torch.no_grad():
        module.image.connector[0].weight.fill_(torch.nan)
    made = [Writer()(row) for row in rows(3)]
    batches = [pad(made[2:], pad_id=0), pad(made[:2], pad_id=0)]  # row 2 has no picture
    with pytest.raises(FloatingPointError, match=r"step 17: the loss is nan .* rows row 0, row 1$"):
        gradients(module, "next_token", batches, trainables, state={}, clip=None, where="step 17")


def test_roles_without_gradient_are_found():
    module = Toy()
    trainables = enter(module, ALL)
    text = [Writer()(row) for row in rows(3, pictures=False)]
    gradients(module, "next_token", [pad(text, pad_id=0)], trainables, state={}, clip=None, where="here")
    assert silent_roles(trainables) == ["image.encoder", "image.connector"]
