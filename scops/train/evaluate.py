"""The loss on rows that are not learnt from."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from scops.core.batch import Batch
from scops.core.sample import Sample
from scops.objectives import OBJECTIVES, State
from scops.train.batches import Batcher
from scops.train.data import Maker, Unusable, make, spread
from scops.train.run import Plan


def held_out_batches(
    batcher: Batcher, plan: Plan, rows: Mapping[str, Sequence[Sample]], processor: Maker, *, samples: int
) -> dict[str, list[Batch]]:
    """By data set, at most `samples` of its rows, in batches as large as the plan's.

    Raises:
        ValueError: a data set without a usable row.
    """
    made: dict[str, list[Batch]] = {}
    for name, held_out in rows.items():
        keys = [(f"held out {name}", number) for number in spread(held_out, samples)]
        found = [batcher.kept.get(key) or make(held_out, key[1], processor, name=name) for key in keys]
        pairs = [(key, e) for key, e in zip(keys, found, strict=True) if not isinstance(e, Unusable)]
        if not pairs:
            raise ValueError(f"no row of the held-out set {name!r} can be used: {found[:1]}")
        examples, size = [example for _, example in pairs], -(-plan.stage.batch // plan.accumulation)
        made[name] = [batcher.one(plan, examples[at : at + size]) for at in range(0, len(examples), size)]
        batcher.keep(pairs)
    return made


@torch.no_grad()
def held_out_loss(
    module: nn.Module, objective: str, batches: Mapping[str, Sequence[Batch]], state: State
) -> dict[str, float]:
    """By data set, and "loss" over all units. Modes are as before afterwards, and no generator is asked."""
    module.eval()
    means, total, units = {}, 0.0, 0
    for name, found in batches.items():
        losses = [OBJECTIVES[objective](module, batch, state) for batch in found]
        count, value = sum(loss.count for loss in losses), float(sum(float(loss.sum) for loss in losses))
        if count:
            means[name], total, units = value / count, total + value, units + count
    module.train()
    return {"loss": total / max(1, units), **means}
