"""Hyper Attention: a few layers of a LLaMA-like model ask pictures beside the text (mPLUG-Owl3, arXiv 2408.04840, section 2.2).

Published in three arrangements; all norm text and pictures with the layer's own norm, ask with the queries of
self-attention, and turn all keys of a picture by one position, that of its placeholder (MI-RoPE).
"""

# B rows, T tokens, S slots of the memory, D width, N query heads, K key heads, H head width
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from scops.language.llama import LlamaSpec, assembled, attention, block, rope_of
from scops.language.model import LanguageModel
from scops.nn.attention import SelfAttention, answers
from scops.nn.block import Block, Contextual, PreNorm
from scops.nn.cache import Pair
from scops.nn.context import Context
from scops.nn.feed_forward import SwiGlu
from scops.nn.norm import RMSNorm
from scops.ops.attention import Visible, attend, realise, side_by_side
from scops.ops.masks import Mask, Past, earlier
from scops.ops.rope import turned


class KeysAndValues(nn.Module):
    """What pictures bring to a layer: (B, S, D) -> (B, S, K H) twice."""

    def __init__(self, dim: int, width: int, *, bias: bool):
        super().__init__()
        self.k, self.v = nn.Linear(dim, width, bias=bias), nn.Linear(dim, width, bias=bias)

    def forward(self, x_BSD: Tensor) -> Pair:
        return self.k(x_BSD), self.v(x_BSD)


class Hyper(Contextual):
    """What all arrangements share: one norm for text and pictures, and pictures' keys at one place each.

    Args:
        memory: its name in the context.
        body: self-attention over the text.
        pictures: keys and values of normed features.
        shift: how far behind the first id of its placeholder a picture stands, for the rope.
    """

    def __init__(self, memory: str, norm: nn.Module, body: SelfAttention, pictures: KeysAndValues, *, shift: int):
        super().__init__()
        self.norm, self.body, self.pictures = norm, body, pictures
        self.memory, self.shift = memory, shift

    @property
    def slot(self) -> int:
        return self.body.slot

    def of_items(self, features_BSD: Tensor) -> Pair:
        k, v = (
            x.unflatten(-1, (-1, self.body.head_dim)).transpose(1, 2) for x in self.pictures(self.norm(features_BSD))
        )
        return k, v

    def at(self, k_BKSH: Tensor, positions_BS: Tensor) -> Tensor:
        assert self.body.rope is not None
        cos, sin = self.body.rope.turns(positions_BS + self.shift)
        return turned(k_BKSH.float(), cos, sin).to(k_BKSH.dtype)  # float32, as published


class GatedHyperAttention(Hyper):
    """x + o(c (1 - g) + p g): c what the text finds in the text, p what it finds in pictures before it (240728).

    A token that sees no picture keeps c. At the first id of its placeholder a picture is not seen yet.

    Args:
        gate: c (B, N, T, H) -> g, broadcastable.
    """

    def __init__(
        self, memory: str, norm: nn.Module, body: SelfAttention, pictures: KeysAndValues, *, gate: nn.Module, shift: int
    ):
        super().__init__(memory, norm, body, pictures, shift=shift)
        self.gate = gate

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        q, c_BNTH = self.body.attended(self.norm(x_BTD), ctx)
        if self.memory in ctx.memories:
            k, v = answers(self, ctx)
            visible = ctx.once(("past", self.memory), lambda: self.visible(q, ctx))
            g_BNTH = self.gate(c_BNTH)
            if isinstance(visible, Tensor):
                any_BT = ctx.once(("past any", self.memory), lambda: visible.any(-1, keepdim=True))
                g_BNTH = g_BNTH * any_BT
            c_BNTH = torch.lerp(c_BNTH, attend(q, k, v, visible), g_BNTH)
        return x_BTD + self.body.out(c_BNTH, ctx)

    def visible(self, q_BNTH: Tensor, ctx: Context) -> Visible:
        memory = ctx.memories[self.memory]
        seen = memory.visible(earlier)
        if isinstance(seen, Mask) and not memory.passed:
            assert ctx.positions_BT is not None
            assert memory.positions_BS is not None
            seen = seen & Past(ctx.positions_BT, memory.positions_BS)
        rows, keys = memory.item_BS.shape
        return realise(seen, rows=rows, queries=q_BNTH.shape[2], keys=keys, device=q_BNTH.device)


