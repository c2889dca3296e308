"""Many conversations over one pool of pages: prompts read in parts, equal beginnings read once, rows that come and go."""

# B rows, T tokens, R media tokens, D width, V vocabulary
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scops.core.batch import Batch, Example
from scops.data.collate import part
from scops.language.model import LanguageModel
from scops.models.beside import Shelf, together
from scops.models.encoded import Encoded, Item, items_of
from scops.native.steps import steps_of
from scops.nn.attention import Asks
from scops.nn.cache import Cache, Pair
from scops.nn.context import Context, Memory
from scops.nn.paged import PagedCache, PagedRow, Pages, release


class Reader(Protocol):
    """What a decoder shows of itself here."""

    language: LanguageModel

    def parameters(self) -> Iterator[Tensor]: ...

    def read(self, batch: Batch, cache: Cache | None = None) -> tuple[Tensor, Context]: ...

    def asking(self, kind: str) -> tuple[Asks, ...]: ...

    def head(self, x: Tensor) -> Tensor: ...


@dataclass(eq=False)
class Row:
    """One conversation.

    Args:
        ids: of the prompt and what was written since.
        opened: how many of them are the prompt.
        before: what keys depend on besides all that stands before them, as the digest of what stands before the first page.
        paged: those of them that stand in pages.
        names: digests of its full pages, as far as they were asked for.
        made: by item number, tokens of pictures that are not wholly in pages yet.
        shelves: by name of a memory, what stands beside the tokens read so far.
    """

    example: Example
    items: tuple[Item, ...]
    ids: list[int]
    opened: int
    before: bytes = b""
    paged: PagedRow = field(default_factory=PagedRow)
    names: list[bytes] = field(default_factory=list)
    made: dict[int, Tensor] = field(default_factory=dict)
    shelves: dict[str, Shelf] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return len(self.ids) - self.paged.length

    def name(self, page: int, size: int) -> bytes:
        """The digest of a full page: of all before it, its ids, and the media that stand or begin in it."""
        while len(self.names) <= page:
            start = len(self.names) * size
            before = self.names[-1] if self.names else self.before
            self.names.append(content(before, self.ids[start : start + size], start, self.items))
        return self.names[page]


def content(before: bytes, ids: Sequence[int], start: int, items: Sequence[Item]) -> bytes:
    """sha256 of everything that the keys and values of a page depend on.

    Args:
        before: the same of the page before; for the first, the row's own.
        start: where the page begins in its row.
    """
    end, words, media = start + len(ids), list(ids), []
    for item in items:
        first, last = max(item.start, start), min(item.end, end)
        if first < last or start <= item.start == item.end < end:
            words[first - start : last - start] = [-1] * (last - first)  # ids have no meaning there
            media.append((item.kind, item.digest, first - start, first - item.start, last - first))
    return hashlib.sha256(repr((before, words, media)).encode()).digest()


