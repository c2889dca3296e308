"""GPT-NeoX (arXiv 2204.06745), Pythia (2304.01373), RedPajama-INCITE: rotary positions on a part of each head, biases.

LayerNorms before self-attention and feed-forward, which look at the same (`parallel`) or come one after the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from scops.language.model import LanguageModel
from scops.nn.attention import SelfAttention
from scops.nn.block import Block, Normed, Parallel, PreNorm
from scops.nn.feed_forward import FeedForward
from scops.ops.rope import Rope, scaled

_TANH = partial(nn.GELU, approximate="tanh")
ACTIVATIONS = {"gelu": nn.GELU, "gelu_new": _TANH, "gelu_fast": _TANH, "gelu_pytorch_tanh": _TANH, "relu": nn.ReLU}
"""Published spellings; "gelu" is the exact one."""


@dataclass(frozen=True)
class GptNeoxSpec:
    """The numbers of one model; the defaults are RedPajama-INCITE-3B's, but for its embeddings' 50,432 rows.

    Args:
        rotary: share of each head's channels that are turned.
        rope_scaling: as in the published config.json.
        parallel: self-attention and feed-forward look at the same.
        bias: in self-attention; the feed-forward always has biases.
        tied: the head is the embedding.
    """

    dim: int = 2560
    hidden: int = 10240
    layers: int = 32
    heads: int = 32
    vocab: int = 50432
    eps: float = 1e-5
    rotary: float = 1.0
    rope_base: float = 10000.0
    rope_scaling: Mapping | None = None
    context: int = 2048
    activation: str = "gelu"
    parallel: bool = False
    bias: bool = True
    tied: bool = False


def gpt_neox(spec: GptNeoxSpec) -> LanguageModel:
    return assembled(spec, blocks(spec))


def blocks(spec: GptNeoxSpec) -> list[Block]:
    rope = scaled(int(spec.dim // spec.heads * spec.rotary), spec.rope_base, spec.rope_scaling, context=spec.context)
    return [block(spec, rope) for _ in range(spec.layers)]


def assembled(spec: GptNeoxSpec, blocks: list[Block]) -> LanguageModel:
    """The embedding, norm and head around these blocks."""
    return LanguageModel(
        nn.Embedding(spec.vocab, spec.dim),
        blocks,
        norm=nn.LayerNorm(spec.dim, spec.eps),
        head=None if spec.tied else nn.Linear(spec.dim, spec.vocab, bias=False),
    )


def block(spec: GptNeoxSpec, rope: Rope) -> Block:
    q, k, v, o = (nn.Linear(spec.dim, spec.dim, bias=spec.bias) for _ in range(4))
    attention = SelfAttention(q=q, k=k, v=v, o=o, head_dim=spec.dim // spec.heads, rope=rope)
    up, down = nn.Linear(spec.dim, spec.hidden), nn.Linear(spec.hidden, spec.dim)
    mlp, norms = (
        FeedForward(up, ACTIVATIONS[spec.activation](), down),
        [nn.LayerNorm(spec.dim, spec.eps) for _ in range(2)],
    )
    if spec.parallel:
        return Block(both=Parallel(attn=Normed(norms[0], attention), mlp=Normed(norms[1], mlp)))
    return Block(attn=PreNorm(norms[0], attention), mlp=PreNorm(norms[1], mlp))
