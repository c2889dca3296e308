"""Which token comes next: small functions over scores, and a Sampler that runs them in order with seeds that repeat."""

# B rows, V vocabulary
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

NEVER = float("-inf")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The default is greedy.

    Args:
        temperature: scores are divided by it; 0 takes the best token and ignores top_k, top_p, min_p and seed.
        top_k: only the k best tokens; 0 is all.
        top_p: only the fewest best tokens whose probabilities reach p (arXiv 1904.09751); 1 is all.
        min_p: only tokens at least this share of the best one's probability (arXiv 2407.01082); 0 is all.
        repetition_penalty: positive scores of tokens seen before are divided by it, negative ones multiplied
            (arXiv 1909.05858); 1 is none.
        bias: added to the scores of these token ids.
        seed: the same seed gives the same words; None draws one. Row r of a batch uses seed + r.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, value, holds, wanted in (
            ("temperature", self.temperature, 0 <= self.temperature < float("inf"), "at least 0"),
            ("top_k", self.top_k, self.top_k >= 0, "at least 0 (0 is all)"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "in (0, 1]"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "in [0, 1]"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0 (1 is none)"),
        ):
            if not holds:
                raise ValueError(f"sampling: {name} is {wanted}, not {value}")


def biased(logits_BV: Tensor, bias: Mapping[int, float]) -> Tensor:
    ids = [*bias]
    if any(not 0 <= i < logits_BV.shape[-1] for i in ids):
        raise ValueError(f"sampling: bias names token ids {ids}, but there are only {logits_BV.shape[-1]} tokens")
    added = torch.tensor([*bias.values()], dtype=logits_BV.dtype, device=logits_BV.device)
    return logits_BV.index_add(-1, torch.tensor(ids, device=logits_BV.device), added.expand(len(logits_BV), -1))


def penalised(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    lowered_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(seen_BV, lowered_BV, logits_BV)


def best_k(logits_BV: Tensor, k: int) -> Tensor:
    """Exactly k tokens stay; of equals the one with the lower id."""
    order_BV = logits_BV.argsort(dim=-1, descending=True, stable=True)
    return logits_BV.scatter(-1, order_BV[:, k:], NEVER)


def nucleus(logits_BV: Tensor, p: float) -> Tensor:
    """The best token always stays."""
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    probs_BV = sorted_BV.softmax(-1)
    before_BV = probs_BV.cumsum(-1) - probs_BV
    return logits_BV.scatter(-1, order_BV, sorted_BV.masked_fill(before_BV >= p, NEVER))


def above_share(logits_BV: Tensor, share: float) -> Tensor:
    probs_BV = logits_BV.softmax(-1)
    return logits_BV.masked_fill(probs_BV < share * probs_BV.amax(-1, keepdim=True), NEVER)


def drawn(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Inverse of the cumulative distribution, so that one number in [0, 1) per row decides, on every device alike."""
    total_BV = logits_BV.double().softmax(-1).cumsum(-1)
    ids_B1 = torch.searchsorted(total_BV, (uniform_B.to(total_BV) * total_BV[:, -1])[:, None], right=True)
    last_B1 = (logits_BV > NEVER).long().cumsum(-1).argmax(-1, keepdim=True)  # rounding must not pick an excluded token
    return torch.minimum(ids_B1, last_B1)[:, 0]


class Sampler:
    """Scores to tokens, row by row independent: what a row gets does not depend on who else is in the batch.

    Order: bias, repetition penalty, temperature, top_k, top_p, min_p, draw.

    Args:
        rows: how many rows there are at the start.
        prompts: per row the ids that count as seen for the repetition penalty, beside what the row itself writes.
    """

    def __init__(self, sampling: Sampling, *, rows: int, prompts: Sequence[Sequence[int]] = ()) -> None:
        if prompts and len(prompts) != rows:
            raise ValueError(f"sampling: {len(prompts)} prompts for {rows} rows")
        self.sampling = sampling
        self.seed = secrets.randbits(48) if sampling.seed is None else sampling.seed
        self._dice = [torch.Generator().manual_seed(self.seed + row) for row in range(rows)]
        self._prompts = [torch.tensor([*ids], dtype=torch.long) for ids in prompts]
        self._seen: Tensor | None = None

    def __call__(self, logits_BV: Tensor, rows: Sequence[int]) -> Tensor:
        """The next token of each row; `rows` are the rows' numbers at the start."""
        s, logits_BV = self.sampling, logits_BV.float()
        if s.bias:
            logits_BV = biased(logits_BV, s.bias)
        if s.repetition_penalty != 1:
            logits_BV = penalised(logits_BV, self._seen_by(rows, logits_BV), s.repetition_penalty)
        greedy = s.temperature == 0
        ids_B = logits_BV.argmax(-1) if greedy else drawn(self._kept(logits_BV / s.temperature), self._uniform(rows))
        if self._seen is not None:
            self._seen[torch.tensor([*rows], device=ids_B.device), ids_B] = True
        return ids_B

    def _kept(self, logits_BV: Tensor) -> Tensor:
        s = self.sampling
        if 0 < s.top_k < logits_BV.shape[-1]:
            logits_BV = best_k(logits_BV, s.top_k)
        if s.top_p < 1:
            logits_BV = nucleus(logits_BV, s.top_p)
        return above_share(logits_BV, s.min_p) if s.min_p > 0 else logits_BV

    def _uniform(self, rows: Sequence[int]) -> Tensor:
        return torch.cat([torch.rand(1, generator=self._dice[row], dtype=torch.float64) for row in rows])

    def _seen_by(self, rows: Sequence[int], logits_BV: Tensor) -> Tensor:
        if self._seen is None:
            self._seen = torch.zeros(len(self._dice), logits_BV.shape[-1], dtype=torch.bool, device=logits_BV.device)
            for row, ids in enumerate(self._prompts):
                self._seen[row, ids.to(logits_BV.device)] = True
        return self._seen[[*rows]]
