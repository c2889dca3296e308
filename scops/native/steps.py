"""One new token per row through a language model: sub-layers that the kernels know in one call each, all others as they are."""

# B rows, D width, V vocabulary, N query heads, K key heads, H head width
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor, nn

from scops.language.model import LanguageModel
from scops.native.library import library
from scops.native.matrix import FORMATS, MOST_ROWS, Matrix, MatrixStruct, matrix_of, product
from scops.native.pages import PagesStruct
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
    """PreNorm(RMSNorm, SelfAttention) for one token per row."""

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
    """PreNorm(RMSNorm, SwiGlu) for one token per row."""

    struct: FeedForwardStruct
    kept: tuple[Any, ...]

    def fill(self, layer: LayerStruct, cache: Paged, dtype: torch.dtype, turns: "Turns") -> None:
        layer.feed_forward = ctypes.addressof(self.struct)


Known = AttentionStep | FeedForwardStep


class Turns:
    """Addresses of cosine and sine, float32 (B, H), worked out once per step and rope."""

    def __init__(self, positions_BT: Tensor | None):
        self.positions_BT = positions_BT
        self.made: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, rope: Rope) -> tuple[int, int]:
        if id(rope) not in self.made:
            assert self.positions_BT is not None, "a rope needs positions in the context"
            cos, sin = rope.turns(self.positions_BT)
            self.made[id(rope)] = cos.contiguous(), sin.contiguous()
        cos, sin = self.made[id(rope)]
        return cos.data_ptr(), sin.data_ptr()


class Steps:
    """A language model's steps, planned once; its weights must stay where they are as long as this is used."""

    def __init__(self, language: LanguageModel):
        self.language = language
        sublayers = [planned for block in language.blocks for planned in _planned(block)]
        self.runs = [
            (known, list(some)) for known, some in groupby(sublayers, key=lambda planned: isinstance(planned, Known))
        ]
        self.head = matrix_of(language.projection())
        self.room = torch.empty(0, dtype=torch.uint8)

    @property
    def known(self) -> list[bool]:
        """For each sub-layer in order, whether kernels take it."""
        return [known for known, some in self.runs for _ in some]

    def takes(self, x_BTD: Tensor, ctx: Context) -> bool:
        """One token per row, few rows, a cache with pages, and nothing to be differentiated."""
        one = x_BTD.shape[1] == 1 and len(x_BTD) <= MOST_ROWS and not torch.is_grad_enabled()
        return one and x_BTD.dtype in FORMATS and isinstance(ctx.cache, Paged)

    def hidden(self, x_B1D: Tensor, ctx: Context) -> Tensor:
        """As LanguageModel.hidden."""
        if not self.takes(x_B1D, ctx):
            return self.language.hidden(x_B1D, ctx)
        turns, x_B1D = Turns(ctx.positions_BT), x_B1D.clone(memory_format=torch.contiguous_format)
        for known, sublayers in self.runs:
            if known:
                self._run(cast(list[Known], sublayers), x_B1D, cast(Paged, ctx.cache), turns)
            else:
                for sublayer in cast(list[nn.Module], sublayers):
                    x_B1D = sublayer(x_B1D, ctx)
                x_B1D = x_B1D.contiguous()
        return self.language.norm(x_B1D)

    def _run(self, sublayers: Sequence[Known], x_B1D: Tensor, cache: Paged, turns: Turns) -> None:
        """Sub-layers that the kernels know, one behind the other, in place."""
        kernels, layers = cast(ctypes.CDLL, library()), (LayerStruct * len(sublayers))()
        for layer, sublayer in zip(layers, sublayers, strict=True):
            sublayer.fill(layer, cache, x_B1D.dtype, turns)
        table_BL, lengths_B = cache.table_BL.contiguous(), cache.lengths_B.contiguous()
        brief, window = x_B1D.dtype is torch.bfloat16, self.language.window or 0
        of_all = table_BL.data_ptr(), lengths_B.data_ptr(), table_BL.shape[1], window
        pages = PagesStruct(cache.page, 0, 0, brief, None, None, *of_all)
        told = layers, len(layers), ctypes.byref(pages), len(x_B1D)
        size = kernels.steps_room(*told)
        if self.room.numel() < size:
            self.room = torch.empty(size, dtype=torch.uint8)
        kernels.steps(*told, x_B1D.data_ptr(), brief, self.room.data_ptr(), torch.get_num_threads())

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
    sizes = heads, kv_heads, body.head_dim, body.head_dim**-0.5
    struct = AttentionStruct(*structs, q.struct, k.struct, v.struct, o.struct, *sizes)
    return AttentionStep(struct, (norms, parts), body)


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
