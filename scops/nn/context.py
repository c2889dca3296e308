"""What a sub-layer may know besides the residual stream."""

# B rows, T tokens of the stream, S slots of a memory, D width, R chosen rows
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scops.core.batch import Route
from scops.nn.cache import Cache
from scops.ops.attention import Visible
from scops.ops.masks import Seen, Sees


@dataclass(frozen=True)
class Memory:
    """Features that stand beside the sequence instead of in it, and how far each token has come among their items.

    Args:
        features_BSD: None once all who ask have their keys and values in a cache.
        item_BS: number of the media item a slot belongs to, from 1 along the row; 0 is padding, seen by none.
        positions_BS: where the item's placeholder begins in its document, for rotary keys.
        met_BT: items of the row that begin up to and including each token; None lets all tokens see all items.
        before_BT: those of them in earlier documents of a packed row; None where no row is packed.
        counts: items of each row, on the host; most: for how many there are slots.
        passed: whether every token stands behind all of its row's items, as it does in writing.
    """

    features_BSD: Tensor | None
    item_BS: Tensor
    positions_BS: Tensor | None = None
    met_BT: Tensor | None = None
    before_BT: Tensor | None = None
    counts: tuple[int, ...] = ()
    most: int = 0
    passed: bool = False

    def visible(self, sees: Sees) -> Visible:
        """What each token may ask of it; None where that is all, known without asking the device."""
        if self.met_BT is None:
            return (self.item_BS > 0)[:, None, None]
        if self.passed and {*self.counts} == {self.most} and all(sees(self.most, n + 1) for n in range(self.most)):
            return None
        return Seen(self.met_BT, self.item_BS, sees, self.before_BT)

    def behind(self) -> "Memory":
        """The same for what is written behind the rows' ends, when all who ask have kept their keys and values."""
        if self.met_BT is None:
            return self
        met_B1 = torch.tensor(self.counts, device=self.item_BS.device)[:, None]
        return replace(self, features_BSD=None, met_BT=met_B1, before_BT=None, passed=True)

    def select(self, rows_R: Tensor) -> "Memory":
        """Keep, drop, repeat or reorder rows."""
        chosen = {name: x[rows_R] for name in TENSORS if (x := getattr(self, name)) is not None}
        counts = tuple(self.counts[row] for row in rows_R.tolist()) if self.counts else ()
        return replace(self, **chosen, counts=counts)


TENSORS = ("features_BSD", "item_BS", "positions_BS", "met_BT", "before_BT")


@dataclass(frozen=True)
class Context:
    """Made once per forward by a model, read by sub-layers, stored on no module. Gains a field only by a decision record.

    Args:
        visible: for self-attention.
        route: which expert of a Routed module treats which token; None sends all to the first.
        stretch_BT: how often the trained length was doubled to hold the token's document (dynamic NTK); None where no
            rope asks.
        worked_out: what sub-layers of this forward have worked out of the context once for all of them; begins empty in
            every context, also in one made by `replace`.
    """

    positions_BT: Tensor | None = None
    visible: Visible = None
    route: Route | None = None
    memories: Mapping[str, Memory] = field(default_factory=dict)
    cache: Cache | None = None
    stretch_BT: Tensor | None = None
    worked_out: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self.worked_out:
            self.worked_out[key] = make()
        return self.worked_out[key]


def _register(kind: type, tensors: tuple[str, ...]) -> None:
    """Make a dataclass a pytree; fields that are not tensors travel as they are."""
    rest = tuple(f.name for f in fields(kind) if f.init and f.name not in tensors)
    pytree.register_pytree_node(
        kind,
        lambda x: ([getattr(x, n) for n in tensors], tuple(getattr(x, n) for n in rest)),
        lambda children, other: kind(
            **dict(zip(tensors, children, strict=True)), **dict(zip(rest, other, strict=True))
        ),
        serialized_type_name=f"scops.{kind.__name__}",
    )


_register(Route, ("index", "inverse_R"))
_register(Memory, TENSORS)
_register(Context, ("positions_BT", "route", "memories", "stretch_BT"))