class FusedHyperAttention(Hyper):
    """x + o(a): one softmax over [pictures; text], no gate; a token sees a picture from its placeholder's first id on (241101)."""

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        y_BTD = self.norm(x_BTD)
        if self.memory not in ctx.memories:
            return x_BTD + self.body.out(self.body.attended(y_BTD, ctx)[1], ctx)
        q, *own = self.body.projected(y_BTD, ctx)
        text = own if ctx.cache is None else ctx.cache.append(self.body.slot, *own)
        pictures = answers(self, ctx)
        sizes = pictures[0].shape[2], text[0].shape[2]
        visible = ctx.once(("beside", self.memory, sizes), lambda: self.visible(q, sizes, ctx))
        k, v = (torch.cat([p, t.to(p.dtype)], dim=2) for p, t in zip(pictures, text, strict=True))
        return x_BTD + self.body.out(attend(q, k, v, visible), ctx)

    def visible(self, q_BNTH: Tensor, sizes: tuple[int, int], ctx: Context) -> Visible:
        pictures, (rows, _, queries, _) = ctx.memories[self.memory].visible(earlier), q_BNTH.shape
        return side_by_side(pictures, ctx.visible, rows=rows, queries=queries, keys=sizes, device=q_BNTH.device)


class AdaptiveGate(nn.Module):
    """sigmoid(W c + b), one W of head width for all heads (240728)."""

    def __init__(self, width: int):
        super().__init__()
        self.project = nn.Linear(width, width)

    def forward(self, c_BNTH: Tensor) -> Tensor:
        return self.project(c_BNTH).sigmoid()


class StaticGate(nn.Module):
    """sigmoid(gate): a number per channel, the same for every token (an early port, PaddleMIX, modeling_hyper_qwen2.py)."""

    def __init__(self, heads: int, width: int):
        super().__init__()
        self.weight, self.heads = nn.Parameter(torch.zeros(heads * width)), heads

    def forward(self, c_BNTH: Tensor) -> Tensor:
        return self.weight.sigmoid().unflatten(0, (self.heads, 1, -1))


Parts = tuple[str, nn.Module, SelfAttention, KeysAndValues]


def _adaptive(spec: LlamaSpec, parts: Parts) -> Hyper:
    return GatedHyperAttention(*parts, gate=AdaptiveGate(spec.head_width), shift=1)


def _static(spec: LlamaSpec, parts: Parts) -> Hyper:
    return GatedHyperAttention(*parts, gate=StaticGate(spec.heads, spec.head_width), shift=1)


def _fused(spec: LlamaSpec, parts: Parts) -> Hyper:
    return FusedHyperAttention(*parts, shift=0)


ARRANGEMENTS: dict[str, Callable[[LlamaSpec, Parts], Hyper]] = {
    "adaptive": _adaptive,
    "static": _static,
    "fused": _fused,
}


def hyper_llama(spec: LlamaSpec, layers: Sequence[int], arrangement: str, memory: str) -> LanguageModel:
    """A LLaMA-like model with Hyper Attention in some layers.

    Args:
        layers: counted from 1, as published.
        arrangement: of ARRANGEMENTS.
        memory: the name of what stands beside the text.
    """
    rope = rope_of(spec)

    def hyper_block() -> Block:
        keys = KeysAndValues(spec.dim, spec.kv_heads * spec.head_width, bias="k" in spec.bias)
        parts = memory, RMSNorm(spec.dim, spec.eps), attention(spec, rope), keys
        return Block(
            attn=ARRANGEMENTS[arrangement](spec, parts),
            mlp=PreNorm(RMSNorm(spec.dim, spec.eps), SwiGlu(spec.dim, spec.hidden)),
        )

    wrong = [number for number in layers if not 1 <= number <= spec.layers]
    if wrong:
        raise ValueError(f"Hyper Attention in layers {wrong}, counted from 1, but the model has {spec.layers}")
    return assembled(
        spec, [hyper_block() if number in layers else block(spec, rope) for number in range(1, spec.layers + 1)]
    )
