"""Many conversations with an encoder-decoder: replies grow in one pool of pages, prompts are read once and stand beside."""

# B rows, T tokens, N heads, S memory slots, H head width, V vocabulary
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad as padded

from scops.core.batch import Batch, Example
from scops.data.collate import pad
from scops.models.encoded import Encoded, items_of
from scops.nn.cache import Cache, Pair
from scops.nn.context import Context, Memory
from scops.nn.paged import PagedCache, PagedRow, Pages, release


class Replier(Protocol):
    """What an encoder-decoder shows of itself here."""

    def parameters(self) -> Iterator[Tensor]: ...

    def opening(self, example: Example) -> int: ...

    def embed(self, ids: Tensor) -> Tensor: ...

    def read(self, batch: Batch) -> Memory: ...

    def begin(self, ids_BT: Tensor, positions_BT: Tensor, memory: Memory, cache: Cache) -> tuple[Tensor, Context]: ...

    @property
    def writer(self) -> Any: ...


@dataclass(eq=False)
class Row:
    """One conversation.

    Args:
        ids: of the reply, its beginning and what was written since.
        paged: those of them that stand in pages.
        memory: what its prompt was read as; None while it is not read.
        fixed: by slot, the memory's keys and values (1, N, S, H).
    """

    example: Example
    ids: list[int]
    paged: PagedRow = field(default_factory=PagedRow)
    memory: Memory | None = None
    fixed: dict[int, Pair] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return len(self.ids) - self.paged.length


class SharedReplies:
    """Satisfies scops.core.session.SharedSession. Pages hold tokens of replies; of equal prompts pictures alone are shared."""

    def __init__(self, system: Replier, pool: Pages, encoded: Encoded):
        self.system, self.pool, self.encoded = system, pool, encoded
        self.page, self.pages = pool.size, pool.count
        self._rows: tuple[Row, ...] = ()
        self._fixed: dict[int, Pair] = {}
        self._memory: Memory | None = None

    @property
    def free(self) -> int:
        return self.pool.free

    def open(self, example: Example) -> Row:
        return Row(example, example.ids_T[self.system.opening(example) :].tolist())

    def needs(self, row: Row) -> int:
        return -(-(len(row.ids) + 1) // self.page) - len(row.paged.pages)

    @torch.no_grad()
    def read(self, row: Row, most: int) -> Tensor | None:
        start, end = row.paged.length, min(row.paged.length + most, len(row.ids))
        cache = PagedCache(self.pool, [row.paged])
        cache.reserve([end - start])
        memory = row.memory = row.memory or self.system.read(self._prompt(row))
        cache.fixed = row.fixed
        ids_1T = torch.tensor([row.ids[start:end]], device=self.pool.device)
        positions_1T = torch.arange(start, end, device=self.pool.device)[None]
        hidden_1TD = self.system.writer.hidden(*self.system.begin(ids_1T, positions_1T, memory, cache))
        cache.advance(torch.tensor([end - start], device=self.pool.device))
        return self.system.writer.logits(hidden_1TD[:, -1])[0] if row.left == 0 else None

    @torch.no_grad()
    def step(self, rows: Sequence[Row], ids_B: Tensor) -> Tensor:
        assert all(row.left == 0 for row in rows), "a row that is not read to its end cannot write"
        cache = PagedCache(self.pool, [row.paged for row in rows])
        cache.reserve([1] * len(rows))
        memory = self._together(rows)
        cache.fixed, ids_B = self._fixed, ids_B.to(self.pool.device)
        x_B1D, ctx = self.system.begin(ids_B[:, None], cache.lengths_B[:, None], memory, cache)
        hidden_B1D = self.system.writer.hidden(x_B1D, ctx)
        for row, token in zip(rows, ids_B.tolist(), strict=True):
            row.ids.append(token)
        cache.advance(torch.ones_like(ids_B))
        return self.system.writer.logits(hidden_B1D[:, 0])

    def release(self, row: Row) -> None:
        """What was read goes too; the prompt is read again when the row is."""
        release(self.pool, row.paged)
        row.memory, row.fixed = None, {}
        if row in self._rows:
            self._rows, self._fixed, self._memory = (), {}, None

    def _prompt(self, row: Row) -> Batch:
        weight = next(self.system.parameters())
        items = items_of(row.example)
        connected: dict[str, list[Tensor]] = {}
        for item, (tokens_QD,) in zip(items, self.encoded(items, weight), strict=True):
            connected.setdefault(item.kind, []).append(tokens_QD)
        batch = replace(pad([row.example], pad_id=0).to(weight.device), media={})
        return replace(batch, connected={kind: torch.stack(some) for kind, some in connected.items()})

    def _together(self, rows: Sequence[Row]) -> Memory:
        """The memories side by side, with padding behind; kept while the same rows write."""
        if self._memory is None or self._rows != tuple(rows):
            memories = [row.memory for row in rows if row.memory is not None]
            most = max(memory.item_BS.shape[1] for memory in memories)

            def side_by_side(pieces: Sequence[Tensor], axis: int) -> Tensor:
                behind = [(0, 0) * (x.ndim - 1 - axis) + (0, most - x.shape[axis]) for x in pieces]
                return torch.cat([padded(x, room) for x, room in zip(pieces, behind, strict=True)])

            # features are not asked for any more: who asks has kept its keys and values
            self._memory = Memory(None, side_by_side([memory.item_BS for memory in memories], 1))
            self._fixed = {
                slot: (
                    side_by_side([row.fixed[slot][0] for row in rows], 2),
                    side_by_side([row.fixed[slot][1] for row in rows], 2),
                )
                for slot in rows[0].fixed
            }
            self._rows = tuple(rows)
        return self._memory
