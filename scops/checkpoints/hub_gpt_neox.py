"""transformers' GPTNeoXForCausalLM -> our language model, and its config.json both ways."""

from collections.abc import Mapping
from typing import Any

from scops.checkpoints.keymap import KeyMap, Rule, SplitPerHead, dropped, same, split
from scops.core.names import nearest
from scops.language.gpt_neox import ACTIVATIONS, GptNeoxSpec

HEADS = ("lm_head", "embed_out")
"""How transformers 5 names the head, and how every published file does."""


def hub_gpt_neox(spec: GptNeoxSpec, head: str = HEADS[0]) -> KeyMap:
    """q, k, v are fused head by head."""
    return KeyMap(
        same("gpt_neox.embed_in.weight", "embed.weight"),
        gpt_neox_layer(spec, "gpt_neox.layers.{i}.", "blocks.{i}."),
        same("gpt_neox.final_layer_norm.{w}", "norm.{w}"),
        dropped(f"{head}.weight", "the head is the embedding") if spec.tied else same(f"{head}.weight", "head.weight"),
        dropped("gpt_neox.rotary_emb.inv_freq", "rebuilt from the base"),
    )


def gpt_neox_files(spec: GptNeoxSpec) -> tuple[KeyMap, ...]:
    """With either name of the head."""
    return tuple(hub_gpt_neox(spec, head) for head in HEADS)


def gpt_neox_layer(spec: GptNeoxSpec, theirs: str, ours: str) -> list[Rule]:
    """One decoder layer."""
    branches = ours + ("both." if spec.parallel else "")
    qkv = tuple(f"{branches}attn.body.{name}.{{w}}" for name in "qkv")
    return [
        same(theirs + "input_layernorm.{w}", branches + "attn.norm.{w}"),
        split(theirs + "attention.query_key_value.{w}", qkv, SplitPerHead(parts=3, heads=spec.heads)),
        same(theirs + "attention.dense.{w}", branches + "attn.body.o.{w}"),
        same(theirs + "post_attention_layernorm.{w}", branches + "mlp.norm.{w}"),
        same(theirs + "mlp.dense_h_to_4h.{w}", branches + "mlp.body.up.{w}"),
        same(theirs + "mlp.dense_4h_to_h.{w}", branches + "mlp.body.down.{w}"),
        dropped(theirs + "attention.rotary_emb.inv_freq", "rebuilt from the base"),
        dropped(theirs + "attention.{mask}", "`bias` and `masked_bias`: the causal mask"),
    ]


def gpt_neox_spec(config: Mapping[str, Any]) -> GptNeoxSpec:
    """The numbers of a published config.json or `text_config`; what it leaves out is transformers' default.

    Raises:
        ValueError: an activation that is not known.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise ValueError(f"this GPT-NeoX has the activation {activation!r}{nearest(str(activation), ACTIVATIONS)}")
    return GptNeoxSpec(
        dim=config.get("hidden_size", 6144), hidden=config.get("intermediate_size", 24576),
        layers=config.get("num_hidden_layers", 44), heads=config.get("num_attention_heads", 64),
        vocab=config.get("vocab_size", 50432), eps=config.get("layer_norm_eps", 1e-5),
        rotary=rope.get("partial_rotary_factor", config.get("rotary_pct", 0.25)),
        rope_base=rope.get("rope_theta", config.get("rotary_emb_base", 10000)),
        rope_scaling=rope if rope.get("rope_type", rope.get("type", "default")) != "default" else None,
        context=config.get("max_position_embeddings", 2048), activation=activation,
        parallel=config.get("use_parallel_residual", True), bias=config.get("attention_bias", True),
        tied=config.get("tie_word_embeddings", False),
    )  # fmt: skip


def gpt_neox_config(spec: GptNeoxSpec) -> dict[str, Any]:
    """The inverse of `gpt_neox_spec`."""
    scaling = {} if spec.rope_scaling is None else {"rope_scaling": dict(spec.rope_scaling)}
    return {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": spec.dim,
        "intermediate_size": spec.hidden, "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads,
        "vocab_size": spec.vocab, "layer_norm_eps": spec.eps, "rotary_pct": spec.rotary,
        "rotary_emb_base": spec.rope_base, "max_position_embeddings": spec.context, "hidden_act": spec.activation,
        "use_parallel_residual": spec.parallel, "attention_bias": spec.bias, "tie_word_embeddings": spec.tied,
    } | scaling  # fmt: skip
