"""MPT (MosaicML, llm-foundry): linear biases instead of positions, no bias anywhere, exact GELU four times as wide, tied head.

MPT-1B (mosaicml/mpt-1b-redpajama-200b, mosaic_gpt.py) also norms queries and keys over their whole width (arXiv 2302.05442).
"""

from dataclasses import dataclass

from torch import Tensor, nn

from scops.language.model import LanguageModel
from scops.nn.attention import SelfAttention
from scops.nn.block import Block, PreNorm
from scops.nn.feed_forward import FeedForward
from scops.ops.alibi import Alibi, alibi


@dataclass(frozen=True)
class MptSpec:
    """The numbers of one model; the defaults are MPT-7B's.

    Args:
        times: the feed-forward's hidden width over the model's.
        norms: which projections are normed: "qk" in MPT-1B.
        clip: queries, keys and values are held between -clip and clip (MPT-7B-StoryWriter: 6); None for no bounds.
        steepest: of the linear biases (alibi_bias_max).
        context: what it was trained on; nothing in the weights ends there.
        tied: the head is the embedding.
    """

    dim: int = 4096
    layers: int = 32
    heads: int = 32
    vocab: int = 50432
    times: int = 4
    eps: float = 1e-5
    norms: str = ""
    clip: float | None = None
    steepest: float = 8
    context: int = 2048
    tied: bool = True


class Bounded(nn.Module):
    """norm(project(x)), with what is projected held between -clip and clip."""

    def __init__(self, dim: int, *, norm: nn.Module | None, clip: float | None):
        super().__init__()
        self.project, self.norm, self.clip = nn.Linear(dim, dim, bias=False), norm or nn.Identity(), clip

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        return self.norm(x if self.clip is None else x.clamp(-self.clip, self.clip))


def mpt(spec: MptSpec) -> LanguageModel:
    return assembled(spec, blocks(spec))


def blocks(spec: MptSpec) -> list[Block]:
    biases = alibi(spec.heads, spec.steepest)
    return [block(spec, biases) for _ in range(spec.layers)]


def assembled(spec: MptSpec, blocks: list[Block]) -> LanguageModel:
    """The embedding, norm and head around these blocks."""
    return LanguageModel(
        nn.Embedding(spec.vocab, spec.dim),
        blocks,
        norm=norm(spec),
        head=None if spec.tied else nn.Linear(spec.dim, spec.vocab, bias=False),
    )


def block(spec: MptSpec, biases: Alibi) -> Block:
    q, k, v = (Bounded(spec.dim, norm=norm(spec) if name in spec.norms else None, clip=spec.clip) for name in "qkv")
    o = nn.Linear(spec.dim, spec.dim, bias=False)
    attention = SelfAttention(bias=biases, q=q, k=k, v=v, o=o, head_dim=spec.dim // spec.heads)
    up, down = (
        nn.Linear(*size, bias=False) for size in ((spec.dim, spec.times * spec.dim), (spec.times * spec.dim, spec.dim))
    )
    return Block(attn=PreNorm(norm(spec), attention), mlp=PreNorm(norm(spec), FeedForward(up, nn.GELU(), down)))


def norm(spec: MptSpec) -> nn.LayerNorm:
    return nn.LayerNorm(spec.dim, spec.eps, bias=False)
