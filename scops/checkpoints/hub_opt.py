"""transformers' OPTForCausalLM -> our language model, and its config.json both ways."""

from collections.abc import Mapping
from typing import Any

from scops.checkpoints.keymap import KeyMap, Rule, dropped, same
from scops.language.opt import ACTIVATIONS, OptSpec


def hub_opt(spec: OptSpec) -> KeyMap:
    return KeyMap(_decoder(spec).under(theirs="model."), _head(spec))


def bare_opt(spec: OptSpec) -> KeyMap:
    """The same of files that hold the decoder alone, as some of facebook/opt-* do."""
    return KeyMap(_decoder(spec), _head(spec))


def opt_files(spec: OptSpec) -> tuple[KeyMap, ...]:
    """Of a whole model, and of a decoder alone."""
    return hub_opt(spec), bare_opt(spec)


def _decoder(spec: OptSpec) -> KeyMap:
    layer, block = "layers.{i}.", "blocks.{i}."
    narrow = spec.width != spec.dim
    return KeyMap(
        same("embed_tokens.weight", "embed.weight"),
        same("embed_positions.weight", "enter.positions.weight"),
        same("project_in.weight", "enter.project.weight"),
        *(same(f"{layer}self_attn.{name}_proj.{{w}}", f"{block}attn.body.{name}.{{w}}") for name in "qkv"),
        same(layer + "self_attn.out_proj.{w}", block + "attn.body.o.{w}"),
        same(layer + "self_attn_layer_norm.{w}", block + "attn.norm.{w}"),
        same(layer + "fc1.{w}", block + "mlp.body.up.{w}"),
        same(layer + "fc2.{w}", block + "mlp.body.down.{w}"),
        same(layer + "final_layer_norm.{w}", block + "mlp.norm.{w}"),
        same("final_layer_norm.{w}", "norm.norm.{w}" if narrow else "norm.{w}"),
        same("project_out.weight", "norm.project.weight"),
    ).under(theirs="decoder.")


def _head(spec: OptSpec) -> Rule:
    if spec.tied:
        return dropped("lm_head.weight", "the head is the embedding")
    return same("lm_head.weight", "head.weight")


def opt_spec(config: Mapping[str, Any]) -> OptSpec:
    """The numbers of a published `config.json` or `text_config`; what it leaves out is transformers' default.

    Raises:
        ValueError: an activation that no OPT has, or no norm behind the blocks.
    """
    activation, dim = config.get("activation_function", "relu"), config.get("hidden_size", 768)
    if activation not in ACTIVATIONS:
        raise ValueError(f"this OPT has the activation {activation!r}; it is built with {', '.join(ACTIVATIONS)}")
    if config.get("_remove_final_layer_norm"):
        raise ValueError(
            "this OPT has no norm behind its blocks (_remove_final_layer_norm): it was made by transformers before 4.20.1, "
            "and is not built here"
        )
    words = config.get("word_embed_proj_dim")
    return OptSpec(
        dim=dim,
        hidden=config.get("ffn_dim", 3072),
        layers=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 12),
        vocab=config.get("vocab_size", 50272),
        context=config.get("max_position_embeddings", 2048),
        words=None if words in (None, dim) else words,
        norms="before" if config.get("do_layer_norm_before", True) else "after",
        activation=activation,
        bias=config.get("enable_bias", True),
        affine=config.get("layer_norm_elementwise_affine", True),
        tied=config.get("tie_word_embeddings", True),
    )


def opt_config(spec: OptSpec) -> dict[str, Any]:
    """The inverse of `opt_spec`."""
    return {
        "architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": spec.dim, "ffn_dim": spec.hidden,
        "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads, "vocab_size": spec.vocab,
        "max_position_embeddings": spec.context, "word_embed_proj_dim": spec.width,
        "do_layer_norm_before": spec.norms == "before", "activation_function": spec.activation,
        "enable_bias": spec.bias, "layer_norm_elementwise_affine": spec.affine, "tie_word_embeddings": spec.tied,
    }  # fmt: skip
