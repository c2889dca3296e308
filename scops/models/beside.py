"""Media beside the sequence: in the text stays what marks an item's place, and attentions of the language model ask a memory."""

# B rows, T tokens, M media items of all rows, Q tokens per item, D width, S slots of a memory, K key heads, H head width
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from scops.core.batch import Where
from scops.nn.attention import Asks
from scops.nn.cache import Pair
from scops.nn.context import Context, Memory

Starts = tuple[tuple[int, ...], ...]
"""Per row, where its documents start."""


class Beside:
    """A placement: into ctx.memories, which layers with cross-attention ask.

    Args:
        memory: its name there.
    """

    def __init__(self, memory: str):
        self.memory = memory

    def place(
        self, x_BTD: Tensor, tokens_MQD: Tensor | Sequence[Tensor], where: Where, ctx: Context, documents: Starts
    ) -> tuple[Tensor, Context]:
        assert isinstance(tokens_MQD, Tensor), "items beside the sequence are of one length"
        made, marked = len(tokens_MQD), len(where.row_M)
        if made != marked:
            raise ValueError(f"the text marks the places of {marked} items of {self.memory!r}, but there are {made}")
        memory = remembered(tokens_MQD, where, documents, tokens=x_BTD.shape[1])
        return x_BTD, replace(ctx, memories={**ctx.memories, self.memory: memory})


def remembered(tokens_MQD: Tensor, where: Where, documents: Starts, *, tokens: int) -> Memory:
    """Counted on the host.

    Args:
        tokens: of each row, padding included.
    """
    device, (_, slots, _) = tokens_MQD.device, tokens_MQD.shape
    starts = [[s for r, s in zip(where.row_M, where.start_M, strict=True) if r == row] for row in range(len(documents))]
    counts = tuple(map(len, starts))
    item_BI, position_BI = np.zeros((2, len(counts), max(counts)), np.int64)
    met_BT, before_BT = np.zeros((2, len(counts), tokens), np.int64)
    for row, (at, begins) in enumerate(zip(starts, documents, strict=True)):
        began_T = np.array(begins)[np.searchsorted(begins, np.arange(tokens), side="right") - 1]
        item_BI[row, : len(at)] = np.arange(len(at)) + 1
        position_BI[row, : len(at)] = [start - began_T[min(start, tokens - 1)] for start in at]  # may end the row
        met_BT[row] = np.searchsorted(at, np.arange(tokens), side="right")
        before_BT[row] = np.searchsorted(at, began_T, side="left")
    if len({*counts}) == 1:
        tokens_BIQD = tokens_MQD.unflatten(0, item_BI.shape)
    else:
        filled = torch.from_numpy(np.flatnonzero(item_BI)).to(device)
        tokens_RQD = tokens_MQD.new_zeros(item_BI.size, *tokens_MQD.shape[1:])
        tokens_BIQD = tokens_RQD.index_copy(0, filled, tokens_MQD).unflatten(0, item_BI.shape)
    item_BS, position_BS = (torch.from_numpy(x.repeat(slots, 1)).to(device) for x in (item_BI, position_BI))
    packed = any(len(begins) > 1 for begins in documents)
    return Memory(
        tokens_BIQD.flatten(1, 2), item_BS, position_BS, torch.from_numpy(met_BT).to(device),
        torch.from_numpy(before_BT).to(device) if packed else None, counts=counts, most=max(counts),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Shelf:
    """What stands beside one row, for as long as it is read and written.

    Args:
        starts: of its items.
        item_S, position_S: as in Memory.
        pairs: by slot of who asks, keys at their places and values (K, S, H).
    """

    starts: tuple[int, ...]
    item_S: Tensor
    position_S: Tensor
    pairs: Mapping[int, Pair]

    @classmethod
    def of(cls, asking: Sequence[Asks], starts: Sequence[int], kept: Sequence[Sequence[Tensor]]) -> "Shelf":
        """Args:
        kept: of each item, unplaced keys and values (K, Q, H) of each who asks, one behind the other.
        """
        sizes, device = [tensors[0].shape[1] for tensors in kept], kept[0][0].device
        item_S, position_S = (
            torch.tensor(np.repeat(x, sizes), device=device) for x in (np.arange(len(starts)) + 1, starts)
        )
        pairs = {}
        for at, one in enumerate(asking):
            k, v = (torch.cat([tensors[2 * at + part] for tensors in kept], dim=1) for part in range(2))
            pairs[one.slot] = one.at(k[None], position_S[None])[0], v
        return cls(tuple(starts), item_S, position_S, pairs)


def together(shelves: Sequence[Shelf | None], first_T: Sequence[int], *, tokens: int) -> tuple[Memory, dict[int, Pair]]:
    """One memory of several rows, and by slot keys and values (B, K, S, H); None is a row with nothing beside it.

    Args:
        first_T: where the rows' new tokens begin.
        tokens: how many these are.
    """
    some = next(shelf for shelf in shelves if shelf is not None)
    most = max(len(shelf.item_S) for shelf in shelves if shelf is not None)
    nothing = Shelf(
        (), some.item_S[:0], some.position_S[:0], {slot: (k[:, :0], v[:, :0]) for slot, (k, v) in some.pairs.items()}
    )
    rows = [shelf or nothing for shelf in shelves]
    item_BS, position_BS = (
        torch.stack([pad(x, (0, most - len(x))) for x in xs])
        for xs in ([row.item_S for row in rows], [row.position_S for row in rows])
    )
    met_BT = [
        np.searchsorted(row.starts, np.arange(at, at + tokens), side="right")
        for row, at in zip(rows, first_T, strict=True)
    ]
    counts = tuple(len(row.starts) for row in rows)
    passed = all(row.starts[-1] < at for row, at in zip(rows, first_T, strict=True) if row.starts)
    memory = Memory(
        None, item_BS, position_BS, torch.from_numpy(np.stack(met_BT)).to(item_BS.device),
        counts=counts, most=max(counts), passed=passed,
    )  # fmt: skip
    pairs = {
        slot: (
            _stacked([row.pairs[slot][0] for row in rows], most),
            _stacked([row.pairs[slot][1] for row in rows], most),
        )
        for slot in some.pairs
    }
    return memory, pairs


def _stacked(tensors_KSH: Sequence[Tensor], most: int) -> Tensor:
    """(B, K, S, H), of one row without a copy."""
    if len(tensors_KSH) == 1:
        return tensors_KSH[0][None]
    return torch.stack([pad(x_KSH, (0, 0, 0, most - x_KSH.shape[1])) for x_KSH in tensors_KSH])
