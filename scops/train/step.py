"""One optimiser step in the open: count units, sum gradients over micro-batches and processes, clip, look, move."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from scops.core.batch import Batch
from scops.objectives import COUNTS, OBJECTIVES, State
from scops.objectives.processes import add_up, place, summed
from scops.train.stage import role_of
from scops.train.watch import UNWATCHED, Watch


@dataclass(frozen=True)
class Outcome:
    """What the gradients of one step came from.

    Args:
        sums: by name ("loss", then parts), a sum and its units, over all processes (parts: of this one).
        norm: of the gradient before clipping.
    """

    sums: Mapping[str, tuple[float, int]]
    norm: float


def gradients(
    module: nn.Module, objective: str, batches: Sequence[Batch], trainables: Mapping[str, nn.Parameter], *,
    state: State, clip: float | None, where: str, watch: Watch = UNWATCHED,
) -> Outcome:  # fmt: skip
    """Leave in `.grad` the gradient of the mean over all units of all micro-batches of all processes.

    Args:
        where: names the step in errors.
    Raises:
        ValueError: nothing to learn from.
        FloatingPointError: a loss or gradient that is not finite.
    """
    found = sum(COUNTS[objective](batch) for batch in batches)
    count = summed(found, batches[0].ids_BT.device)
    if not count:
        raise ValueError(f"{where}: objective {objective!r} finds nothing to learn in {_whence(batches)}")
    losses = []
    for batch in batches:
        with watch.phase("head and loss"):
            loss = OBJECTIVES[objective](module, batch, state)
        if loss.sum.requires_grad:  # not when a micro-batch has no unit
            with watch.phase("backward"):
                (loss.sum / count).backward()
        losses.append(loss)
    assert sum(loss.count for loss in losses) == found, f"{objective} counts other units than COUNTS[{objective!r}]"
    _sum_gradients(trainables)
    parameters = list(trainables.values())
    norm = nn.utils.clip_grad_norm_(parameters, torch.inf if clip is None else clip)
    parts = [(name, total, units) for loss in losses for name, (total, units) in loss.parts.items()]
    tensors = [norm, *(loss.sum.detach() for loss in losses), *(total for _, total, _ in parts)]
    norm_value, *values = torch.stack([t.float() for t in tensors]).tolist()  # the only wait for the device
    sums = values[: len(losses)]
    if not all(map(_finite, [norm_value, *sums])):
        bad = [batch for batch, total in zip(batches, sums, strict=True) if not _finite(total)]
        raise FloatingPointError(
            f"{where}: the loss is {sum(sums) / count} and the gradient's norm {norm_value}, in {_whence(bad or batches)}"
        )
    totals = {"loss": (summed(sum(sums), norm.device), count)}
    for (name, _, units), value in zip(parts, values[len(losses) :], strict=True):
        before = totals.get(name, (0.0, 0))
        totals[name] = (before[0] + value, before[1] + units)
    return Outcome(totals, norm_value)


def silent_roles(trainables: Mapping[str, nn.Parameter]) -> list[str]:
    """Roles that should learn but have no gradient at all."""
    roles: dict[str, bool] = {}
    for path, parameter in trainables.items():
        grown = roles.get(role_of(path), False)
        roles[role_of(path)] = grown or (parameter.grad is not None and bool(parameter.grad.any()))
    return [role for role, moves in roles.items() if not moves]


def _sum_gradients(trainables: Mapping[str, nn.Parameter]) -> None:
    """Over processes, of which some may have none of a parameter."""
    if place()[1] == 1:
        return
    for parameter in trainables.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    add_up(parameter.grad for parameter in trainables.values() if parameter.grad is not None)


def _finite(value: float) -> bool:
    return value - value == 0


def _whence(batches: Sequence[Batch]) -> str:
    sets = sorted({name for batch in batches for name in batch.datasets if name})
    rows = [name for batch in batches for name in batch.names if name]
    return f"data sets {', '.join(sets) or '(unnamed)'}, rows {', '.join(rows[:5])}{' ...' if len(rows) > 5 else ''}"
