"""Self- and cross-attention over projections that are passed in, so that LoRA, routing or quantisation plug in."""

# B rows, T tokens, S memory slots, D width, N query heads, H head width
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from scops.native.learning import Turned, takes
from scops.nn.block import Contextual, run
from scops.nn.cache import Pair
from scops.nn.context import Context
from scops.ops.attention import Bias, Visible, attend, realise
from scops.ops.masks import Sees, earlier
from scops.ops.rope import Rotary, turned


class Attention(Contextual):
    """Projections and head shapes shared by self- and cross-attention.

    Args:
        q, k, v, o: nn.Linear or Routed; k and v may be narrower than q (grouped heads).
        q_norm, k_norm: on each head, before the rope (Qwen3).
    """

    def __init__(
        self,
        *,
        q: nn.Module,
        k: nn.Module,
        v: nn.Module,
        o: nn.Module,
        head_dim: int,
        rope: Rotary | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
    ):
        super().__init__()
        self.q, self.k, self.v, self.o = q, k, v, o
        self.q_norm, self.k_norm = q_norm or nn.Identity(), k_norm or nn.Identity()
        self.head_dim, self.rope = head_dim, rope
        self.slot = -1  # its place in a cache, set once by number_slots

    def turns(self, ctx: Context, dtype: torch.dtype) -> Pair:
        assert self.rope is not None
        assert ctx.positions_BT is not None, "a rope needs positions in the context"
        cos, sin = self.rope.turns(ctx.positions_BT, ctx.stretch_BT)
        return cos.to(dtype), sin.to(dtype)

    def heads(self, projection: nn.Module, x_BTD: Tensor, ctx: Context) -> Tensor:
        return run(projection, x_BTD, ctx).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def out(self, x_BNTH: Tensor, ctx: Context) -> Tensor:
        return run(self.o, x_BNTH.transpose(1, 2).flatten(2), ctx)


class SelfAttention(Attention):
    """Asks the stream itself.

    Args:
        bias: of the scores by places, in place of a rope; what it holds is not this module's. Layers that are given the same
            one work it out once.
    """

    def __init__(self, *, bias: Bias | None = None, **projections: Any):
        super().__init__(**projections)
        self.bias = bias

    def projected(self, x_BTD: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, N, T, H), keys and values (B, K, T, H), normed and turned."""
        q, k, v = (self.heads(p, x_BTD, ctx) for p in (self.q, self.k, self.v))
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope is not None:
            cos, sin = ctx.once((self.rope, q.dtype), lambda: self.turns(ctx, q.dtype))
            q, k = (Turned.apply(x, cos, sin) if takes(x, cos, sin) else turned(x, cos, sin) for x in (q, k))
        return q, k, v

    def attended(self, x_BTD: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """Queries (for whoever asks something else with them) and what they found in the stream, (B, N, T, H) each."""
        q, k, v = self.projected(x_BTD, ctx)
        bias = self.biased(ctx, q.dtype)
        if ctx.cache is not None:
            return q, ctx.cache.attend(self.slot, q, k, v, ctx.visible, bias)
        return q, attend(q, k, v, ctx.visible, bias=bias)

    def biased(self, ctx: Context, dtype: torch.dtype) -> Tensor | None:
        """(B, N, T, S), worked out once for all layers of a forward."""
        if self.bias is None:
            return None
        bias, places_BT = self.bias, ctx.positions_BT
        assert places_BT is not None, "a bias by places needs positions in the context"

        def make() -> Tensor:
            keys_BS = places_BT if ctx.cache is None else ctx.cache.places(places_BT.shape[1])
            return bias(places_BT, keys_BS).to(dtype)

        return ctx.once((bias, dtype), make)

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        return self.out(self.attended(x_BTD, ctx)[1], ctx)


@runtime_checkable
class Asks(Protocol):
    """What asks a memory. Its keys and values are made of each item alone, wherever it stands, and then put at its place.

    Args:
        memory: its name in ctx.memories.
        slot: its own place in a cache.
    """

    memory: str

    @property
    def slot(self) -> int: ...

    def of_items(self, features_BSD: Tensor) -> Pair:
        """Keys and values (B, K, S, H) of features, whose place is not known yet."""
        ...

    def at(self, k_BKSH: Tensor, positions_BS: Tensor) -> Tensor:
        """The keys of items whose placeholders begin there."""
        ...


def answers(asking: Asks, ctx: Context) -> Pair:
    """Keys and values of a memory. They never change while text grows, so a cache makes them once."""
    memory = ctx.memories[asking.memory]

    def make() -> Pair:
        assert memory.features_BSD is not None, f"nobody kept keys and values of {asking.memory!r}"
        k, v = asking.of_items(memory.features_BSD)
        return (k if memory.positions_BS is None else asking.at(k, memory.positions_BS)), v

    return make() if ctx.cache is None else ctx.cache.once(asking.slot, make)


class CrossAttention(Attention):
    """Asks a memory of the context; where there is none, nothing is found.

    Args:
        memory: its name in ctx.memories.
        sees: which items a token may ask, `earlier` or `latest` of scops.ops.masks.
    """

    def __init__(self, memory: str, *, sees: Sees = earlier, **projections: Any):
        super().__init__(**projections)
        self.memory, self.sees = memory, sees

    def of_items(self, features_BSD: Tensor) -> Pair:
        k, v = (self.heads(projection, features_BSD, Context()) for projection in (self.k, self.v))
        return self.k_norm(k), v

    def at(self, k_BKSH: Tensor, positions_BS: Tensor) -> Tensor:
        return k_BKSH  # no place is written into them

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        q = self.q_norm(self.heads(self.q, x_BTD, ctx))
        if self.memory not in ctx.memories:
            return self.out(torch.zeros_like(q), ctx)
        k, v = answers(self, ctx)
        return self.out(attend(q, k, v, seen(self.memory, self.sees, q, ctx)), ctx)


def seen(memory: str, sees: Sees, q_BNTH: Tensor, ctx: Context) -> Visible:
    """What queries may see of a memory, worked out once for all layers of a forward."""

    def make() -> Visible:
        found = ctx.memories[memory]
        rows, keys = found.item_BS.shape
        return realise(found.visible(sees), rows=rows, queries=q_BNTH.shape[2], keys=keys, device=q_BNTH.device)

    return ctx.once(("seen", memory, sees), make)


def number_slots(model: nn.Module) -> None:
    """Give every attention its own place in a cache."""
    for slot, attention in enumerate(m for m in model.modules() if isinstance(m, Attention)):
        attention.slot = slot
