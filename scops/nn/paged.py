"""Keys and values in pages that rows share and give back (PagedAttention, arXiv 2309.06180, section 4)."""

# B rows, N query heads, K key heads, T new tokens, S tokens per page (or kept tokens), H head width, P pages,
# L pages per row, R chosen rows or tokens
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from scops.core.session import OutOfPages
from scops.nn.cache import Pair, attend_in_pages, behind, bytes_of
from scops.ops.attention import Visible


class Pages:
    """So many pages and no more. Each is free, held by rows (counted), or idle: kept for its content until room is needed.

    A full page may carry the digest of its content and of all before it. Whoever needs the same finds it by that,
    also while others hold it. Idle pages are given up in the order in which they were let go.

    Args:
        pages: how many.
        size: tokens per page.
    """

    def __init__(self, pages: int, *, size: int, device: torch.device | str = "cpu"):
        if pages < 1 or size < 1:
            raise ValueError(f"a pool has at least 1 page of at least 1 token, not {pages} of {size}")
        self.count, self.size, self.device = pages, size, device
        self.slots: dict[int, Pair] = {}
        self.held = [0] * pages
        self._empty = list(range(pages))[::-1]
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._page_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        """Pages that no row holds."""
        return len(self._empty) + len(self._idle)

    def pages(self, slot: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Pair:
        """Keys and values (P, K, S, H) of one attention; made at the first use."""
        if slot not in self.slots:
            shape = self.count, kv_heads, self.size, head_dim
            k, v = (torch.zeros(shape, dtype=dtype, device=self.device) for _ in range(2))
            self.slots[slot] = k, v
        return self.slots[slot]

    def take(self) -> int:
        """A page of one's own; OutOfPages when rows hold all."""
        if self._empty:
            page = self._empty.pop()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._digest_of.pop(page)]
        else:
            raise OutOfPages(f"all {self.count} pages of {self.size} tokens are held")
        self.held[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more row holds it."""
        self._idle.pop(page, None)
        self.held[page] += 1

    def give(self, page: int) -> None:
        """One row less holds it."""
        assert self.held[page] > 0, f"page {page} is held by nobody"
        self.held[page] -= 1
        if self.held[page] == 0:
            if page in self._digest_of:
                self._idle[page] = None
            else:
                self._empty.append(page)

    def find(self, digest: bytes) -> int | None:
        return self._page_of.get(digest)

    def keep(self, page: int, digest: bytes) -> None:
        """A page that is full from now on can be found; of two with the same content the first is."""
        if digest not in self._page_of and page not in self._digest_of:
            self._page_of[digest], self._digest_of[page] = page, digest

    def copy(self, page: int) -> int:
        """A page of one's own with the same content."""
        own = self.take()
        for kept_PKSH in (kept for pair in self.slots.values() for kept in pair):
            kept_PKSH[own] = kept_PKSH[page]
        return own


@dataclass(eq=False)
class PagedRow:
    """The pages of one row in order; of them `length` tokens are real."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


class PagedCache:
    """Rows over a pool; a row knows where its pages are, so rows may be gathered anew for every forward.

    `reserve` must have made room before a forward. A page that several rows hold is copied before one of them writes.
    """

    def __init__(self, pool: Pages, rows: Sequence[PagedRow]):
        self.pool, self.rows = pool, list(rows)
        self.fixed: dict[int, Pair] = {}
        self.page = pool.size
        self._told()

    def _told(self) -> None:
        """The device hears what the host knows."""
        most = max((len(row.pages) for row in self.rows), default=0)
        table = [row.pages + [-1] * (most - len(row.pages)) for row in self.rows]
        self.table_BL = torch.tensor(table, dtype=torch.int32, device=self.pool.device).reshape(len(table), most)
        self.lengths_B = torch.tensor([row.length for row in self.rows], device=self.pool.device)
        self.longest = max((row.length for row in self.rows), default=0)

    def pages(self, slot: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Pair:
        return self.pool.pages(slot, kv_heads, head_dim, dtype)

    def reserve(self, tokens_B: Sequence[int]) -> None:
        """All rows get their room or, with OutOfPages, none."""
        size, free = self.pool.size, self.pool.free
        ends = Counter(self._end(row) for row, new in zip(self.rows, tokens_B, strict=True) if new)
        copies = sum(min(writers, self.pool.held[page] - 1) for page, writers in ends.items() if page is not None)
        more_B = [
            max(-(-(row.length + new) // size) - len(row.pages), 0)
            for row, new in zip(self.rows, tokens_B, strict=True)
        ]
        if sum(more_B) + copies > free:
            raise OutOfPages(
                f"{sum(tokens_B)} tokens of {len(self.rows)} rows need {sum(more_B) + copies} more pages of "
                f"{size} tokens, but of {self.pool.count} only {free} are free"
            )
        for row, new, more in zip(self.rows, tokens_B, more_B, strict=True):
            page = self._end(row)
            if new and page is not None and self.pool.held[page] > 1:
                row.pages[row.length // size] = self.pool.copy(page)
                self.pool.give(page)
            row.pages += [self.pool.take() for _ in range(more)]
        if copies or any(more_B):
            self._told()
        self._plan(tokens_B)

    def _end(self, row: PagedRow) -> int | None:
        """The page that the row's next token is written to, if it holds it already."""
        at = row.length // self.pool.size
        return row.pages[at] if at < len(row.pages) else None

    def _plan(self, tokens_B: Sequence[int]) -> None:
        """Which new tokens are kept, and where."""
        size = self.pool.size
        self.tokens_B = torch.tensor(tokens_B, device=self.pool.device)
        placed = [
            (number, token, row.pages[(row.length + token) // size], (row.length + token) % size)
            for number, (row, new) in enumerate(zip(self.rows, tokens_B, strict=True))
            for token in range(new)
        ]
        self._row_R, self._token_R, self._page_R, self._place_R = torch.tensor(placed, device=self.pool.device).T

    def attend(
        self, slot: int, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, visible: Visible, bias: Tensor | None = None
    ) -> Tensor:
        return attend_in_pages(self, slot, q_BNTH, k_BKTH, v_BKTH, visible, bias)

    def append(self, slot: int, k_BKTH: Tensor, v_BKTH: Tensor) -> Pair:
        self.write(slot, k_BKTH, v_BKTH)
        if self.longest == 0:
            return k_BKTH, v_BKTH
        end = self.longest + k_BKTH.shape[2]
        k, v = (self._gathered(kept_PKSH, end) for kept_PKSH in self.pool.slots[slot])
        return k, v

    def write(self, slot: int, k_BKTH: Tensor, v_BKTH: Tensor) -> None:
        kept = self.pages(slot, k_BKTH.shape[1], k_BKTH.shape[3], k_BKTH.dtype)
        for kept_PKSH, new_BKTH in zip(kept, (k_BKTH, v_BKTH), strict=True):
            new_RKH = new_BKTH.transpose(1, 2)[self._row_R, self._token_R]
            kept_PKSH[self._page_R, :, self._place_R] = new_RKH.to(kept_PKSH.dtype)

    def _gathered(self, kept_PKSH: Tensor, end: int) -> Tensor:
        """(B, K, S, H): rows side by side, as far as the longest reaches; what is not a row's own is seen by none."""
        columns = -(-end // self.pool.size)
        table_BL = self.table_BL[:, :columns].long().clamp(min=0)
        table_BL = pad(table_BL, (0, columns - table_BL.shape[1]))
        kept_KRSH = kept_PKSH.transpose(0, 1).index_select(1, table_BL.flatten())
        return kept_KRSH.unflatten(1, table_BL.shape).flatten(2, 3)[:, :, :end].transpose(0, 1)

    def once(self, slot: int, make: Callable[[], Pair]) -> Pair:
        if slot not in self.fixed:
            self.fixed[slot] = make()
        return self.fixed[slot]

    def places(self, tokens: int) -> Tensor:
        return torch.arange(self.longest + tokens, device=self.lengths_B.device)[None]

    def visible(self, tokens: int, window: int | None = None) -> Visible:
        even = all(row.length == self.longest for row in self.rows)
        return behind(self.lengths_B, tokens, self.longest + tokens, window, even=even)

    def advance(self, tokens_B: Tensor) -> None:
        for row, new in zip(self.rows, tokens_B.tolist(), strict=True):
            row.length += new
        self.lengths_B = self.lengths_B + tokens_B
        self.longest = max(row.length for row in self.rows)

    def select(self, rows_R: Tensor) -> None:
        """Repeated rows share their pages; dropped ones give theirs back."""
        chosen = [self.rows[i] for i in rows_R.tolist()]
        rows = [PagedRow(list(row.pages), row.length) for row in chosen]
        for page in (page for row in rows for page in row.pages):
            self.pool.share(page)
        self.release()
        self.rows = rows
        self.fixed = {slot: (k[rows_R], v[rows_R]) for slot, (k, v) in self.fixed.items()}
        self._told()

    @property
    def nbytes(self) -> int:
        return bytes_of(self.pool.slots, self.fixed)

    def release(self) -> None:
        """Every row gives its pages back, the last first, so that a beginning outlives what follows it."""
        for row in self.rows:
            release(self.pool, row)


def release(pool: Pages, row: PagedRow) -> None:
    """The row holds nothing any more; the last page goes first, so that a beginning outlives what follows it."""
    while row.pages:
        pool.give(row.pages.pop())
    row.length = 0
