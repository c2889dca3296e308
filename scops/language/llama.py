"""The LLaMA family: LLaMA (arXiv 2302.13971), Vicuna, Mistral (2310.06825), SmolLM2, Qwen2 (2407.10671), Qwen3 (2505.09388).

RMSNorm before self-attention with rotary positions, RMSNorm before SwiGLU, no dropout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from scops.language.model import LanguageModel
from scops.nn.attention import SelfAttention
from scops.nn.block import Block, PreNorm
from scops.nn.feed_forward import SwiGlu
from scops.nn.norm import RMSNorm
from scops.ops.rope import Rope, scaled


@dataclass(frozen=True)
class LlamaSpec:
    """The numbers of one model of the family.

    Args:
        kv_heads: fewer than heads for grouped attention.
        head_dim: dim / heads when None.
        bias: which projections carry one: "qkv" in Qwen2, "qkvo" where attention_bias is set, "" in LLaMA and Qwen3.
        norms: which projections are normed per head: "qk" in Qwen3.
        rope_scaling: as in the published config.json.
        window: Mistral's sliding window.
        tied: the head is the embedding.
    """

    dim: int = 4096
    hidden: int = 11008
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    vocab: int = 32000
    head_dim: int | None = None
    eps: float = 1e-6
    rope_base: float = 10000.0
    rope_scaling: Mapping | None = None
    context: int = 2048
    bias: str = ""
    norms: str = ""
    window: int | None = None
    tied: bool = False

    @property
    def head_width(self) -> int:
        return self.head_dim or self.dim // self.heads


def llama(spec: LlamaSpec) -> LanguageModel:
    rope = rope_of(spec)
    return assembled(spec, [block(spec, rope) for _ in range(spec.layers)])


def rope_of(spec: LlamaSpec) -> Rope:
    return scaled(spec.head_width, spec.rope_base, spec.rope_scaling, context=spec.context)


def assembled(spec: LlamaSpec, blocks: Sequence[Block]) -> LanguageModel:
    """The family's embedding, norm and head around these blocks."""
    return LanguageModel(
        nn.Embedding(spec.vocab, spec.dim),
        blocks,
        norm=RMSNorm(spec.dim, spec.eps),
        head=None if spec.tied else nn.Linear(spec.dim, spec.vocab, bias=False),
        window=spec.window,
    )


def block(spec: LlamaSpec, rope: Rope) -> Block:
    return Block(
        attn=PreNorm(RMSNorm(spec.dim, spec.eps), attention(spec, rope)),
        mlp=PreNorm(RMSNorm(spec.dim, spec.eps), SwiGlu(spec.dim, spec.hidden)),
    )


def attention(spec: LlamaSpec, rope: Rope, **other: Any) -> SelfAttention:
    """LLaMA's self-attention; `other` replaces single parts, e.g. k=Routed(...)."""
    width, kv_width = spec.heads * spec.head_width, spec.kv_heads * spec.head_width
    sizes = {"q": (spec.dim, width), "k": (spec.dim, kv_width), "v": (spec.dim, kv_width), "o": (width, spec.dim)}
    parts: dict[str, nn.Module] = {name: nn.Linear(*size, bias=name in spec.bias) for name, size in sizes.items()}
    parts |= {f"{name}_norm": RMSNorm(spec.head_width, spec.eps) for name in spec.norms}
    named: dict[str, Any] = parts | other
    return SelfAttention(**named, head_dim=spec.head_width, rope=rope)
