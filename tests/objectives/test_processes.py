"""Pairs of two processes are each other's candidates: together they learn what one process with all pairs learns."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHILD = """
import sys, torch
from dataclasses import replace
from importlib import import_module
from torch import distributed
from scops.objectives import OBJECTIVES
from scops.systems import blip2_qformer
from tests.conftest import batch_of, randomise
from tests.systems.test_blip2_qformer import DEC, TINY, picture_row

import_module("scops.objectives.matching").drawn = lambda scores, may, floor: scores.masked_fill(~may, -torch.inf).argmax(-1)
torch.manual_seed(3)
system = randomise(blip2_qformer.build(TINY))
system.pairs.temperature.value.data.fill_(0.2)
rows = [replace(picture_row([DEC, *text], 14), digests={"image": (name,)}) for name, text in
        [("a", [4, 5]), ("b", [6]), ("c", [7, 8, 9]), ("a", [10]), ("d", [11, 12])]]
objectives = [OBJECTIVES[name] for name in ("contrastive", "matching")]
both = import_module("scops.objectives.pair_work").over_pairs(
    **{name: import_module(f"scops.objectives.{name}").__dict__[name] for name in ("contrastive", "matching")})

def learnt(rows, pairs):
    system.zero_grad()
    total = 0
    for objective in (both, objectives[1]):  # with the scores that another has made, and alone
        loss = objective(system, batch_of(*rows), {})
        if loss.sum.requires_grad:
            (loss.sum / pairs).backward()
        total += loss.sum.detach()
    return total, torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in system.parameters()])

whole, wanted = learnt(rows, 5)
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=int(sys.argv[1]), world_size=2)
rank = distributed.get_rank()
mine, made = learnt(rows[:3] if rank == 0 else rows[3:], 5)
for tensor in (mine, made):
    distributed.all_reduce(tensor)
assert abs(float(mine - whole)) < 5e-5, (mine, whole)
assert (made - wanted).abs().max() < 5e-5, (made - wanted).abs().max()
none = replace(picture_row([DEC, 4], 14, pictures=0), media={}, spans=())  # a process without pairs holds nobody up
mine, _ = learnt(rows[:3] if rank == 0 else [none], 3)
assert bool(mine) == (rank == 0)
with torch.no_grad():
    seen = OBJECTIVES["contrastive"](system, batch_of(*rows[: 2 + rank]), {}).sum  # looking, each process is alone
assert seen.isfinite()
distributed.barrier()
distributed.destroy_process_group()
"""


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CHILD]
    children = [
        subprocess.Popen([*words, str(rank), str(tmp_path / "meeting")], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for child in children:
        _, error = child.communicate(timeout=120)
        assert child.returncode == 0, error
