"""Self- and cross-attention over projections that are passed in, so that LoRA, routing or quantisation plug in."""

# B rows, T tokens, S memory slots, D width, N query heads, H head width
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scops.nn.block import Contextual, run
from scops.nn.cache import Pair
from scops.nn.context import Context
from scops.ops.alibi import Alibi
from scops.ops.attention import attend
from scops.ops.masks import Seen, earlier
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
        alibi: linear biases by distance, in place of a rope.
    """

    def __init__(self, *, alibi: Alibi | None = None, **projections: Any):
        super().__init__(**projections)
        self.alibi = alibi

    def attended(self, x_BTD: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """Queries (for whoever asks something else with them) and what they found in the stream, (B, N, T, H) each."""
        q, k, v = (self.heads(p, x_BTD, ctx) for p in (self.q, self.k, self.v))
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope is not None:
            cos, sin = ctx.once((self.rope, q.dtype), lambda: self.turns(ctx, q.dtype))
            q, k = turned(q, cos, sin), turned(k, cos, sin)
        bias = None if self.alibi is None else ctx.once((self.alibi, q.dtype), lambda: self.bias(ctx, q.dtype))
        if ctx.cache is not None:
            return q, ctx.cache.attend(self.slot, q, k, v, ctx.visible, bias)
        return q, attend(q, k, v, ctx.visible, bias=bias)

    def bias(self, ctx: Context, dtype: torch.dtype) -> Tensor:
        """(B, N, T, S)."""
        assert self.alibi is not None
        assert ctx.positions_BT is not None, "linear biases need positions in the context"
        places_BT = ctx.positions_BT
        keys_BS = places_BT if ctx.cache is None else ctx.cache.places(places_BT.shape[1])
        return self.alibi.bias(places_BT, keys_BS).to(dtype)

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        return self.out(self.attended(x_BTD, ctx)[1], ctx)


class CrossAttention(Attention):
    """Asks a memory of the context. Its keys and values never change while text grows, so a cache makes them once.

    Args:
        memory: its name in ctx.memories.
        sees: which items a token may ask, `earlier` or `latest` of scops.ops.masks.
    """

    def __init__(self, memory: str, *, sees: Callable[[Tensor, Tensor], Tensor] = earlier, **projections: Any):
        super().__init__(**projections)
        self.memory, self.sees = memory, sees

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        memory = ctx.memories[self.memory]

        def make() -> Pair:
            return self.k_norm(self.heads(self.k, memory.features_BSD, ctx)), self.heads(
                self.v, memory.features_BSD, ctx
            )

        k, v = make() if ctx.cache is None else ctx.cache.once(self.slot, make)
        q = self.q_norm(self.heads(self.q, x_BTD, ctx))
        if ctx.items_seen_BT is None:
            visible = (memory.item_BS > 0)[:, None, None]
        else:
            visible = Seen(ctx.items_seen_BT, memory.item_BS, self.sees)
        return self.out(attend(q, k, v, visible), ctx)


def number_slots(model: nn.Module) -> None:
    """Give every attention its own place in a cache."""
    for slot, attention in enumerate(m for m in model.modules() if isinstance(m, Attention)):
        attention.slot = slot
