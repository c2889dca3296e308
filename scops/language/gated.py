"""Gated cross-attention: layers between those of a language model ask media beside the text (Flamingo, arXiv 2204.14198, 2.2).

    x + tanh(a) cross_attention(norm(x), media), then x + tanh(b) feed_forward(norm(x)); a and b are learnt and start at 0.

They stand in the block of the layer they come before, as `gated_attn` and `gated_mlp`, in front of what it has.
"""

# B rows, T tokens, D width
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from scops.language.llama import LlamaSpec, assembled, block, rope_of
from scops.language.model import LanguageModel
from scops.nn.attention import CrossAttention
from scops.nn.block import Block, Contextual, PreNorm, run
from scops.nn.context import Context
from scops.nn.feed_forward import FeedForward, SquaredRelu
from scops.nn.gate import TanhGate
from scops.ops.masks import earlier_else_all, latest

Sublayers = Mapping[str, Contextual]


@dataclass(frozen=True)
class GatedSpec:
    """Args:
    every: before every n-th layer, the first of them being the n-th.
    times: the feed-forward's hidden width over the model's.
    immediate: a token asks the last item before it alone, and nothing where there is none; otherwise all before it,
        where there is none the average of all.
    """

    every: int = 1
    heads: int = 8
    head_dim: int = 64
    times: int = 4
    immediate: bool = True
    activation: str = "gelu"


ACTIVATIONS = {"gelu": nn.GELU, "squared_relu": SquaredRelu}
"""OpenFlamingo's, Flamingo's."""


class ElseEvenly(Contextual):
    """body(x), and 0 for tokens that have met no item: a query that finds the average of all it sees.

    Such a token's result depends on items behind it, so that its row must be read whole, and alone.
    """

    def __init__(self, memory: str, body: nn.Module):
        super().__init__()
        self.memory, self.body = memory, body

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        q_BTD, memory = run(self.body, x_BTD, ctx), ctx.memories.get(self.memory)
        if memory is None or memory.met_BT is None or memory.passed:
            return q_BTD
        if memory.before_BT is not None:
            raise ValueError("text before its first picture asks all pictures of its row, so rows cannot be packed")
        if memory.features_BSD is None:
            raise ValueError(
                "text before its first picture asks all pictures of its row, so it cannot be read in parts"
            )
        return q_BTD * (memory.met_BT > 0)[..., None]


def gated_sublayers(spec: GatedSpec, dim: int, *, memory: str, width: int) -> dict[str, Contextual]:
    """As in open_flamingo/src/helpers.py, GatedCrossAttentionBlock: LayerNorms, no biases in projections.

    Args:
        dim: of the language model.
        width: of what is asked.
    """
    inner = spec.heads * spec.head_dim
    q: nn.Module = nn.Linear(dim, inner, bias=False)
    k, v = (nn.Linear(width, inner, bias=False) for _ in range(2))
    q, sees = (q, latest) if spec.immediate else (ElseEvenly(memory, q), earlier_else_all)
    o = nn.Linear(inner, dim, bias=False)
    up, down = nn.Linear(dim, spec.times * dim, bias=False), nn.Linear(spec.times * dim, dim, bias=False)
    attention = CrossAttention(memory, sees=sees, q=q, k=k, v=v, o=o, head_dim=spec.head_dim)
    return {
        "gated_attn": PreNorm(nn.LayerNorm(dim), attention, scale=TanhGate()),
        "gated_mlp": PreNorm(
            nn.LayerNorm(dim), FeedForward(up, ACTIVATIONS[spec.activation](), down), scale=TanhGate()
        ),
    }


def with_gates(blocks: Sequence[Block], layers: Sequence[int], make: Callable[[], Sublayers]) -> list[Block]:
    """The same blocks, some with more in front.

    Args:
        layers: which, counted from 1.
        make: of each of them, what stands in front.
    """
    wrong = [number for number in layers if not 1 <= number <= len(blocks)]
    if wrong or not layers:
        raise ValueError(f"gated cross-attention before layers {wrong or 'none'}, but the model has 1 to {len(blocks)}")
    return [in_front(one, make()) if at + 1 in layers else one for at, one in enumerate(blocks)]


def in_front(block: Block, sublayers: Sublayers) -> Block:
    return Block(**sublayers, **{name: cast(Contextual, child) for name, child in block.named_children()})


def gated_blocks(blocks: Sequence[Block], spec: GatedSpec, dim: int, *, memory: str, width: int) -> list[Block]:
    """Any language model's blocks, asking `memory` before every n-th."""
    layers = range(spec.every, len(blocks) + 1, spec.every)
    return with_gates(blocks, layers, lambda: gated_sublayers(spec, dim, memory=memory, width=width))


def gated_llama(spec: LlamaSpec, gates: GatedSpec, memory: str, *, width: int) -> LanguageModel:
    """A LLaMA-like model with gated cross-attention.

    Args:
        memory: the name of what stands beside the text.
        width: of what stands there.
    """
    rope = rope_of(spec)
    blocks = [block(spec, rope) for _ in range(spec.layers)]
    return assembled(spec, gated_blocks(blocks, gates, spec.dim, memory=memory, width=width))
