"""transformers' T5ForConditionalGeneration -> our encoder and decoder, and its config.json both ways."""

from collections.abc import Mapping
from typing import Any

from scops.checkpoints.keymap import KeyMap, dropped, same
from scops.language.t5 import ACTIVATIONS, T5Spec

SELF, CROSS, FEED, TABLE = "SelfAttention.", "EncDecAttention.", "DenseReluDense.", "relative_attention_bias.weight"
AGAIN = "the words once more, as torch.save keeps tied tensors"


def hub_t5(spec: T5Spec) -> KeyMap:
    return KeyMap(t5_encoder(spec).under(ours="encoder."), t5_decoder(spec).under(ours="decoder."))


def t5_encoder(spec: T5Spec) -> KeyMap:
    stack = _stack(spec, {"attn": SELF, "mlp": FEED})
    return KeyMap(stack, dropped("embed_tokens.weight", AGAIN)).under(theirs="encoder.")


def t5_decoder(spec: T5Spec) -> KeyMap:
    """With the words, which are the encoder's too."""
    stack = _stack(spec, {"attn": SELF, "cross": CROSS, "mlp": FEED})
    old = dropped(f"block.0.layer.1.{CROSS}{TABLE}", "of old files; never read")
    tied, head = dropped("lm_head.weight", "the head is the embedding"), same("lm_head.weight", "head.weight")
    return KeyMap(
        same("shared.weight", "words.weight"),
        KeyMap(stack, old, dropped("embed_tokens.weight", AGAIN)).under(theirs="decoder."),
        tied if spec.tied else head,
    )


def _stack(spec: T5Spec, sublayers: Mapping[str, str]) -> KeyMap:
    """Args:
    sublayers: our name -> theirs, in their order.
    """
    mlp = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if spec.gated else {"wi": "up", "wo": "down"}
    rules = [
        same(f"block.0.layer.0.{SELF}{TABLE}", "bias.table.weight"),
        same("final_layer_norm.weight", "norm.weight"),
    ]
    for number, (ours, published) in enumerate(sublayers.items()):
        theirs, block = f"block.{{i}}.layer.{number}.", f"blocks.{{i}}.{ours}."
        names = mlp if ours == "mlp" else {name: name for name in "qkvo"}
        rules.append(same(theirs + "layer_norm.weight", block + "norm.weight"))
        rules += [same(f"{theirs}{published}{a}.weight", f"{block}body.{b}.weight") for a, b in names.items()]
    return KeyMap(rules)


def t5_spec(config: Mapping[str, Any]) -> T5Spec:
    """The numbers of a published `config.json` or `text_config`; what it leaves out is transformers' default.

    A config.json of transformers 5 says that the head is tied also where it is not: then the weights' names say it.

    Raises:
        ValueError: a feed-forward that no T5 has.
    """
    feed_forward = config.get("feed_forward_proj", "relu")
    gate, _, name = feed_forward.rpartition("-")
    meant = "gelu_new" if feed_forward == "gated-gelu" else name  # as the first code of T5 1.1 had it
    activation = config.get("dense_act_fn") or meant
    if gate not in ("", "gated") or activation not in ACTIVATIONS:
        raise ValueError(
            f"this T5 has the feed-forward {feed_forward!r} with {activation!r}; it is built with or without 'gated-' and "
            f"with {', '.join(ACTIVATIONS)}"
        )
    tied = config.get("tie_word_embeddings") is not False
    return T5Spec(
        dim=config.get("d_model", 512),
        hidden=config.get("d_ff", 2048),
        layers=config.get("num_layers", 6),
        written=config.get("num_decoder_layers"),
        heads=config.get("num_heads", 8),
        head_dim=config.get("d_kv", 64),
        vocab=config.get("vocab_size", 32128),
        eps=config.get("layer_norm_epsilon", 1e-6),
        gated=gate == "gated",
        activation=activation,
        buckets=config.get("relative_attention_num_buckets", 32),
        farthest=config.get("relative_attention_max_distance", 128),
        tied=tied,
        scaled=config.get("scale_decoder_outputs", tied),
        context=config.get("n_positions", 512),
    )


def t5_config(spec: T5Spec) -> dict[str, Any]:
    """The inverse of `t5_spec`."""
    return {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": spec.dim, "d_ff": spec.hidden,
        "num_layers": spec.layers, "num_decoder_layers": spec.layers if spec.written is None else spec.written,
        "num_heads": spec.heads, "d_kv": spec.head_dim, "vocab_size": spec.vocab, "layer_norm_epsilon": spec.eps,
        "feed_forward_proj": ("gated-" if spec.gated else "") + spec.activation.removesuffix("_new"),
        "dense_act_fn": spec.activation, "relative_attention_num_buckets": spec.buckets,
        "relative_attention_max_distance": spec.farthest, "n_positions": spec.context,
        "tie_word_embeddings": spec.tied, "scale_decoder_outputs": spec.scaled, "decoder_start_token_id": 0,
        "is_encoder_decoder": True,
    }  # fmt: skip
