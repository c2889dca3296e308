"""The loss on rows that are not learnt from."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from scops.core.batch import Batch
from scops.objectives import OBJECTIVES, State


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
