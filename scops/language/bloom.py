"""BLOOM (arXiv 2211.05100, section 3.2): linear biases instead of positions, a norm behind the word embeddings.

LayerNorm before self-attention, LayerNorm before a GELU feed-forward four times as wide, biases everywhere, tied head.
"""

from dataclasses import dataclass

from torch import nn

from scops.language.model import LanguageModel
from scops.nn.attention import SelfAttention
from scops.nn.block import Block, PreNorm
from scops.nn.feed_forward import FeedForward
from scops.ops.alibi import Alibi, alibi


@dataclass(frozen=True)
class BloomSpec:
    """The numbers of one model; the defaults are BLOOM-7B1's and BLOOMZ-7B1's.

    Args:
        context: what it was trained on; nothing in the weights ends there.
        tied: the head is the embedding.
    """

    dim: int = 4096
    layers: int = 30
    heads: int = 32
    vocab: int = 250880
    eps: float = 1e-5
    context: int = 2048
    tied: bool = True


def bloom(spec: BloomSpec) -> LanguageModel:
    biases = alibi(spec.heads)
    return LanguageModel(
        nn.Embedding(spec.vocab, spec.dim),
        [block(spec, biases) for _ in range(spec.layers)],
        embed_norm=nn.LayerNorm(spec.dim, spec.eps),
        norm=nn.LayerNorm(spec.dim, spec.eps),
        head=None if spec.tied else nn.Linear(spec.dim, spec.vocab, bias=False),
    )


def block(spec: BloomSpec, biases: Alibi) -> Block:
    q, k, v, o = (nn.Linear(spec.dim, spec.dim) for _ in range(4))
    attention = SelfAttention(bias=biases, q=q, k=k, v=v, o=o, head_dim=spec.dim // spec.heads)
    up, down = nn.Linear(spec.dim, 4 * spec.dim), nn.Linear(4 * spec.dim, spec.dim)
    return Block(
        attn=PreNorm(nn.LayerNorm(spec.dim, spec.eps), attention),
        mlp=PreNorm(nn.LayerNorm(spec.dim, spec.eps), FeedForward(up, nn.GELU(approximate="tanh"), down)),
    )
