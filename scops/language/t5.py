"""T5 (arXiv 1910.10683), T5 1.1 and FlanT5 (2210.11416): an encoder and a decoder with relative positions.

RMSNorm before every sub-layer, no biases, scores that are not scaled, a bias by distance that all layers of a stack share. Media
tokens stand among the encoder's words.
"""

# B rows, T tokens, S key tokens, N heads, D width, V vocabulary
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from scops.nn.attention import CrossAttention, SelfAttention
from scops.nn.block import Block, PreNorm
from scops.nn.context import Context, Memory
from scops.nn.feed_forward import FeedForward, Gated
from scops.nn.norm import RMSNorm
from scops.ops.attention import Bias
from scops.ops.relative import one_sided, two_sided

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_new": partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
}


@dataclass(frozen=True)
class T5Spec:
    """The numbers of one model; the defaults are FlanT5-XL's.

    Args:
        layers, written: blocks of the encoder and of the decoder; as many where `written` is None.
        gated: whether the feed-forward has a gate (T5 1.1).
        activation: published spelling: "relu" (T5), "gelu_new" (T5 1.1, the tanh form) or "gelu" (BLIP-2's FlanT5, exact).
        buckets, farthest: of relative positions; all further away are one.
        tied: the head is the embedding.
        scaled: whether states are multiplied by dim ** -0.5 before the head (T5, not T5 1.1).
        context: what it was trained on; nothing in the weights ends there.
    """

    dim: int = 2048
    hidden: int = 5120
    layers: int = 24
    written: int | None = None
    heads: int = 32
    head_dim: int = 64
    vocab: int = 32128
    eps: float = 1e-6
    gated: bool = True
    activation: str = "gelu_new"
    buckets: int = 32
    farthest: int = 128
    tied: bool = False
    scaled: bool = False
    context: int = 512

    @property
    def width(self) -> int:
        """Of what stands in the sequence."""
        return self.dim


class RelativeBias(nn.Module):
    """A learned number per head and bucket of distances.

    forward: places of queries (B, T) and of keys (B or 1, S) -> (B, N, T, S)

    Args:
        numbered: distance -> bucket.
    """

    def __init__(self, heads: int, buckets: int, numbered: Callable[[Tensor], Tensor]):
        super().__init__()
        self.table, self.numbered = nn.Embedding(buckets, heads), numbered

    def forward(self, queries_BT: Tensor, keys_BS: Tensor) -> Tensor:
        distance_BTS = keys_BS[:, None] - queries_BT[..., None]
        return self.table(self.numbered(distance_BTS)).permute(0, 3, 1, 2)


class Stack(nn.Module):
    """Blocks whose self-attentions share one bias, and a norm."""

    def __init__(self, spec: T5Spec, bias: RelativeBias, blocks: list[Block]):
        super().__init__()
        self.bias, self.blocks, self.norm = bias, nn.ModuleList(blocks), RMSNorm(spec.dim, spec.eps)

    def run(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        first = next((part for part in self.modules() if isinstance(part, SelfAttention)), None)
        if first is not None:
            first.biased(ctx, x_BTD.dtype)  # before all blocks, so that one that is run again does not make it anew
        for block in self.blocks:
            x_BTD = block(x_BTD, ctx)
        return self.norm(x_BTD)


class T5Decoder(Stack):
    """Satisfies scops.models.encoder_decoder.Writer."""

    window = None

    def __init__(self, spec: T5Spec, memory: str):
        bias = RelativeBias(spec.heads, spec.buckets, partial(one_sided, buckets=spec.buckets, farthest=spec.farthest))
        count = spec.layers if spec.written is None else spec.written
        super().__init__(spec, bias, [writing(spec, bias.forward, memory) for _ in range(count)])
        self.words, self.scale = nn.Embedding(spec.vocab, spec.dim), spec.dim**-0.5 if spec.scaled else 1.0
        if not spec.tied:
            self.head = nn.Linear(spec.dim, spec.vocab, bias=False)

    def embed(self, ids: Tensor) -> Tensor:
        return self.words(ids)

    def hidden(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        return self.run(x_BTD, ctx)

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)"""
        x = x * self.scale
        return self.head(x) if "head" in self._modules else linear(x, self.words.weight)


class T5Encoder(Stack):
    """Satisfies scops.models.encoder_decoder.Encoder: all tokens see all others.

    Args:
        embed: the decoder's, whose words these are too.
    """

    def __init__(self, spec: T5Spec, embed: Callable[[Tensor], Tensor]):
        bias = RelativeBias(spec.heads, spec.buckets, partial(two_sided, buckets=spec.buckets, farthest=spec.farthest))
        super().__init__(spec, bias, [reading(spec, bias.forward) for _ in range(spec.layers)])
        self.embed = embed

    def forward(self, x_BTD: Tensor, real_BT: Tensor, memories: Mapping[str, Memory]) -> Memory:
        assert not memories, "T5 reads media among its words, none beside them"
        positions_1T = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
        return Memory(self.run(x_BTD, Context(positions_1T, real_BT[:, None, None])), real_BT.long())


def reading(spec: T5Spec, bias: Bias) -> Block:
    return Block(attn=self_attention(spec, bias), mlp=feed_forward(spec))


def writing(spec: T5Spec, bias: Bias, memory: str) -> Block:
    cross = PreNorm(RMSNorm(spec.dim, spec.eps), CrossAttention(memory, **projections(spec)))
    return Block(attn=self_attention(spec, bias), cross=cross, mlp=feed_forward(spec))


def self_attention(spec: T5Spec, bias: Bias) -> PreNorm:
    return PreNorm(RMSNorm(spec.dim, spec.eps), SelfAttention(bias=bias, **projections(spec)))


class Unscaled(nn.Module):
    """x * factor, which undoes what attention divides by."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def projections(spec: T5Spec) -> dict:
    width = spec.heads * spec.head_dim
    parts = {name: nn.Linear(spec.dim, width, bias=False) for name in "qkv"}
    o, unscaled = nn.Linear(width, spec.dim, bias=False), Unscaled(spec.head_dim**0.5)
    return {**parts, "o": o, "head_dim": spec.head_dim, "q_norm": unscaled}


def feed_forward(spec: T5Spec) -> PreNorm:
    activation = ACTIVATIONS[spec.activation]()
    up, down = nn.Linear(spec.dim, spec.hidden, bias=False), nn.Linear(spec.hidden, spec.dim, bias=False)
    if not spec.gated:
        return PreNorm(RMSNorm(spec.dim, spec.eps), FeedForward(up, activation, down))
    gate = nn.Linear(spec.dim, spec.hidden, bias=False)
    return PreNorm(RMSNorm(spec.dim, spec.eps), Gated(gate, activation, up, down))
