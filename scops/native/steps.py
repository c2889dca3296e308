"""Few new tokens through a language model: sub-layers that the kernels know in one call, all others as they are."""

# B rows, T new tokens, R real ones of all rows, D width, V vocabulary, K key heads, H head width, L pages per row
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor, nn

from scops.language.model import LanguageModel
from scops.language.qwen import Sharpened
from scops.native.library import library
from scops.native.matrix import FORMATS, MOST_ROWS, Matrix, MatrixStruct, matrix_of, product
from scops.native.pages import PagesStruct
from scops.nn.attention import SelfAttention
from scops.nn.block import Block, PreNorm, Routed, run
from scops.nn.cache import Paged
from scops.nn.context import Context
from scops.nn.feed_forward import SwiGlu
from scops.ops.masks import Behind, Causal
from scops.ops.rope import Rotary

MOST_QUERIES = 64 * 256
"""Numbers of one key head's queries (heads x width)."""


class NormStruct(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("eps", ctypes.c_float))


class AttentionStruct(ctypes.Structure):
    _fields_ = (
        *((name, NormStruct) for name in ("before", "q_norm", "k_norm")),
        *((name, MatrixStruct) for name in "qkvo"),
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "width")), ("scale", ctypes.c_float),
    )  # fmt: skip


class FeedForwardStruct(ctypes.Structure):
    _fields_ = (("before", NormStruct), *((name, MatrixStruct) for name in ("gate", "up", "down")))


class LayerStruct(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("attention", "feed_forward", "keys", "values", "cosine", "sine")
    )


@dataclass(frozen=True)
class AttentionStep:
    """PreNorm(RMSNorm, SelfAttention)."""

    struct: AttentionStruct
    kept: tuple[Any, ...]
    module: SelfAttention

    def fill(self, layer: LayerStruct, cache: Paged, dtype: torch.dtype, turns: "Turns") -> None:
        """What differs between steps."""
        k_PKSH, v_PKSH = cache.pages(self.module.slot, self.struct.kv_heads, self.struct.width, dtype)
        layer.attention, layer.keys, layer.values = ctypes.addressof(self.struct), k_PKSH.data_ptr(), v_PKSH.data_ptr()
        if self.module.rope is not None:
            layer.cosine, layer.sine = turns(self.module.rope)


@dataclass(frozen=True)
class FeedForwardStep:
    """PreNorm(RMSNorm, SwiGlu)."""

    struct: FeedForwardStruct
    kept: tuple[Any, ...]

    def fill(self, layer: LayerStruct, cache: Paged, dtype: torch.dtype, turns: "Turns") -> None:
        layer.feed_forward = ctypes.addressof(self.struct)


Known = AttentionStep | FeedForwardStep


class Turns:
    """Addresses of cosine and sine, float32 (R, H), worked out once per step and rope."""

    def __init__(self, positions_BT: Tensor | None):
        self.positions_BT = positions_BT
        self.made: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, rope: Rotary) -> tuple[int, int]:
        if id(rope) not in self.made:
            assert self.positions_BT is not None, "a rope needs positions in the context"
            cos, sin = rope.turns(self.positions_BT)
            self.made[id(rope)] = cos.contiguous(), sin.contiguous()
        cos, sin = self.made[id(rope)]
        return cos.data_ptr(), sin.data_ptr()


@dataclass(frozen=True)
class Tokens:
    """New tokens, each as a row of its own: a later one of the same row finds the keys of the earlier ones in the pages.

    Args:
        real_R: which of all B x T are no padding; None when all are.
        table_RL, before_R: pages of each, and how many tokens of its row stand before it.
    """

    cache: Paged
    real_R: Tensor | None
    table_RL: Tensor
    before_R: Tensor
    turns: Turns

    @classmethod
    def of(cls, cache: Paged, tokens: int, positions_BT: Tensor | None) -> "Tokens":
        if tokens == 1:
            return cls(cache, None, cache.table_BL.contiguous(), cache.lengths_B.contiguous(), Turns(positions_BT))
        rows, new_T = len(cache.lengths_B), torch.arange(tokens)
        real_R = (new_T < cache.tokens_B[:, None]).flatten().nonzero()[:, 0]
        row_R, before_R = real_R // tokens, (cache.lengths_B[:, None] + new_T).flatten()[real_R]
        positions_R1 = None if positions_BT is None else positions_BT.expand(rows, -1).flatten()[real_R, None]
        padded = len(real_R) < rows * tokens
        return cls(cache, real_R if padded else None, cache.table_BL[row_R], before_R, Turns(positions_R1))


