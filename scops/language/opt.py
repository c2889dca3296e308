"""OPT (arXiv 2205.01068, section 2.1; facebookresearch/metaseq): learned positions, LayerNorm, ReLU, biases, tied head.

Positions are added to all that stands in the sequence, words and media. OPT-350m alone has its norms behind the sub-layers and
words that are narrower than its blocks.
"""

# B rows, T tokens, D width, W width of words
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from scops.language.model import LanguageModel
from scops.nn.attention import SelfAttention
from scops.nn.block import Block, Contextual, PostNorm, PreNorm
from scops.nn.context import Context
from scops.nn.feed_forward import FeedForward

OFFSET = 2
"""Rows of the table of positions that no token ever takes (fairseq counts from behind its padding's id)."""
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


@dataclass(frozen=True)
class OptSpec:
    """The numbers of one model; the defaults are OPT-2.7b's.

    Args:
        words: width of the word embeddings, and so of media tokens; dim when None.
        norms: "before" the sub-layers, and a last one behind all blocks; or "after" them.
        bias: of the projections.
        affine: whether norms have weights (Galactica's have none).
        tied: the head is the embedding.
    """

    dim: int = 2560
    hidden: int = 10240
    layers: int = 32
    heads: int = 32
    vocab: int = 50272
    context: int = 2048
    words: int | None = None
    norms: str = "before"
    activation: str = "relu"
    bias: bool = True
    affine: bool = True
    tied: bool = True

    @property
    def width(self) -> int:
        """Of what stands in the sequence."""
        return self.words or self.dim


RESIDUALS: dict[str, type[PreNorm] | type[PostNorm]] = {"before": PreNorm, "after": PostNorm}


class Placed(Contextual):
    """project(x) + a learned vector of the token's position.

    Args:
        project: from the width of words to that of the blocks.
    """

    def __init__(self, context: int, dim: int, project: nn.Module):
        super().__init__()
        self.project, self.positions = project, nn.Embedding(context + OFFSET, dim)

    def forward(self, x_BTW: Tensor, ctx: Context) -> Tensor:
        assert ctx.positions_BT is not None, "OPT's tokens need positions in the context"
        return self.project(x_BTW) + self.positions(ctx.positions_BT + OFFSET)


def opt(spec: OptSpec) -> LanguageModel:
    narrow = spec.width != spec.dim
    widen = nn.Linear(spec.width, spec.dim, bias=False) if narrow else nn.Identity()
    last: nn.Module = norm(spec) if spec.norms == "before" else nn.Identity()
    if narrow:
        parts: OrderedDict[str, nn.Module] = OrderedDict(norm=last)
        parts["project"] = nn.Linear(spec.dim, spec.width, bias=False)
        last = nn.Sequential(parts)
    return LanguageModel(
        nn.Embedding(spec.vocab, spec.width),
        [block(spec) for _ in range(spec.layers)],
        enter=Placed(spec.context, spec.dim, widen),
        norm=last,
        head=None if spec.tied else nn.Linear(spec.width, spec.vocab, bias=False),
    )


def block(spec: OptSpec) -> Block:
    residual = RESIDUALS[spec.norms]
    q, k, v, o = (nn.Linear(spec.dim, spec.dim, bias=spec.bias) for _ in range(4))
    up, down = nn.Linear(spec.dim, spec.hidden, bias=spec.bias), nn.Linear(spec.hidden, spec.dim, bias=spec.bias)
    return Block(
        attn=residual(norm(spec), SelfAttention(q=q, k=k, v=v, o=o, head_dim=spec.dim // spec.heads)),
        mlp=residual(norm(spec), FeedForward(up, ACTIVATIONS[spec.activation](), down)),
    )


def norm(spec: OptSpec) -> nn.LayerNorm:
    return nn.LayerNorm(spec.dim, elementwise_affine=spec.affine)
