"""The same conversation without a cache: slow, obvious, and the measure of every session."""

# B rows, T tokens, V vocabulary, R chosen rows
from dataclasses import replace

import torch
from torch import Tensor

from scops.core.batch import Batch
from scops.core.system import Decoder


class Recompute:
    """Reads everything again at every step, row by row."""

    def __init__(self, system: Decoder, rows: list[Batch]):
        """rows: one batch per row, each of one row without padding."""
        self.system, self.rows = system, rows
        self.logits_BV = self._read()

    def step(self, ids_B: Tensor) -> Tensor:
        self.rows = [_longer(row, ids_B[i : i + 1]) for i, row in enumerate(self.rows)]
        self.logits_BV = self._read()
        return self.logits_BV

    def select(self, rows_R: Tensor) -> None:
        self.rows = [self.rows[i] for i in rows_R.tolist()]
        self.logits_BV = self.logits_BV[rows_R]

    def _read(self) -> Tensor:
        return torch.cat([self.system(row)[:, -1] for row in self.rows])


def _longer(row: Batch, id_1: Tensor) -> Batch:
    """One more text token; it takes the first expert of every routed module."""
    route = row.route
    if route is not None:
        order = torch.cat([route.index[0], row.ids_BT.new_tensor([row.ids_BT.shape[1]]), *route.index[1:]])
        route = replace(route, index=(order[: len(route.index[0]) + 1], *route.index[1:]), inverse_R=order.argsort())
    return replace(
        row,
        ids_BT=torch.cat([row.ids_BT, id_1[None]], 1),
        positions_BT=torch.cat([row.positions_BT, row.positions_BT[:, -1:] + 1], 1),
        lengths=(row.lengths[0] + 1,),
        opened=row.opened or row.lengths,
        route=route,
    )
