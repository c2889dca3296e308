"""BERT (arXiv 1810.04805): word, position and segment embeddings with a norm, post-norm blocks, exact GELU, no dropout.

With cross-attention and a causal mask it writes, as in transformers' BertLMHeadModel with `is_decoder`.
"""

# B rows, T tokens, D width, V vocabulary
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from scops.nn.attention import CrossAttention, SelfAttention
from scops.nn.block import Block, PostNorm
from scops.nn.context import Context
from scops.nn.feed_forward import FeedForward


@dataclass(frozen=True)
class BertSpec:
    """The numbers of one BERT; the defaults are bert-base-uncased.

    Args:
        context: positions in the table.
        segments: token types in the table; 0 for none (BLIP).
        memory_dim: width of what cross-attention asks; dim when None.
    """

    dim: int = 768
    hidden: int = 3072
    layers: int = 12
    heads: int = 12
    vocab: int = 30522
    context: int = 512
    segments: int = 2
    eps: float = 1e-12
    memory_dim: int | None = None


class Embeddings(nn.Module):
    """norm(words + positions + segments)"""

    def __init__(self, spec: BertSpec):
        super().__init__()
        self.words, self.positions = nn.Embedding(spec.vocab, spec.dim), nn.Embedding(spec.context, spec.dim)
        if spec.segments:
            self.segments = nn.Embedding(spec.segments, spec.dim)
        self.norm = nn.LayerNorm(spec.dim, spec.eps)

    def forward(self, words_BTD: Tensor, positions_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """Args:
        words_BTD: what `words` gives, so that something else may stand in their place.
        segments_BT: all of the first kind when None.
        """
        x_BTD = words_BTD + self.positions(positions_BT)
        if "segments" in self._modules:
            first = torch.zeros_like(positions_BT) if segments_BT is None else segments_BT
            x_BTD = x_BTD + self.segments(first)
        return self.norm(x_BTD)


class BertHead(nn.Module):
    """Scores of words: norm(gelu(transform(x))) against the word embeddings, plus a bias per word."""

    def __init__(self, spec: BertSpec):
        super().__init__()
        self.transform, self.activation = nn.Linear(spec.dim, spec.dim), nn.GELU()
        self.norm = nn.LayerNorm(spec.dim, spec.eps)
        self.bias = nn.Parameter(torch.zeros(spec.vocab))

    def forward(self, x: Tensor, words_VD: Tensor) -> Tensor:
        """(..., D) -> (..., V)"""
        return linear(self.norm(self.activation(self.transform(x))), words_VD, self.bias)


class Bert(nn.Module):
    """Embeddings and blocks; with a head also scores, of masked words or of the next one.

    Args:
        blocks: as `blocks` below makes them, or others.
        head: of a BERT that writes or fills in words.
    """

    window = None

    def __init__(self, spec: BertSpec, blocks: Iterable[nn.Module], *, head: BertHead | None = None):
        super().__init__()
        self.embeddings, self.blocks = Embeddings(spec), nn.ModuleList(blocks)
        if head is not None:
            self.head = head

    def embed(self, ids: Tensor) -> Tensor:
        """Words alone, ids.shape + (D,)."""
        return self.embeddings.words(ids)

    def hidden(self, words_BTD: Tensor, ctx: Context, segments_BT: Tensor | None = None) -> Tensor:
        """Words at the context's positions, through all blocks."""
        assert ctx.positions_BT is not None, "BERT's words need positions in the context"
        x_BTD = self.embeddings(words_BTD, ctx.positions_BT, segments_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, ctx)
        return x_BTD

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)"""
        return self.head(x, self.embeddings.words.weight)


class Pooler(nn.Module):
    """tanh(dense(first token)): (B, T, D) -> (B, D)"""

    def __init__(self, dim: int):
        super().__init__()
        self.dense = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.dense(x_BTD[:, 0]).tanh()


def bert(spec: BertSpec) -> Bert:
    """An encoder: what a token sees, the context says."""
    return Bert(spec, (self_block(spec) for _ in range(spec.layers)))


def bert_decoder(spec: BertSpec, memory: str) -> Bert:
    """A decoder that asks `memory` in every block and scores words."""
    return Bert(spec, (cross_block(spec, memory) for _ in range(spec.layers)), head=BertHead(spec))


def self_block(spec: BertSpec) -> Block:
    return Block(attn=self_attention(spec), mlp=feed_forward(spec))


def cross_block(spec: BertSpec, memory: str) -> Block:
    return Block(attn=self_attention(spec), cross=cross_attention(spec, memory), mlp=feed_forward(spec))


def self_attention(spec: BertSpec) -> PostNorm:
    q, k, v, o = (nn.Linear(spec.dim, spec.dim) for _ in range(4))
    return PostNorm(_norm(spec), SelfAttention(q=q, k=k, v=v, o=o, head_dim=spec.dim // spec.heads))


def cross_attention(spec: BertSpec, memory: str) -> PostNorm:
    q, o = (nn.Linear(spec.dim, spec.dim) for _ in range(2))
    k, v = (nn.Linear(spec.memory_dim or spec.dim, spec.dim) for _ in range(2))
    return PostNorm(_norm(spec), CrossAttention(memory, q=q, k=k, v=v, o=o, head_dim=spec.dim // spec.heads))


def feed_forward(spec: BertSpec) -> PostNorm:
    up, down = nn.Linear(spec.dim, spec.hidden), nn.Linear(spec.hidden, spec.dim)
    return PostNorm(_norm(spec), FeedForward(up, nn.GELU(), down))


def _norm(spec: BertSpec) -> nn.LayerNorm:
    return nn.LayerNorm(spec.dim, spec.eps)
