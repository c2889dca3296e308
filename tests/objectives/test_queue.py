"""Two processes keep one and the same queue, also when they bring unequal numbers of pairs."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHILD = """
import sys, torch
from torch import distributed
from scops.objectives.queue import AT, PICTURES, TEXTS, enqueue, queued
rank, meeting = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
state, count = {}, 2 - rank
vectors = torch.arange(count * 3.0).view(count, 1, 3) + 100 * rank
torch.manual_seed(rank)
old, _ = queued(state, 4, vectors, vectors[:, 0])
first = old.clone()
enqueue(state, vectors, vectors[:, 0])
assert int(state[AT]) == 3
wanted = torch.tensor([[0.0, 1, 2], [3, 4, 5], [100, 101, 102]])
assert torch.equal(state[PICTURES][:3, 0], wanted) and torch.equal(state[TEXTS][:3], wanted)
both = [torch.empty_like(first) for _ in range(2)]
distributed.all_gather(both, first)
assert torch.equal(*both), "the queues begin differently"
distributed.barrier()
distributed.destroy_process_group()
"""


def test_processes_keep_the_same_queue(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CHILD]
    children = [
        subprocess.Popen([*words, str(rank), str(tmp_path / "meeting")], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for child in children:
        _, error = child.communicate(timeout=120)
        assert child.returncode == 0, error
