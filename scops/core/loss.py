"""A loss that says its unit: the loop divides by the global count, never by a mean of means."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """Sum over `count` units (tokens, pairs ...); `parts` are further sums by name over the same unit, for the log."""

    sum: Tensor
    count: int
    unit: str = "token"
    parts: Mapping[str, tuple[Tensor, int]] = field(default_factory=dict)
