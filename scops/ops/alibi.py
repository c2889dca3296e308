"""Attention with linear biases (ALiBi, arXiv 2108.12409, section 3): who stands further away is heard less, by head."""

# B rows, N heads, T queries, S keys
from dataclasses import dataclass
from math import log2

import torch
from torch import Tensor


@dataclass(frozen=True)
class Alibi:
    """slope_n (key's place - query's place), added to the scores. Holds numbers, no tensors, so it follows any device."""

    slopes: tuple[float, ...]

    def __call__(self, queries_BT: Tensor, keys_BS: Tensor) -> Tensor:
        """float32 (B, N, T, S). Distances, not places, so that it stays exact near the query when it is rounded."""
        slopes_N11 = torch.tensor(self.slopes, dtype=torch.float32, device=queries_BT.device)[:, None, None]
        return slopes_N11 * (keys_BS[:, None, None] - queries_BT[:, None, :, None])


def alibi(heads: int, steepest: float = 8) -> Alibi:
    """2 ** (-8 i / heads) for i = 1, 2, ...; where heads are no power of two, the lower power's slopes and every other
    one of the next power's (ofirpress/attention_with_linear_biases).

    Args:
        steepest: in place of 8 (MPT's alibi_bias_max).
    """
    lower = 2 ** int(log2(heads))
    first = [2 ** (-steepest * i / lower) for i in range(1, lower + 1)]
    between = [2 ** (-steepest / 2 * i / lower) for i in range(1, 2 * lower, 2)]
    return Alibi((*first, *between[: heads - lower]))
