"""Predict the next token where the batch says so; the head sees those rows only."""

# B rows, T tokens, D width, R supervised positions
from collections.abc import Mapping

import torch
from torch import Tensor

from scops.core.batch import Batch, Targets
from scops.core.loss import Loss
from scops.core.system import Decoder
from scops.objectives.head_loss import head_loss


def next_token(system: Decoder, batch: Batch, state: dict[str, Tensor]) -> Loss:
    """Cross-entropy in float32, summed over supervised tokens; parts by data set where the host can count them."""
    targets = targets_of(batch)
    hidden_RD = system.hidden(batch).flatten(0, 1).index_select(0, targets.index_R)
    total, losses_R = head_loss(system.head, hidden_RD, targets.ids_R)
    return Loss(total, supervised_tokens(batch), "token", _parts(batch, targets, losses_R))


def supervised_tokens(batch: Batch) -> int:
    return len(targets_of(batch).ids_R)


def targets_of(batch: Batch) -> Targets:
    if batch.targets is None:
        raise ValueError("the batch has no targets; it was made for generation, not for training")
    return batch.targets


def _parts(batch: Batch, targets: Targets, losses_R: Tensor) -> Mapping[str, tuple[Tensor, int]]:
    names = list(dict.fromkeys(batch.datasets))
    if len(names) == 1:
        return {names[0]: (losses_R.sum(), len(losses_R))}
    starts = [row * batch.ids_BT.shape[1] + s for row, found in enumerate(batch.documents) for s in found]
    if targets.index_R.is_cuda or len(starts) != len(batch.datasets):  # counting would make the device wait
        return {}
    document_R = torch.bucketize(targets.index_R, torch.tensor(starts), right=True) - 1
    name_R = torch.tensor([names.index(name) for name in batch.datasets])[document_R]
    sums = torch.zeros(len(names)).index_add_(0, name_R, losses_R)
    counts = torch.bincount(name_R, minlength=len(names)).tolist()
    return {name: (sums[i], counts[i]) for i, name in enumerate(names) if counts[i]}
