"""One new token per row through a language model: sub-layers that the kernels know in one call each, all others as they are."""

# B rows, D width, V vocabulary, N query heads, K key heads, H head width
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from scops.language.model import LanguageModel
from scops.native.library import library
from scops.native.matrix import FORMATS, MOST_ROWS, Matrix, MatrixStruct, matrix_of, product
from scops.native.pages import pages_of
from scops.nn.attention import SelfAttention
from scops.nn.block import Block, PreNorm
from scops.nn.cache import Paged
from scops.nn.context import Context
from scops.nn.feed_forward import SwiGlu
from scops.ops.rope import Rope

MOST_QUERIES = 64 * 256
"""Numbers of one key head's queries (heads x width)."""


class NormStruct(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("eps", ctypes.c_float))


class AttentionStruct(ctypes.Structure):
    _fields_ = (
        *((name, NormStruct) for name in ("before", "q_norm", "k_norm")),
        *((name, MatrixStruct) for name in "qkvo"), ("heads", ctypes.c_int64), ("scale", ctypes.c_float),
    )  # fmt: skip


class FeedForwardStruct(ctypes.Structure):
    _fields_ = (("before", NormStruct), *((name, MatrixStruct) for name in ("gate", "up", "down")))


@dataclass
class Step:
    """What all sub-layers of one step share."""

    ctx: Context
    cache: Paged
    table_BL: Tensor
    lengths_B: Tensor
    turns: dict[int, tuple[Tensor, Tensor]]
    room: Tensor
    window: int | None
    threads: int

    def turned(self, rope: Rope) -> tuple[Tensor, Tensor]:
        """Cosine and sine, float32 (B, H)."""
        if id(rope) not in self.turns:
            assert self.ctx.positions_BT is not None, "a rope needs positions in the context"
            cos, sin = rope.turns(self.ctx.positions_BT)
            self.turns[id(rope)] = cos.contiguous(), sin.contiguous()
        return self.turns[id(rope)]

    def space(self, size: int) -> int:
        """Address of so many bytes."""
        if self.room.numel() < size:
            self.room = torch.empty(size, dtype=torch.uint8)
        return self.room.data_ptr()


@dataclass(frozen=True)
class AttentionStep:
    """PreNorm(RMSNorm, SelfAttention) for one token per row."""

    struct: AttentionStruct
    kept: tuple[Any, ...]
    module: SelfAttention
    kv_heads: int

    def __call__(self, x_B1D: Tensor, step: Step) -> Tensor:
        kernels, width = cast(ctypes.CDLL, library()), self.module.head_dim
        k_PKSH, v_PKSH = step.cache.pages(self.module.slot, self.kv_heads, width, x_B1D.dtype)
        pages = pages_of(k_PKSH, v_PKSH, step.table_BL, step.lengths_B, step.window)
        turns = (None, None) if self.module.rope is None else [t.data_ptr() for t in step.turned(self.module.rope)]
        rows, y_B1D = len(x_B1D), torch.empty_like(x_B1D)
        room = step.space(kernels.attention_room(ctypes.byref(self.struct), ctypes.byref(pages), rows))
        kernels.attention_step(
            ctypes.byref(self.struct), ctypes.byref(pages), rows, *turns, x_B1D.data_ptr(), y_B1D.data_ptr(),
            x_B1D.dtype is torch.bfloat16, room, step.threads,
        )  # fmt: skip
        return y_B1D


@dataclass(frozen=True)
class FeedForwardStep:
    """PreNorm(RMSNorm, SwiGlu) for one token per row."""

    struct: FeedForwardStruct
    kept: tuple[Any, ...]

    def __call__(self, x_B1D: Tensor, step: Step) -> Tensor:
        kernels, rows, y_B1D = cast(ctypes.CDLL, library()), len(x_B1D), torch.empty_like(x_B1D)
        room = step.space(kernels.feed_forward_room(ctypes.byref(self.struct), rows))
        kernels.feed_forward_step(
            ctypes.byref(self.struct), rows, x_B1D.data_ptr(), y_B1D.data_ptr(), x_B1D.dtype is torch.bfloat16, room,
            step.threads,
        )  # fmt: skip
        return y_B1D


@dataclass(frozen=True)
class AnyStep:
    """Any other sub-layer, as it is."""

    module: nn.Module

    def __call__(self, x_B1D: Tensor, step: Step) -> Tensor:
        return self.module(x_B1D, step.ctx)


class Steps:
    """A language model's steps, planned once; its weights must stay where they are as long as this is used."""

    def __init__(self, language: LanguageModel):
        self.language = language
        self.sublayers: list[Callable[[Tensor, Step], Tensor]] = [
            planned for block in language.blocks for planned in _planned(block)
        ]
        self.head = matrix_of(language.projection())
        self.room = torch.empty(0, dtype=torch.uint8)

    def takes(self, x_BTD: Tensor, ctx: Context) -> bool:
        """One token per row, few rows, a cache with pages, and nothing to be differentiated."""
        one = x_BTD.shape[1] == 1 and len(x_BTD) <= MOST_ROWS and not torch.is_grad_enabled()
        return one and x_BTD.dtype in FORMATS and isinstance(ctx.cache, Paged)

    def hidden(self, x_B1D: Tensor, ctx: Context) -> Tensor:
        """As LanguageModel.hidden."""
        if not self.takes(x_B1D, ctx):
            return self.language.hidden(x_B1D, ctx)
        cache = cast(Paged, ctx.cache)
        step = Step(
            ctx, cache, cache.table_BL.contiguous(), cache.lengths_B.contiguous(), {}, self.room,
            self.language.window, torch.get_num_threads(),
        )  # fmt: skip
        x_B1D = x_B1D.contiguous()
        for sublayer in self.sublayers:
            x_B1D = sublayer(x_B1D, step)
        self.room = step.room
        return self.language.norm(x_B1D)

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
    return None if all(isinstance(sublayer, AnyStep) for sublayer in steps.sublayers) else steps


def _planned(block: nn.Module) -> list[Callable[[Tensor, Step], Tensor]]:
    if type(block) is not Block:
        return [AnyStep(block)]
    return [_attention(child) or _feed_forward(child) or AnyStep(child) for child in block.children()]


def _attention(sublayer: nn.Module) -> AttentionStep | None:
    if type(sublayer) is not PreNorm or type(sublayer.body) is not SelfAttention or not _bare(sublayer.scale):
        return None
    body = sublayer.body
    norms = [_norm(norm) for norm in (sublayer.norm, body.q_norm, body.k_norm)]
    parts = [matrix_of(cast(nn.Module, getattr(body, name))) for name in "qkvo"]
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
    scale = body.head_dim**-0.5
    struct = AttentionStruct(*structs, q.struct, k.struct, v.struct, o.struct, heads, scale)
    return AttentionStep(struct, (norms, parts), body, kv_heads)


def _feed_forward(sublayer: nn.Module) -> FeedForwardStep | None:
    if type(sublayer) is not PreNorm or type(sublayer.body) is not SwiGlu or not _bare(sublayer.scale):
        return None
    body, norm = sublayer.body, _norm(sublayer.norm)
    parts = [matrix_of(p) for p in (body.gate, body.up, body.down)]
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
    if _bare(norm):
        return Norm(NormStruct(None, 0.0), None)
    if type(norm) is not nn.RMSNorm or norm.weight is None or norm.eps is None or norm.weight.device.type != "cpu":
        return None
    weight = norm.weight.detach().float().contiguous()
    return Norm(NormStruct(weight.data_ptr(), norm.eps), weight)


def _bare(module: nn.Module) -> bool:
    return type(module) is nn.Identity