class PagedSession:
    """Satisfies scops.core.session.SharedSession."""

    def __init__(self, system: Reader, pool: Pages, encoded: Encoded):
        self.system, self.pool, self.encoded = system, pool, encoded
        self.page, self.pages = pool.size, pool.count
        self.steps = steps_of(system.language) or system.language
        self.asking = cache(system.asking)
        self._joined = _Joined()

    @property
    def free(self) -> int:
        return self.pool.free

    def open(self, example: Example) -> Row:
        stretch, opened = self.system.language.stretch, len(example)
        before = b"" if stretch is None else repr(stretch(opened)).encode()
        return Row(example, items_of(example), example.ids_T.tolist(), opened, before)

    def needs(self, row: Row) -> int:
        others = sum(self.pool.held[page] > 0 for page in self._found(row))
        return -(-(len(row.ids) + 1) // self.page) - len(row.paged.pages) - others

    def _found(self, row: Row) -> Iterator[int]:
        """Pages that hold what comes next in the row; its last token is never among it, somebody must ask what follows."""
        at = row.paged.length // self.page
        if row.paged.length % self.page or len(row.paged.pages) > at:
            return
        while (at + 1) * self.page < len(row.ids):
            page = self.pool.find(row.name(at, self.page))
            if page is None:
                return
            yield page
            at += 1

    @torch.no_grad()
    def read(self, row: Row, most: int) -> Tensor | None:
        for page in list(self._found(row)):
            self.pool.share(page)
            row.paged.pages.append(page)
            row.paged.length += self.page
        start = row.paged.length
        end = min(start + most, len(row.ids))
        cache = PagedCache(self.pool, [row.paged])
        cache.reserve([end - start])
        batch = self._part(row, start, end)
        self._look(row, end)
        hidden_1TD = self._hidden(batch, cache, *_beside([row], end - start))
        self._advance([row], cache, end - start)
        row.made = {number: tokens for number, tokens in row.made.items() if row.items[number].end > end}
        return self.steps.logits(hidden_1TD[:, -1])[0] if row.left == 0 else None

    @torch.no_grad()
    def step(self, rows: Sequence[Row], ids_B: Tensor) -> Tensor:
        assert all(row.left == 0 for row in rows), "a row that is not read to its end cannot write"
        cache = PagedCache(self.pool, [row.paged for row in rows])
        cache.reserve([1] * len(rows))
        ids_B = ids_B.to(self.pool.device)
        batch = Batch(ids_B[:, None], cache.lengths_B[:, None], (1,) * len(rows), ((0,),) * len(rows))
        batch = replace(batch, opened=tuple(row.opened for row in rows))
        hidden_B1D = self._hidden(batch, cache, *self._joined(rows))
        for row, token in zip(rows, ids_B.tolist(), strict=True):
            row.ids.append(token)
        self._advance(rows, cache, 1)
        return self.steps.logits(hidden_B1D[:, 0])

    def release(self, row: Row) -> None:
        release(self.pool, row.paged)
        row.made, row.shelves, self._joined = {}, {}, _Joined()

    def _part(self, row: Row, start: int, end: int) -> Batch:
        """Tokens [start, end) with their media made; pictures whose tokens stand in pages already are left alone."""
        weight = next(self.system.parameters())
        here = [n for n in self._items(row, beside=False) if row.items[n].start < end and row.items[n].end > start]
        new = [n for n in here if n not in row.made]
        for n, (tokens_QD,) in zip(new, self.encoded([row.items[n] for n in new], weight), strict=True):
            row.made[n] = _fitting(tokens_QD, row.items[n])
        connected: dict[str, list[Tensor]] = {}
        for n in here:
            item = row.items[n]
            taken = slice(max(start - item.start, 0), min(end, item.end) - item.start)
            connected.setdefault(item.kind, []).append(row.made[n][taken])
        ids = np.array(row.ids)
        batch = part(replace(row.example, ids_T=ids, learn_T=np.zeros(len(ids), np.bool_)), start, end)
        connected_by = {kind: torch.cat(some) for kind, some in connected.items()}
        batch = replace(batch, connected=connected_by, opened=(row.opened,))
        return batch.to(weight.device)

    def _items(self, row: Row, *, beside: bool) -> list[int]:
        return [n for n, item in enumerate(row.items) if bool(self.asking(item.kind)) == beside]

    def _look(self, row: Row, end: int) -> None:
        """What stands beside the row up to a token is put on its shelves, also where its pages were read by others."""
        weight = next(self.system.parameters())
        items = [row.items[n] for n in self._items(row, beside=True) if row.items[n].start < end]
        for kind in {item.kind for item in items}:
            asking, ours = self.asking(kind), [item for item in items if item.kind == kind]
            shelf = row.shelves.get(asking[0].memory)
            if shelf is None or len(shelf.starts) < len(ours):
                starts = [item.start for item in ours]
                row.shelves[asking[0].memory] = Shelf.of(asking, starts, self.encoded(ours, weight))

    def _hidden(
        self, batch: Batch, cache: PagedCache, memories: Mapping[str, Memory], pairs: Mapping[int, Pair]
    ) -> Tensor:
        x_BTD, ctx = self.system.read(batch, cache)
        cache.fixed = dict(pairs)
        return self.steps.hidden(x_BTD, replace(ctx, memories=memories))

    def _advance(self, rows: Sequence[Row], cache: PagedCache, tokens: int) -> None:
        """The tokens are kept, and pages that they filled can be found."""
        before = [row.paged.length // self.page for row in rows]
        cache.advance(torch.full((len(rows),), tokens, device=self.pool.device))
        for row, first in zip(rows, before, strict=True):
            for page in range(first, row.paged.length // self.page):
                self.pool.keep(row.paged.pages[page], row.name(page, self.page))


class _Joined:
    """What stands beside rows that write together, laid side by side anew only when others write."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.made: tuple[dict[str, Memory], dict[int, Pair]] = {}, {}

    def __call__(self, rows: Sequence[Row]) -> tuple[dict[str, Memory], dict[int, Pair]]:
        if list(rows) != self.rows:
            self.rows, self.made = list(rows), _beside(rows, 1)
        return self.made


def _beside(rows: Sequence[Row], tokens: int) -> tuple[dict[str, Memory], dict[int, Pair]]:
    """Memories of the rows' next tokens by name, and by slot the keys and values in them."""
    memories: dict[str, Memory] = {}
    pairs: dict[int, Pair] = {}
    for name in {name for row in rows for name in row.shelves}:
        first = [row.paged.length for row in rows]
        memories[name], more = together([row.shelves.get(name) for row in rows], first, tokens=tokens)
        pairs |= more
    return memories, pairs


def _fitting(tokens_QD: Tensor, item: Item) -> Tensor:
    if len(tokens_QD) != item.length:
        raise ValueError(
            f"the text has room for {item.length} tokens of {item.kind!r}, but the connector made {len(tokens_QD)}; "
            "the layout and the connector disagree on tokens per item"
        )
    return tokens_QD
