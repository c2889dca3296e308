"""What a sub-layer may know besides the residual stream."""

# B rows, T tokens of the stream, S slots of a memory, D width, R chosen rows
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from scops.core.batch import Route
from scops.nn.cache import Cache
from scops.ops.attention import Visible


@dataclass(frozen=True)
class Memory:
    """Features that stand beside the sequence instead of in it.

    Args:
        item_BS: 1-based number of the media item a slot belongs to; 0 is padding, seen by none.
        positions_BS: where the item's placeholder stands in the text, for rotary keys.
    """

    features_BSD: Tensor
    item_BS: Tensor
    positions_BS: Tensor | None = None

    def select(self, rows_R: Tensor) -> "Memory":
        """Keep, drop, repeat or reorder rows."""
        positions_RS = None if self.positions_BS is None else self.positions_BS[rows_R]
        return Memory(self.features_BSD[rows_R], self.item_BS[rows_R], positions_RS)


@dataclass(frozen=True)
class Context:
    """Made once per forward by a model, read by sub-layers, stored on no module. Gains a field only by a decision record.

    Args:
        visible: for self-attention.
        route: which expert of a Routed module treats which token; None sends all to the first.
        items_seen_BT: media items met up to and including each token.
        stretch_BT: how often the trained length was doubled to hold the token's document (dynamic NTK); None where no
            rope asks.
        worked_out: what sub-layers of this forward have worked out of the context once for all of them; begins empty in
            every context, also in one made by `replace`.
    """

    positions_BT: Tensor | None = None
    visible: Visible = None
    route: Route | None = None
    items_seen_BT: Tensor | None = None
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
_register(Memory, ("features_BSD", "item_BS", "positions_BS"))
_register(Context, ("positions_BT", "route", "items_seen_BT", "memories", "stretch_BT"))
