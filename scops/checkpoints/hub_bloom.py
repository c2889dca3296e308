"""transformers' BloomForCausalLM -> our language model, and its config.json both ways."""

from collections.abc import Mapping
from typing import Any

from scops.checkpoints.keymap import KeyMap, Rule, SplitPerHead, dropped, same, split
from scops.language.bloom import BloomSpec


def hub_bloom(spec: BloomSpec) -> KeyMap:
    """q, k, v are fused head by head."""
    qkv = tuple(f"blocks.{{i}}.attn.body.{name}.{{w}}" for name in "qkv")
    return KeyMap(
        same("transformer.word_embeddings.weight", "embed.weight"),
        same("transformer.word_embeddings_layernorm.{w}", "embed_norm.{w}"),
        same("transformer.h.{i}.input_layernorm.{w}", "blocks.{i}.attn.norm.{w}"),
        split("transformer.h.{i}.self_attention.query_key_value.{w}", qkv, SplitPerHead(parts=3, heads=spec.heads)),
        same("transformer.h.{i}.self_attention.dense.{w}", "blocks.{i}.attn.body.o.{w}"),
        same("transformer.h.{i}.post_attention_layernorm.{w}", "blocks.{i}.mlp.norm.{w}"),
        same("transformer.h.{i}.mlp.dense_h_to_4h.{w}", "blocks.{i}.mlp.body.up.{w}"),
        same("transformer.h.{i}.mlp.dense_4h_to_h.{w}", "blocks.{i}.mlp.body.down.{w}"),
        same("transformer.ln_f.{w}", "norm.{w}"),
        _head(spec),
    )


def _head(spec: BloomSpec) -> Rule:
    if spec.tied:
        return dropped("lm_head.weight", "the head is the embedding")
    return same("lm_head.weight", "head.weight")


def bloom_spec(config: Mapping[str, Any]) -> BloomSpec:
    """The numbers of a published `config.json` or `text_config`; what it leaves out is transformers' default.

    Raises:
        ValueError: residuals behind the norms, which no published size has.
    """
    if config.get("apply_residual_connection_post_layernorm"):
        raise ValueError(
            "this BLOOM has its residuals behind the norms (apply_residual_connection_post_layernorm), "
            "which no published size has"
        )
    return BloomSpec(
        dim=config.get("hidden_size", config.get("n_embed", 64)),
        layers=config.get("n_layer", config.get("num_hidden_layers", 2)),
        heads=config.get("n_head", config.get("num_attention_heads", 8)),
        vocab=config.get("vocab_size", 250880),
        eps=config.get("layer_norm_epsilon", 1e-5),
        context=config.get("seq_length", 2048),
        tied=config.get("tie_word_embeddings", True),
    )


def bloom_config(spec: BloomSpec) -> dict[str, Any]:
    """The inverse of `bloom_spec`."""
    return {
        "architectures": ["BloomForCausalLM"], "model_type": "bloom", "hidden_size": spec.dim, "n_layer": spec.layers,
        "n_head": spec.heads, "vocab_size": spec.vocab, "layer_norm_epsilon": spec.eps, "seq_length": spec.context,
        "tie_word_embeddings": spec.tied,
    }  # fmt: skip
