"""A session small enough to check by eye: the next scores depend on everything the row has seen."""

# B rows, V vocabulary
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor


class Recount:
    """Scores are a fixed random function of the row's whole history, so a row that is mixed up shows at once."""

    def __init__(self, prompts: Sequence[Sequence[int]], *, vocabulary: int = 11, seed: int = 3) -> None:
        dice = torch.Generator().manual_seed(seed)
        self.table_VV = 3 * torch.randn(vocabulary, vocabulary, generator=dice)
        self.rows = [list(prompt) for prompt in prompts]
        self.steps = 0
        self._score()

    def _score(self) -> None:
        self.logits_BV = torch.stack(
            [sum(self.table_VV[i].roll(k) for k, i in enumerate(reversed(row))) / len(row) ** 0.5 for row in self.rows]
        )

    def step(self, ids_B: Tensor) -> Tensor:
        assert len(ids_B) == len(self.rows)
        self.steps += 1
        for row, i in zip(self.rows, ids_B.tolist(), strict=True):
            row.append(i)
        self._score()
        return self.logits_BV

    def select(self, rows_R: Tensor) -> None:
        self.rows = [list(self.rows[i]) for i in rows_R.tolist()]
        self.logits_BV = self.logits_BV[rows_R]


@pytest.fixture
def recount() -> type[Recount]:
    return Recount
