"""Two processes keep one and the same queue, also when they bring unequal numbers of pairs."""

import torch
from torch import Tensor

from scops.objectives.processes import place
from scops.objectives.queue import AT, PICTURES, TEXTS, enqueue, queued
from tests.processes import in_processes


def enqueued() -> tuple[Tensor, dict[str, Tensor]]:
    """The queue as it begins, and the state behind two pairs of the first process and one of the second."""
    rank, _ = place()
    state: dict[str, Tensor] = {}
    count = 2 - rank
    vectors = torch.arange(count * 3.0).view(count, 1, 3) + 100 * rank
    torch.manual_seed(rank)
    old, _ = queued(state, 4, vectors, vectors[:, 0])
    first = old.clone()
    enqueue(state, vectors, vectors[:, 0])
    return first, state


def test_processes_keep_the_same_queue() -> None:
    made = in_processes(enqueued)
    wanted = torch.tensor([[0.0, 1, 2], [3, 4, 5], [100, 101, 102]])
    for _, state in made:
        assert int(state[AT]) == 3
        assert torch.equal(state[PICTURES][:3, 0], wanted)
        assert torch.equal(state[TEXTS][:3], wanted)
    assert torch.equal(made[0][0], made[1][0]), "the queues begin differently"
