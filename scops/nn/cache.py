"""Keys and values of tokens already read. Knows neither layers nor what keys mean."""

# B rows, N query heads, K key heads, T new tokens, S kept tokens (or tokens per page), H head width, R chosen rows,
# P pages, L pages per row
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from scops.native.pages import attend_pages, takes
from scops.ops.attention import Visible, attend
from scops.ops.masks import Behind, Causal, Mask

Pair = tuple[Tensor, Tensor]


class Cache(Protocol):
    """One face for growing, fixed and paged memory of keys and values.

    `reserve` makes room; a forward attends at every attention's slot; then `advance` says how many of its tokens each
    row keeps.
    """

    def reserve(self, tokens_B: Sequence[int]) -> None:
        """Before a forward, room for that many more tokens of each row; padding behind them needs none."""
        ...

    def attend(
        self, slot: int, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, visible: Visible, bias: Tensor | None = None
    ) -> Tensor:
        """Keep the new keys and values; what the queries find in all that `visible` lets them see, (B, N, T, H).

        Args:
            bias: added to the scores, (B, N, T, S) of all keys in the order of `places`.
        """
        ...

    def append(self, slot: int, k_BKTH: Tensor, v_BKTH: Tensor) -> Pair:
        """Put new tokens behind the old ones; returns all keys and values, (B, K, S, H) each."""
        ...

    def places(self, tokens: int) -> Tensor:
        """Where the keys that `append` would return with so many new tokens stand in their rows, (B or 1, S)."""
        ...

    def once(self, slot: int, make: Callable[[], Pair]) -> Pair:
        """Keys and values that never change while text grows (of a memory): made at the first call."""
        ...

    def visible(self, tokens: int, window: int | None = None) -> Visible:
        """What each of the next `tokens` may see."""
        ...

    def advance(self, tokens_B: Tensor) -> None:
        """Each row keeps its first tokens_B of what was appended last; the rest was padding."""
        ...

    def select(self, rows_R: Tensor) -> None:
        """Keep, drop, repeat or reorder rows."""
        ...

    @property
    def nbytes(self) -> int:
        """Of all keys and values that it has room for."""
        ...


def bytes_of(*slots: Mapping[int, Pair]) -> int:
    return sum(kept.nbytes for pairs in slots for pair in pairs.values() for kept in pair)


