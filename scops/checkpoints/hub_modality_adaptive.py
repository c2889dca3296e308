"""mPLUG-Owl2's MPLUGOwl2LlamaForCausalLM, and a plain LlamaForCausalLM that begins one -> our modality-adaptive language model."""

from scops.checkpoints.hub_llama import HUB_LLAMA, HUB_LLAMA_TIED
from scops.checkpoints.keymap import Copies, KeyMap, Rule, same, split

DOUBLED = {
    "input_layernorm": "attn.norm",
    "self_attn.k_proj": "attn.body.k",
    "self_attn.v_proj": "attn.body.v",
    "post_attention_layernorm": "mlp.norm",
}
"""What exists once per modality, in LLaMA's names and in ours."""


def twice(theirs: str, ours: str) -> list[Rule]:
    """One decoder layer's modules of each modality: multiway.0 is text, multiway.1 media."""
    return [
        same(f"{theirs}{name}.multiway.{{j}}.{{w}}", f"{ours}{module}.experts.{{j}}.{{w}}")
        for name, module in DOUBLED.items()
    ]


def both(theirs: str, ours: str) -> list[Rule]:
    """One decoder layer of a plain LLaMA: what is doubled begins alike (arXiv 2311.04257, section 3.2)."""
    return [
        split(f"{theirs}{name}.{{w}}", [f"{ours}{module}.experts.{j}.{{w}}" for j in range(2)], Copies(2))
        for name, module in DOUBLED.items()
    ]


# The doubled names come first: the first rule that fits takes a key. Of the rest, all stands as in LLaMA.
MODALITY_ADAPTIVE = KeyMap(twice("model.layers.{i}.", "blocks.{i}."), HUB_LLAMA)
LLAMA_INTO_BOTH = KeyMap(both("model.layers.{i}.", "blocks.{i}."), HUB_LLAMA)
LLAMA_INTO_BOTH_TIED = KeyMap(both("model.layers.{i}.", "blocks.{i}."), HUB_LLAMA_TIED)
"""Reads a plain LLaMA; writes one back while the experts are still equal, else it is an error."""
