"""A conversation with a system that grows by tokens: all that generation and serving see."""

# B rows, V vocabulary
from typing import Protocol

from torch import Tensor


class Session(Protocol):
    logits_BV: Tensor
    """For each row, the scores of its next token."""

    def step(self, ids_B: Tensor) -> Tensor:
        """Give each row one more token; returns the new logits_BV."""
        ...

    def select(self, rows_R: Tensor) -> None:
        """Keep, drop, repeat or reorder rows."""
        ...
