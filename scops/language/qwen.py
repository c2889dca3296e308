"""Qwen 1 (QwenLM/Qwen-7B, modeling_qwen.py) as in mPLUG-Owl2.1: queries, keys and values exist once per modality.

LLaMA's blocks but for biases on q, k, v, queries that are sharpened beyond the trained length, and a rope that is stretched there.
Norms, output projection and feed-forward are shared (X-PLUG/mPLUG-Owl, mPLUG-Owl2/mplug_owl2/model/modeling_qwen.py).
"""

# B rows, T tokens, D width
from dataclasses import dataclass
from math import log

from torch import Tensor, nn

from scops.language.modality_adaptive import EXPERTS
from scops.language.model import LanguageModel
from scops.nn.attention import SelfAttention
from scops.nn.block import Block, Contextual, PreNorm, Routed, run
from scops.nn.context import Context
from scops.nn.feed_forward import SwiGlu
from scops.nn.norm import RMSNorm
from scops.ops.rope import DynamicNtk, Rotary, plain


@dataclass(frozen=True)
class QwenSpec:
    """Args:
    hidden: of the gate and of what it lets through; a published config.json says twice that.
    trained: tokens of the longest document in training.
    stretched: whether the rope turns slower in longer documents (dynamic NTK).
    sharpened: whether queries grow with the logarithm of their place in longer documents.
    bias: on the output projection and in the feed-forward too.
    """

    dim: int = 4096
    hidden: int = 11008
    layers: int = 32
    heads: int = 32
    vocab: int = 151_851
    eps: float = 1e-6
    rope_base: float = 10000.0
    context: int = 8192
    trained: int = 8192
    stretched: bool = True
    sharpened: bool = True
    bias: bool = False


class Sharpened(Contextual):
    """body(x) * max(1, log(position + 1) / log(trained)), where nothing is learnt (Qwen's log-n attention)."""

    def __init__(self, body: nn.Module, trained: int):
        super().__init__()
        self.body, self.trained = body, trained

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        q_BTD = run(self.body, x_BTD, ctx)
        if self.training:
            return q_BTD
        assert ctx.positions_BT is not None, "queries are sharpened by their positions"
        factor_BT1 = ((ctx.positions_BT + 1).float().log() / log(self.trained)).clamp(min=1)[..., None]
        return q_BTD * factor_BT1.to(q_BTD.dtype)


def qwen(spec: QwenSpec) -> LanguageModel:
    width = spec.dim // spec.heads
    stretching = DynamicNtk(width, spec.rope_base, spec.trained) if spec.stretched else None
    rope = stretching or plain(width, spec.rope_base)
    return LanguageModel(
        nn.Embedding(spec.vocab, spec.dim),
        [block(spec, rope) for _ in range(spec.layers)],
        norm=RMSNorm(spec.dim, spec.eps),
        head=nn.Linear(spec.dim, spec.vocab, bias=False),
        stretch=None if stretching is None else stretching.stretch,
    )


def block(spec: QwenSpec, rope: Rotary) -> Block:
    q, k, v = (Routed(*(nn.Linear(spec.dim, spec.dim) for _ in range(EXPERTS))) for _ in range(3))
    asks = Sharpened(q, spec.trained) if spec.sharpened else q
    o = nn.Linear(spec.dim, spec.dim, bias=spec.bias)
    return Block(
        attn=PreNorm(
            RMSNorm(spec.dim, spec.eps),
            SelfAttention(q=asks, k=k, v=v, o=o, head_dim=spec.dim // spec.heads, rope=rope),
        ),
        mlp=PreNorm(RMSNorm(spec.dim, spec.eps), SwiGlu(spec.dim, spec.hidden, bias=spec.bias)),
    )
