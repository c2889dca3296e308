"""What the objectives over pairs of picture and text share in one step: each part of the system runs once."""

# B rows, M media items, N pairs, T tokens, P features per picture, K candidates
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scops.core.batch import Batch
from scops.core.loss import Loss
from scops.core.pairs import Comparing, Pairing, Texts
from scops.objectives.pairs import Place, pairs_of
from scops.objectives.shadow import asked, shadow

SEEN = "pairs|steps"


@dataclass
class Work:
    """One step over the pairs of a batch.

    Args:
        kept: by row, where its only picture is.
        state: of the objective, as in scops.objectives.
        shadow: weights by path; empty where there are none, then the system is its own.
        alpha: of this step.
        scores: similarities of each picture with all texts (N, K), and of each text with all pictures, the batch's own pairs
            first; once something has made them.
    """

    system: Comparing
    batch: Batch
    kept: dict[int, Place]
    state: dict[str, Tensor]
    shadow: dict[str, Tensor]
    alpha: float
    scores: tuple[Tensor, Tensor] | None = field(default=None)

    @property
    def pairing(self) -> Pairing:
        return self.system.pairing

    @property
    def rows_N(self) -> Tensor:
        return torch.tensor(list(self.kept), device=self.batch.ids_BT.device)

    @cached_property
    def seen(self) -> Batch:
        """The batch with what the encoders made of its pictures, so that they look once."""
        return replace(self.batch, media={}, features=self.system.encode(self.batch))

    @cached_property
    def pictures_NPD(self) -> Tensor:
        return self._of(self.system.connect(self.seen))

    @cached_property
    def texts(self) -> Texts:
        return self.system.texts(*self.captions)

    @cached_property
    def captions(self) -> tuple[Tensor, Tensor]:
        """(N, T) ids of the texts of pairs, and which are no padding."""
        ids_BT, real_BT = self.system.captions(self.batch)
        return ids_BT[self.rows_N], real_BT[self.rows_N]

    @cached_property
    def shadow_pictures_NPD(self) -> Tensor:
        return self._of(self.asked("connect", self.batch))

    def asked(self, method: str, *args: Any) -> Any:
        """A method of the system with the shadow weights, without gradients."""
        return asked(self.system, self.shadow, method, *args)

    def _of(self, made: dict[str, Tensor]) -> Tensor:
        return torch.stack([made[kind][item] for kind, item in self.kept.values()])


def work_on(system: Comparing, batch: Batch, state: dict[str, Tensor], kept: dict[int, Place]) -> Work:
    """The step's beginning: the shadow follows, alpha grows."""
    numbers = system.pairing
    weights: dict[str, Tensor] = {}
    if numbers.momentum:
        weights = shadow(system, state, momentum=numbers.momentum, globs=numbers.shadowed)
    steps = int(state.get(SEEN, 0))
    if torch.is_grad_enabled():
        state[SEEN] = torch.tensor(steps + 1)
    alpha = numbers.alpha * (min(1.0, steps / numbers.ramp) if numbers.ramp else 1.0) if numbers.momentum else 0.0
    return Work(system, batch, kept, state, weights, alpha)


Part = Callable[[Work], Tensor]
"""The mean of one loss over the pairs, as published."""


def over_pairs(**parts: Part) -> Callable[[Comparing, Batch, dict[str, Tensor]], Loss]:
    """An objective that is the sum of these, by the names under which the log shows them. Unit: pair.

    A mean over a batch counts once for each of its pairs, so that one batch gives exactly the published sum of means.
    """

    def objective(system: Comparing, batch: Batch, state: dict[str, Tensor]) -> Loss:
        kept = pairs_of(batch, "+".join(parts))
        if not kept:
            return Loss(torch.zeros((), device=batch.ids_BT.device), 0, "pair")
        work = work_on(system, batch, state, kept)
        means = {name: part(work) for name, part in parts.items()}
        logged = {name: (len(kept) * mean.detach(), len(kept)) for name, mean in means.items()}
        return Loss(len(kept) * torch.stack(list(means.values())).sum(), len(kept), "pair", logged)

    return objective


def count_pairs(batch: Batch) -> int:
    return len(pairs_of(batch, "this objective"))