@runtime_checkable
class Paged(Protocol):
    """A cache whose keys and values lie in pages that a kernel can read: (P, K, S, H), P pages of S tokens.

    Args:
        page: tokens per page.
        table_BL: int32, the pages of each row in order.
        lengths_B, tokens_B: int64, tokens kept, and those that room was reserved for.
    """

    lengths_B: Tensor
    tokens_B: Tensor

    @property
    def page(self) -> int: ...

    @property
    def table_BL(self) -> Tensor: ...

    def reserve(self, tokens_B: Sequence[int]) -> None: ...

    def append(self, slot: int, k_BKTH: Tensor, v_BKTH: Tensor) -> Pair: ...

    def write(self, slot: int, k_BKTH: Tensor, v_BKTH: Tensor) -> None:
        """New keys and values into the pages, behind the old ones."""
        ...

    def pages(self, slot: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Pair:
        """(P, K, S, H) each, made at the first call."""
        ...


def behind(lengths_B: Tensor, tokens: int, keys: int, window: int | None, *, even: bool) -> Mask:
    """What new tokens behind lengths_B others see; plain causal where there are none."""
    if keys == tokens and (window is None or tokens <= window):
        return Causal()
    return Behind(lengths_B, tokens, keys, window, even)


def attend_in_pages(
    cache: Paged,
    slot: int,
    q_BNTH: Tensor,
    k_BKTH: Tensor,
    v_BKTH: Tensor,
    visible: Visible,
    bias: Tensor | None = None,
) -> Tensor:
    """A cache's `attend`: by a kernel over its pages where one takes it, else over what `append` lays side by side."""
    if bias is not None or not isinstance(visible, Behind | Causal) or not takes(q_BNTH):
        return attend(q_BNTH, *cache.append(slot, k_BKTH, v_BKTH), visible, bias=bias)
    cache.write(slot, k_BKTH, v_BKTH)
    pages = cache.pages(slot, k_BKTH.shape[1], k_BKTH.shape[3], k_BKTH.dtype)
    numbers = {"table_BL": cache.table_BL, "lengths_B": cache.lengths_B, "tokens_B": cache.tokens_B}
    return attend_pages(q_BNTH, *pages, **numbers, window=visible.window if isinstance(visible, Behind) else None)


class FixedCache:
    """Preallocated, with a length per row: padding is overwritten by the next token. One page per row.

    Args:
        capacity: most tokens per row.
    """

    def __init__(self, rows: int, capacity: int, *, device: torch.device | str = "cpu"):
        self.capacity, self.filled, self.even = capacity, 0, True
        self.lengths_B = torch.zeros(rows, dtype=torch.long, device=device)
        self.slots: dict[int, Pair] = {}
        self.fixed: dict[int, Pair] = {}
        self.tokens_B, self._new = torch.zeros(rows, dtype=torch.long, device=device), 0

    @property
    def page(self) -> int:
        return self.capacity

    @property
    def table_BL(self) -> Tensor:
        """int32 (B, 1): as a paged cache's, every row being one page of `capacity` tokens."""
        return torch.arange(len(self.lengths_B), dtype=torch.int32, device=self.lengths_B.device)[:, None]

    def pages(self, slot: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Pair:
        """Keys and values (P, K, S, H) of all rows, P = B and S = capacity; made at the first use."""
        if slot not in self.slots:
            shape = len(self.lengths_B), kv_heads, self.capacity, head_dim
            room = {"dtype": dtype, "device": self.lengths_B.device}
            self.slots[slot] = torch.zeros(shape, **room), torch.zeros(shape, **room)
        return self.slots[slot]

    def reserve(self, tokens_B: Sequence[int]) -> None:
        end = self.filled + max(tokens_B)
        if end > self.capacity:
            raise ValueError(
                f"the cache holds {self.capacity} tokens per row, but {end} were asked for; "
                "make the session with a larger capacity"
            )
        self.tokens_B, self._new = torch.tensor(tokens_B, device=self.lengths_B.device), max(tokens_B)
        self.even = self.even and len({*tokens_B}) == 1

    def attend(
        self, slot: int, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, visible: Visible, bias: Tensor | None = None
    ) -> Tensor:
        return attend_in_pages(self, slot, q_BNTH, k_BKTH, v_BKTH, visible, bias)

    def append(self, slot: int, k_BKTH: Tensor, v_BKTH: Tensor) -> Pair:
        self.write(slot, k_BKTH, v_BKTH)
        k, v = self.slots[slot]
        end = self.filled + k_BKTH.shape[2]
        return k[:, :, :end], v[:, :, :end]

    def write(self, slot: int, k_BKTH: Tensor, v_BKTH: Tensor) -> None:
        assert k_BKTH.shape[2] == self._new, f"room was reserved for {self._new} tokens, not {k_BKTH.shape[2]}"
        kept_PKSH = self.pages(slot, k_BKTH.shape[1], k_BKTH.shape[3], k_BKTH.dtype)
        place_BT = self.lengths_B[:, None] + torch.arange(self._new, device=k_BKTH.device)
        row_B1 = torch.arange(len(place_BT), device=k_BKTH.device)[:, None]
        for kept, new in zip(kept_PKSH, (k_BKTH, v_BKTH), strict=True):
            kept[row_B1, :, place_BT] = new.transpose(1, 2).to(kept.dtype)

    def once(self, slot: int, make: Callable[[], Pair]) -> Pair:
        if slot not in self.fixed:
            self.fixed[slot] = make()
        return self.fixed[slot]

    def places(self, tokens: int) -> Tensor:
        return torch.arange(self.filled + tokens, device=self.lengths_B.device)[None]

    def visible(self, tokens: int, window: int | None = None) -> Mask:
        return behind(self.lengths_B, tokens, self.filled + tokens, window, even=self.even)

    def advance(self, tokens_B: Tensor) -> None:
        self.lengths_B = self.lengths_B + tokens_B
        self.filled += self._new

    def select(self, rows_R: Tensor) -> None:
        self.lengths_B = self.lengths_B[rows_R]
        self.slots = {slot: (k[rows_R], v[rows_R]) for slot, (k, v) in self.slots.items()}
        self.fixed = {slot: (k[rows_R], v[rows_R]) for slot, (k, v) in self.fixed.items()}

    @property
    def nbytes(self) -> int:
        return bytes_of(self.slots, self.fixed)


class GrowingCache:
    """Concatenates and remembers which tokens are real: slow, obvious, the measure of FixedCache."""

    def __init__(self, rows: int, *, device: torch.device | str = "cpu"):
        self.real_BS = torch.zeros(rows, 0, dtype=torch.bool, device=device)
        self.place_BS = torch.zeros(rows, 0, dtype=torch.long, device=device)
        self.slots: dict[int, Pair] = {}
        self.fixed: dict[int, Pair] = {}
        self._new = 0

    @property
    def lengths_B(self) -> Tensor:
        return self.real_BS.sum(1)

    def reserve(self, tokens_B: Sequence[int]) -> None:
        pass  # it grows

    def attend(
        self, slot: int, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, visible: Visible, bias: Tensor | None = None
    ) -> Tensor:
        return attend(q_BNTH, *self.append(slot, k_BKTH, v_BKTH), visible, bias=bias)

    def append(self, slot: int, k_BKTH: Tensor, v_BKTH: Tensor) -> Pair:
        self._new = k_BKTH.shape[2]
        old = self.slots.get(slot)
        self.slots[slot] = (
            (k_BKTH, v_BKTH) if old is None else (torch.cat([old[0], k_BKTH], 2), torch.cat([old[1], v_BKTH], 2))
        )
        return self.slots[slot]

    def once(self, slot: int, make: Callable[[], Pair]) -> Pair:
        if slot not in self.fixed:
            self.fixed[slot] = make()
        return self.fixed[slot]

    def places(self, tokens: int) -> Tensor:
        new_T = torch.arange(tokens, device=self.real_BS.device)
        return torch.cat([self.place_BS, self.lengths_B[:, None] + new_T], 1)

    def visible(self, tokens: int, window: int | None = None) -> Visible:
        if not self.slots and (window is None or tokens <= window):
            return Causal()
        rows = len(self.real_BS)
        new_T = torch.arange(tokens, device=self.real_BS.device)
        old_BTS = self.real_BS[:, None].expand(-1, tokens, -1)
        seen_BTS = torch.cat([old_BTS, (new_T <= new_T[:, None]).expand(rows, -1, -1)], 2)
        if window is not None:
            key_BS = self.places(tokens)
            seen_BTS = seen_BTS & (key_BS[:, -tokens:, None] - key_BS[:, None] < window)
        return seen_BTS[:, None]

    def advance(self, tokens_B: Tensor) -> None:
        self.place_BS = self.places(self._new)
        new_T = torch.arange(self._new, device=self.real_BS.device)
        self.real_BS = torch.cat([self.real_BS, new_T < tokens_B[:, None]], 1)

    def select(self, rows_R: Tensor) -> None:
        self.real_BS, self.place_BS = self.real_BS[rows_R], self.place_BS[rows_R]
        self.slots = {slot: (k[rows_R], v[rows_R]) for slot, (k, v) in self.slots.items()}
        self.fixed = {slot: (k[rows_R], v[rows_R]) for slot, (k, v) in self.fixed.items()}

    @property
    def nbytes(self) -> int:
        return bytes_of(self.slots, self.fixed)
