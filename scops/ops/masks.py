"""Who may see whom, as predicates over indices; attention realises them per kernel.

A predicate takes (b, h, q, k) index tensors that broadcast and returns bool, True where query q of row b may see key k:
FlexAttention's form, so that one statement serves a dense mask, a block mask and a reader.
"""

# B rows, T queries, S keys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


class Mask:
    """A predicate; `a & b` sees what both let see."""

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        raise NotImplementedError

    def __and__(self, other: "Mask") -> "Mask":
        return Both(self, other)

    def dense(self, rows: int, queries: int, keys: int, device: torch.device | str) -> Tensor:
        """bool (B, 1, T, S)."""

        def index(size: int, axis: int) -> Tensor:
            return torch.arange(size, device=device).unflatten(0, [size if a == axis else 1 for a in range(4)])

        seen = self(index(rows, 0), index(1, 1), index(queries, 2), index(keys, 3))
        return seen.expand(rows, 1, queries, keys)


@dataclass(frozen=True)
class Both(Mask):
    first: Mask
    second: Mask

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.first(b, h, q, k) & self.second(b, h, q, k)


@dataclass(frozen=True)
class Causal(Mask):
    """A token sees itself and what came before."""

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k <= q


@dataclass(frozen=True, eq=False)
class Behind(Mask):
    """Causal, for new tokens that stand behind lengths_B tokens of each row. Dense once for all layers of a forward.

    Args:
        keys: how many there are at most, the new ones included.
        window: as in Window.
        even: whether all rows are known to be of one length, so that nothing is padding.
    """

    lengths_B: Tensor
    tokens: int
    keys: int
    window: int | None = None
    even: bool = False

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        place = self.lengths_B[b] + q
        return (k <= place) if self.window is None else (k <= place) & (place - k < self.window)

    @property
    def all(self) -> bool:
        """Whether every key is seen, as the host knows it."""
        return self.even and self.tokens == 1 and self.window is None

    def dense(self, rows: int, queries: int, keys: int, device: torch.device | str) -> Tensor:
        assert (rows, queries, keys) == (len(self.lengths_B), self.tokens, self.keys), "made for other tokens"
        return self._dense

    @cached_property
    def _dense(self) -> Tensor:
        return super().dense(len(self.lengths_B), self.tokens, self.keys, self.lengths_B.device)


@dataclass(frozen=True)
class Window(Mask):
    """A token sees nothing `size` or more places before it (Mistral 7B, arXiv 2310.06825, section 2)."""

    size: int

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return q - k < self.size


@dataclass(frozen=True)
class Real(Mask):
    """Keys that are not padding. keys_BS: bool."""

    keys_BS: Tensor

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.keys_BS[b, k]


@dataclass(frozen=True)
class Documents(Mask):
    """Causal within one document of a packed row.

    Args:
        starts: per row, where its documents start, first always 0; on the host, so that kernels may loop over documents.
    """

    starts: tuple[tuple[int, ...], ...]

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        most = max(map(len, self.starts))
        starts = torch.tensor([row + (row[-1],) * (most - len(row)) for row in self.starts], device=q.device)
        number = lambda at: (at[..., None] >= starts[b]).sum(-1)
        return (number(q) == number(k)) & (k <= q)


Sees = Callable[[Any, Any], Any]
"""(items met, number of an item) -> whether it is seen; of tensors, or of two numbers."""


def latest(met: Any, item: Any) -> Any:
    """A token sees the media item just before it and no other (Flamingo, arXiv 2204.14198, section 2.3)."""
    return met == item


def earlier(met: Any, item: Any) -> Any:
    """A token sees every media item before it."""
    return met >= item


def earlier_else_all(met: Any, item: Any) -> Any:
    """A token sees every media item before it, and where none is before it all of the row, also those behind it."""
    return (met >= item) | (met == 0)


@dataclass(frozen=True)
class Seen(Mask):
    """Media in a memory, by the number of items that begin before each token or at it.

    Args:
        met_BT: media items of the row met up to and including each token.
        item_BS: number of the item each memory slot belongs to, from 1 along the row; 0 for padding.
        rule: `latest`, `earlier` or `earlier_else_all`.
        before_BT: items in earlier documents of the row, which no token of this one sees; None where there are none.
    """

    met_BT: Tensor
    item_BS: Tensor
    rule: Sees = earlier
    before_BT: Tensor | None = None

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        item = self.item_BS[b, k]
        own = item > (0 if self.before_BT is None else self.before_BT[b, q])
        return self.rule(self.met_BT[b, q], item) & own


@dataclass(frozen=True)
class Past(Mask):
    """A token sees what stands at places before its own, nothing at the same place.

    Args:
        positions_BT, places_BS: of tokens and of what they look at, counted alike.
    """

    positions_BT: Tensor
    places_BS: Tensor

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.positions_BT[b, q] > self.places_BS[b, k]
