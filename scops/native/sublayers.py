"""Sub-layers that the kernels know, told from the types of the stack, and what each is told in a step."""

# B rows, T new tokens, R real ones of all rows, K key heads, H head width, N query heads
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from scops.language.mpt import Bounded
from scops.language.qwen import Sharpened
from scops.native.matrix import Matrix, MatrixStruct, matrix_of
from scops.nn.attention import SelfAttention
from scops.nn.block import Block, PreNorm, Routed
from scops.nn.cache import Paged, Pair
from scops.nn.feed_forward import FeedForward, SwiGlu
from scops.ops.alibi import Alibi
from scops.ops.rope import Rotary

MOST_QUERIES = 64 * 256
"""Numbers of one key head's queries (heads x width)."""
NO_NORM, ROOT_MEAN_SQUARE, CENTRED = range(3)
RELU, SILU, GELU, GELU_TANH = range(4)
ACTIVATIONS: dict[type[nn.Module], int] = {nn.ReLU: RELU, nn.SiLU: SILU}


class NormStruct(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int64), ("width", ctypes.c_int64), ("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_float),
    )  # fmt: skip


class AttentionStruct(ctypes.Structure):
    _fields_ = (
        *((name, NormStruct) for name in ("before", "q_norm", "k_norm")),
        *((name, MatrixStruct) for name in "qkvo"),
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "width")),
        ("scale", ctypes.c_float), ("slopes", ctypes.c_void_p),
    )  # fmt: skip


class FeedForwardStruct(ctypes.Structure):
    _fields_ = (
        ("before", NormStruct), *((name, MatrixStruct) for name in ("gate", "up", "down")), ("activation", ctypes.c_int64),
    )  # fmt: skip


class LayerStruct(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("attention", "feed_forward", "norm", "keys", "values", "cosine", "sine")),
        ("turned", ctypes.c_int64),
    )  # fmt: skip


class Turns:
    """Cosine and sine of every rope that asked, float32 (R, H), at places that stay as long as there are R tokens.

    Args:
        moved: how often that was not so.
    """

    def __init__(self) -> None:
        self.positions_R1: Tensor | None = None
        self.kept: dict[Rotary, tuple[Tensor, ...]] = {}
        self.moved = 0

    def at(self, positions_R1: Tensor | None) -> None:
        """From now on for these positions."""
        before, self.positions_R1 = self.positions_R1, positions_R1
        if before is None or positions_R1 is None or len(before) != len(positions_R1):
            self.kept, self.moved = {}, self.moved + 1
        for rope, kept in self.kept.items():
            for old, new in zip(kept, self._made(rope), strict=True):
                old.copy_(new)

    def __call__(self, rope: Rotary) -> tuple[int, int, int]:
        """Addresses, and H."""
        if rope not in self.kept:
            self.kept[rope] = tuple(x.contiguous() for x in self._made(rope))
        cos, sin = self.kept[rope]
        return cos.data_ptr(), sin.data_ptr(), cos.shape[-1]

    def _made(self, rope: Rotary) -> tuple[Tensor, Tensor]:
        assert self.positions_R1 is not None, "a rope needs positions in the context"
        return rope.turns(self.positions_R1)


@dataclass(frozen=True)
class AttentionStep:
    """PreNorm(norm, SelfAttention)."""

    struct: AttentionStruct
    kept: tuple[Any, ...]
    module: SelfAttention

    def fill(self, layer: LayerStruct, cache: Paged, dtype: torch.dtype, turns: Turns) -> None:
        """What differs between steps."""
        k_PKSH, v_PKSH = self.pages(cache, dtype)
        layer.attention, layer.keys, layer.values = ctypes.addressof(self.struct), k_PKSH.data_ptr(), v_PKSH.data_ptr()
        if self.module.rope is not None:
            layer.cosine, layer.sine, layer.turned = turns(self.module.rope)

    def pages(self, cache: Paged, dtype: torch.dtype) -> Pair:
        return cache.pages(self.module.slot, self.struct.kv_heads, self.struct.width, dtype)


@dataclass(frozen=True)
class FeedForwardStep:
    """PreNorm(norm, SwiGlu or FeedForward)."""

    struct: FeedForwardStruct
    kept: tuple[Any, ...]

    def fill(self, layer: LayerStruct, cache: Paged, dtype: torch.dtype, turns: Turns) -> None:
        layer.feed_forward = ctypes.addressof(self.struct)


@dataclass(frozen=True)
class NormStep:
    """A norm alone."""

    struct: NormStruct
    kept: tuple[Tensor | None, ...]

    def fill(self, layer: LayerStruct, cache: Paged, dtype: torch.dtype, turns: Turns) -> None:
        layer.norm = ctypes.addressof(self.struct)


