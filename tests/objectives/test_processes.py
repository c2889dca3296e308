"""Pairs of two processes are each other's candidates: together they learn what one process with all pairs learns."""

from dataclasses import replace
from importlib import import_module
from unittest.mock import patch

import torch
from torch import Tensor, distributed

from scops.core.batch import Example
from scops.models.query_pairs import QueryPairs
from scops.objectives import OBJECTIVES
from scops.objectives.contrastive import contrastive
from scops.objectives.matching import matching
from scops.objectives.pair_work import over_pairs
from scops.objectives.processes import place
from scops.systems import blip2_qformer
from tests.conftest import batch_of, randomise
from tests.processes import in_processes
from tests.systems.test_blip2_qformer import DEC, TINY, picture_row

TEXTS = (("a", [4, 5]), ("b", [6]), ("c", [7, 8, 9]), ("a", [10]), ("d", [11, 12]))
ASKED = over_pairs(contrastive=contrastive, matching=matching), OBJECTIVES["matching"]
"""Matching with the scores that another has made, and alone."""


def made() -> tuple[QueryPairs, list[Example]]:
    """A system and rows, the same everywhere."""
    torch.manual_seed(3)
    system = randomise(blip2_qformer.build(TINY))
    system.pairs.temperature.value.data.fill_(0.2)
    rows = [replace(picture_row([DEC, *text], 14), digests={"image": (name,)}) for name, text in TEXTS]
    return system, rows


def hardest(scores: Tensor, may: Tensor, floor: float) -> Tensor:
    """In place of a draw."""
    return scores.masked_fill(~may, -torch.inf).argmax(-1)


def learnt(system: QueryPairs, rows: list[Example], pairs: int) -> tuple[Tensor, Tensor]:
    """The losses' sum and all gradients."""
    system.zero_grad()
    total = torch.zeros(())
    with patch.object(import_module("scops.objectives.matching"), "drawn", hardest):
        for objective in ASKED:
            loss = objective(system, batch_of(*rows), {})
            if loss.sum.requires_grad:
                (loss.sum / pairs).backward()
            total += loss.sum.detach()
    grads = (torch.zeros_like(p) if p.grad is None else p.grad for p in system.parameters())
    return total, torch.cat([grad.flatten() for grad in grads])


def of_each() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and gradients of both, the loss beside a process without pairs, and what is seen while looking."""
    (system, rows), second = made(), place()[0] == 1
    loss, grads = learnt(system, rows[3:] if second else rows[:3], 5)
    for tensor in (loss, grads):
        distributed.all_reduce(tensor)
    none = replace(picture_row([DEC, 4], 14, pictures=0), media={}, spans=())
    alone, _ = learnt(system, [none] if second else rows[:3], 3)
    with torch.no_grad():
        seen = OBJECTIVES["contrastive"](system, batch_of(*rows[: 3 if second else 2]), {}).sum
    return loss, grads, alone, seen


def test_two_processes_learn_what_one_does() -> None:
    system, rows = made()
    whole, wanted = learnt(system, rows, 5)
    for number, (loss, grads, alone, seen) in enumerate(in_processes(of_each)):
        assert abs(float(loss - whole)) < 5e-5
        assert (grads - wanted).abs().max() < 5e-5
        assert bool(alone) == (number == 0)  # a process without pairs holds nobody up
        assert seen.isfinite()  # looking, each process is alone