class Steps:
    """A language model's steps, planned once; its weights must stay where they are as long as this is used."""

    def __init__(self, language: LanguageModel):
        self.language = language
        sublayers = [planned for block in language.blocks for planned in _planned(block)]
        self.runs = [
            (known, list(some)) for known, some in groupby(sublayers, key=lambda planned: isinstance(planned, Known))
        ]
        parts = list(language.modules())
        self.routed = any(isinstance(part, Routed) for part in parts)
        self.trained = min((part.trained for part in parts if isinstance(part, Sharpened)), default=None)
        self.head = matrix_of(language.projection())
        self.room = torch.empty(0, dtype=torch.uint8)
        self.brief = bool(cast(ctypes.CDLL, library()).multiplies_bfloat16())

    @property
    def known(self) -> list[bool]:
        """For each sub-layer in order, whether kernels take it."""
        return [known for known, some in self.runs for _ in some]

    def takes(self, x_BTD: Tensor, ctx: Context) -> bool:
        """Few tokens, a cache with pages, and nothing to be differentiated.

        Of routed parts the first expert alone; nothing beyond a trained length, where queries and ropes change.

        Several tokens per row only where the processor multiplies bfloat16; torch's float32 products are better for many.
        """
        if x_BTD.dtype not in FORMATS or x_BTD.shape[:2].numel() > MOST_ROWS or torch.is_grad_enabled():
            return False
        if (self.routed and ctx.route is not None) or self._is_beyond(ctx):
            return False
        one = x_BTD.shape[1] == 1 or (x_BTD.dtype is torch.bfloat16 and self.brief)
        return one and isinstance(ctx.visible, Causal | Behind) and isinstance(ctx.cache, Paged)

    def _is_beyond(self, ctx: Context) -> bool:
        if ctx.stretch_BT is not None and ctx.stretch_BT.any():
            return True
        return self.trained is not None and ctx.positions_BT is not None and int(ctx.positions_BT.max()) >= self.trained

    def hidden(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        """As LanguageModel.hidden."""
        if not self.takes(x_BTD, ctx):
            return self.language.hidden(x_BTD, ctx)
        tokens = Tokens.of(cast(Paged, ctx.cache), x_BTD.shape[1], ctx.positions_BT)
        x_BTD = run(self.language.enter, x_BTD, ctx).clone(memory_format=torch.contiguous_format)
        for known, sublayers in self.runs:
            if known:
                x_RD = x_BTD.flatten(0, 1) if tokens.real_R is None else x_BTD.flatten(0, 1)[tokens.real_R]
                self._run(cast(list[Known], sublayers), x_RD, tokens)
                if tokens.real_R is not None:
                    x_BTD.flatten(0, 1)[tokens.real_R] = x_RD
            else:
                for sublayer in cast(list[nn.Module], sublayers):
                    x_BTD = sublayer(x_BTD, ctx)
                x_BTD = x_BTD.contiguous()
        return self.language.norm(x_BTD)

    def _run(self, sublayers: Sequence[Known], x_RD: Tensor, tokens: "Tokens") -> None:
        """Sub-layers that the kernels know, one behind the other, in place."""
        kernels, layers = cast(ctypes.CDLL, library()), (LayerStruct * len(sublayers))()
        for layer, sublayer in zip(layers, sublayers, strict=True):
            sublayer.fill(layer, tokens.cache, x_RD.dtype, tokens.turns)
        brief, window = x_RD.dtype is torch.bfloat16, self.language.window or 0
        of_all = tokens.table_RL.data_ptr(), tokens.before_R.data_ptr(), tokens.table_RL.shape[1], window
        pages = PagesStruct(tokens.cache.page, 0, 0, brief, None, None, *of_all)
        told = layers, len(layers), ctypes.byref(pages), len(x_RD)
        size = kernels.steps_room(*told)
        if self.room.numel() < size:
            self.room = torch.empty(size, dtype=torch.uint8)
        kernels.steps(*told, x_RD.data_ptr(), brief, self.room.data_ptr(), torch.get_num_threads())

    def logits(self, x_BD: Tensor) -> Tensor:
        """As LanguageModel.logits."""
        if self.head is None or len(x_BD) > MOST_ROWS or x_BD.dtype not in FORMATS or torch.is_grad_enabled():
            return self.language.logits(x_BD)
        return product(self.head, x_BD, x_BD.dtype)


def steps_of(language: LanguageModel) -> Steps | None:
    """None where kernels cannot be had, or would do nothing here."""
    if next(language.parameters()).device.type != "cpu" or library() is None:
        return None
    steps = Steps(language)
    return steps if any(steps.known) else None


def _planned(block: nn.Module) -> list[Known | nn.Module]:
    if type(block) is not Block:
        return [block]
    return [_attention(child) or _feed_forward(child) or child for child in block.children()]


def _attention(sublayer: nn.Module) -> AttentionStep | None:
    if type(sublayer) is not PreNorm or type(sublayer.body) is not SelfAttention or not _bare(sublayer.scale):
        return None
    body = sublayer.body
    if body.bias is not None:
        return None
    norms = [_norm(norm) for norm in (sublayer.norm, body.q_norm, body.k_norm)]
    parts = [matrix_of(_first(cast(nn.Module, getattr(body, name)))) for name in "qkvo"]
    if None in norms or None in parts:
        return None
    q, k, v, o = cast(list[Matrix], parts)
    heads, kv_heads = q.struct.rows // body.head_dim, k.struct.rows // body.head_dim
    if (
        not q.format == k.format == v.format
        or heads // kv_heads * body.head_dim > MOST_QUERIES
        or heads > 64 * kv_heads
    ):
        return None
    structs = [norm.struct for norm in cast(list[Norm], norms)]
    sizes = heads, kv_heads, body.head_dim, body.head_dim**-0.5
    struct = AttentionStruct(*structs, q.struct, k.struct, v.struct, o.struct, *sizes)
    return AttentionStep(struct, (norms, parts), body)


def _feed_forward(sublayer: nn.Module) -> FeedForwardStep | None:
    if type(sublayer) is not PreNorm or type(sublayer.body) is not SwiGlu or not _bare(sublayer.scale):
        return None
    body, norm = sublayer.body, _norm(sublayer.norm)
    parts = [matrix_of(_first(p)) for p in (body.gate, body.up, body.down)]
    if norm is None or norm.struct.weight is None or None in parts or not _bare(body.norm):
        return None
    gate, up, down = cast(list[Matrix], parts)
    if gate.format != up.format:
        return None
    return FeedForwardStep(FeedForwardStruct(norm.struct, gate.struct, up.struct, down.struct), (norm, parts))


@dataclass(frozen=True)
class Norm:
    struct: NormStruct
    kept: Tensor | None


def _norm(norm: nn.Module) -> Norm | None:
    """An RMSNorm with a weight, or none at all."""
    norm = _first(norm)
    if _bare(norm):
        return Norm(NormStruct(None, 0.0), None)
    if type(norm) is not nn.RMSNorm or norm.weight is None or norm.eps is None or norm.weight.device.type != "cpu":
        return None
    weight = norm.weight.detach().float().contiguous()
    return Norm(NormStruct(weight.data_ptr(), norm.eps), weight)


def _first(module: nn.Module) -> nn.Module:
    """What treats tokens where a context has no route and nothing is beyond the trained length."""
    module = module.body if type(module) is Sharpened else module
    return module.experts[0] if type(module) is Routed else module


def _bare(module: nn.Module) -> bool:
    return type(module) is nn.Identity