Known = AttentionStep | FeedForwardStep | NormStep


class Told:
    """What the kernels are told of sub-layers one behind the other; anew only where something has another place.

    Args:
        keys: the first attention's.
    """

    def __init__(self, sublayers: Sequence[Known]):
        self.sublayers = sublayers
        self.first = next((step for step in sublayers if isinstance(step, AttentionStep)), None)
        self.layers = (LayerStruct * len(sublayers))()
        self.keys: Tensor | None = None
        self.moved = 0

    def __call__(self, cache: Paged, dtype: torch.dtype, turns: Turns) -> ctypes.Array[LayerStruct]:
        keys = None if self.first is None else self.first.pages(cache, dtype)[0]
        if self.moved != turns.moved or self.keys is not keys:
            for layer, sublayer in zip(self.layers, self.sublayers, strict=True):
                sublayer.fill(layer, cache, dtype, turns)
            self.keys, self.moved = keys, turns.moved
        return self.layers


def planned(block: nn.Module) -> list[Known | nn.Module]:
    """A block's sub-layers in order; those that the kernels do not know as they are."""
    if type(block) is not Block:
        return [block]
    return [_attention(child) or _feed_forward(child) or child for child in block.children()]


def _attention(sublayer: nn.Module) -> AttentionStep | None:
    if type(sublayer) is not PreNorm or type(sublayer.body) is not SelfAttention or not _bare(sublayer.scale):
        return None
    body = sublayer.body
    if body.bias is not None and type(body.bias) is not Alibi:
        return None
    norms = [norm_step(norm) for norm in (sublayer.norm, body.q_norm, body.k_norm)]
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
    slopes_N = None if body.bias is None else torch.tensor(body.bias.slopes, dtype=torch.float32)
    structs = [norm.struct for norm in cast(list[NormStep], norms)]
    sizes = heads, kv_heads, body.head_dim, body.head_dim**-0.5
    struct = AttentionStruct(*structs, q.struct, k.struct, v.struct, o.struct, *sizes, _place(slopes_N))
    return AttentionStep(struct, (norms, parts, slopes_N), body)


def _feed_forward(sublayer: nn.Module) -> FeedForwardStep | None:
    if type(sublayer) is not PreNorm or not _bare(sublayer.scale):
        return None
    body, norm = sublayer.body, norm_step(sublayer.norm)
    if type(body) is SwiGlu and _bare(body.norm):
        projections, activation = [body.gate, body.up, body.down], SILU
    elif type(body) is FeedForward:
        projections, activation = [body.up, body.down], _activation(body.activation)
    else:
        return None
    parts = [matrix_of(_first(projection)) for projection in projections]
    if norm is None or None in parts or activation is None:
        return None
    *before, up, down = (part.struct for part in cast(list[Matrix], parts))
    gate = before[0] if before else MatrixStruct()
    if before and gate.format != up.format:
        return None
    return FeedForwardStep(FeedForwardStruct(norm.struct, gate, up, down, activation), (norm, parts))


def _activation(module: nn.Module) -> int | None:
    if type(module) is nn.GELU:
        return {"none": GELU, "tanh": GELU_TANH}[module.approximate]
    return ACTIVATIONS.get(type(module))


def norm_step(norm: nn.Module) -> NormStep | None:
    """An RMSNorm, a LayerNorm over one axis, or none at all."""
    norm = _first(norm)
    if _bare(norm):
        return NormStep(NormStruct(NO_NORM), ())
    if isinstance(norm, nn.RMSNorm) and norm.eps is not None:
        kind, bias = ROOT_MEAN_SQUARE, None
    elif type(norm) is nn.LayerNorm:
        kind, bias = CENTRED, norm.bias
    else:
        return None
    if len(norm.normalized_shape) > 1 or (norm.weight is not None and norm.weight.device.type != "cpu"):
        return None
    weight = torch.ones(norm.normalized_shape) if norm.weight is None else _floats(norm.weight)
    kept = weight, None if bias is None else _floats(bias)
    return NormStep(NormStruct(kind, len(weight), *map(_place, kept), norm.eps), kept)


def _first(module: nn.Module) -> nn.Module:
    """What treats tokens where a context has no route and nothing is beyond the trained length."""
    if type(module) is Sharpened:
        module = module.body
    if type(module) is Bounded and module.clip is None and _bare(module.norm):
        module = module.project
    return module.experts[0] if type(module) is Routed else module


def _bare(module: nn.Module) -> bool:
    return type(module) is nn.Identity


def _floats(x: Tensor) -> Tensor:
    return x.detach().float().contiguous()


def _place(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
