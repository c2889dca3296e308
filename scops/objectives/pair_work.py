"""What the objectives over pairs of picture and text share in one step: each part of the system runs once."""

# B rows, M media items, N pairs, W pairs of all processes, T tokens, P features per picture, K candidates
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
from scops.objectives.processes import counts, of_all, place, together
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
        counts: pairs of each process where these are each other's candidates, else of this one alone.
        rank: which of them is this one.
        scores: similarities of each picture with all texts (N, K), and of each text with all pictures, those of `counts`
            first; once something has made them.
    """

    system: Comparing
    batch: Batch
    kept: dict[int, Place]
    state: dict[str, Tensor]
    shadow: dict[str, Tensor]
    alpha: float
    counts: tuple[int, ...] = ()
    rank: int = 0
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

    @property
    def first(self) -> int:
        """Where this process's pairs stand among those of all."""
        return sum(self.counts[: self.rank])

    def all(self, x_N: Tensor) -> Tensor:
        """(W, ...): of the pairs of all processes in `counts`."""
        return together(x_N, self.counts)

    @cached_property
    def same(self) -> list[list[bool]]:
        """(N, W) on the host: whether two pairs have one and the same picture."""
        digests = self.batch.digests
        known = [
            f"{kind} {digests[kind][item]}" if digests.get(kind) else f"pair {self.first + at}"
            for at, (kind, item) in enumerate(self.kept.values())
        ]
        everywhere = [one for some in of_all(known) for one in some] if len(self.counts) > 1 else known
        return [[mine == other for other in everywhere] for mine in known]

    def asked(self, method: str, *args: Any) -> Any:
        """A method of the system with the shadow weights, without gradients."""
        return asked(self.system, self.shadow, method, *args)

    def _of(self, made: dict[str, Tensor]) -> Tensor:
        return torch.stack([made[kind][item] for kind, item in self.kept.values()])


def work_on(
    system: Comparing, batch: Batch, state: dict[str, Tensor], kept: dict[int, Place], counts: tuple[int, ...]
) -> Work:
    """The step's beginning: the shadow follows, alpha grows."""
    numbers = system.pairing
    weights: dict[str, Tensor] = {}
    if numbers.momentum:
        weights = shadow(system, state, momentum=numbers.momentum, globs=numbers.shadowed)
    steps = int(state.get(SEEN, 0))
    if torch.is_grad_enabled():
        state[SEEN] = torch.tensor(steps + 1)
    alpha = numbers.alpha * (min(1.0, steps / numbers.ramp) if numbers.ramp else 1.0) if numbers.momentum else 0.0
    return Work(system, batch, kept, state, weights, alpha, counts, place()[0] if len(counts) > 1 else 0)


def candidates(system: Comparing, batch: Batch, pairs: int) -> tuple[int, ...]:
    """Pairs of each process while it learns without a queue; of this one alone where it looks, or one of them has none.

    Every process must ask, also one without pairs.
    """
    if not torch.is_grad_enabled() or system.pairing.queue:
        return (pairs,)
    found = counts(pairs, batch.ids_BT.device)
    return found if all(found) else (pairs,)


Part = Callable[[Work], Tensor]
"""The mean of one loss over the pairs, as published."""


def over_pairs(**parts: Part) -> Callable[[Comparing, Batch, dict[str, Tensor]], Loss]:
    """An objective that is the sum of these, by the names under which the log shows them. Unit: pair.

    A mean over a batch counts once for each of its pairs, so that one batch gives exactly the published sum of means.
    """

    def objective(system: Comparing, batch: Batch, state: dict[str, Tensor]) -> Loss:
        kept = pairs_of(batch, "+".join(parts))
        counted = candidates(system, batch, len(kept))
        if not kept:
            return Loss(torch.zeros((), device=batch.ids_BT.device), 0, "pair")
        work = work_on(system, batch, state, kept, counted)
        means = {name: part(work) for name, part in parts.items()}
        logged = {name: (len(kept) * mean.detach(), len(kept)) for name, mean in means.items()}
        return Loss(len(kept) * torch.stack(list(means.values())).sum(), len(kept), "pair", logged)

    return objective


def count_pairs(batch: Batch) -> int:
    return len(pairs_of(batch, "this objective"))
