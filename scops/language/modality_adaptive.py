"""The modality-adaptive module: a LLaMA whose norms, keys and values exist once for text and once for media.

mPLUG-Owl2 (arXiv 2311.04257, section 3.1; X-PLUG/mPLUG-Owl, mPLUG-Owl2/mplug_owl2/model/modeling_llama2.py). Queries, output
projection, feed-forward, last norm and head are shared. The route of the context says which token is which: expert 0 is text,
expert 1 all that a connector made, its end token included.
"""

from torch import nn

from scops.language.llama import LlamaSpec, assembled, attention, rope_of
from scops.language.model import LanguageModel
from scops.nn.block import Block, PreNorm, Routed
from scops.nn.feed_forward import SwiGlu
from scops.nn.norm import RMSNorm
from scops.ops.rope import Rope

EXPERTS = 2
"""Text and media."""


def modality_adaptive(spec: LlamaSpec) -> LanguageModel:
    rope = rope_of(spec)
    return assembled(spec, [block(spec, rope) for _ in range(spec.layers)])


def block(spec: LlamaSpec, rope: Rope) -> Block:
    return Block(
        attn=PreNorm(norm(spec), attention(spec, rope, k=keys(spec, "k"), v=keys(spec, "v"))),
        mlp=PreNorm(norm(spec), SwiGlu(spec.dim, spec.hidden)),
    )


def norm(spec: LlamaSpec) -> Routed:
    return Routed(*(RMSNorm(spec.dim, spec.eps) for _ in range(EXPERTS)))


def keys(spec: LlamaSpec, name: str) -> Routed:
    """The projection of keys or of values."""
    width = spec.kv_heads * spec.head_width
    return Routed(*(nn.Linear(spec.dim, width, bias=name in spec.bias) for _ in range(EXPERTS)))
