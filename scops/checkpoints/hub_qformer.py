"""Q-Formers as salesforce/LAVIS and as transformers name them -> ours; `query_tokens` stands beside them in both."""

from collections.abc import Mapping
from typing import Any

from scops.checkpoints.hub_bert import bert_attention
from scops.checkpoints.keymap import KeyMap, Rule, dropped, same
from scops.connectors.qformer import QFormerSpec

LAYER, BLOCK = "encoder.layer.{i}.", "blocks.{i}."


def feed_forward(end: str, ours: str) -> list[Rule]:
    """Of queries ("_query") or of text ("")."""
    return [
        same(f"{LAYER}intermediate{end}.dense.{{w}}", f"{BLOCK}{ours}.body.up.{{w}}"),
        same(f"{LAYER}output{end}.dense.{{w}}", f"{BLOCK}{ours}.body.down.{{w}}"),
        same(f"{LAYER}output{end}.LayerNorm.{{w}}", f"{BLOCK}{ours}.norm.{{w}}"),
    ]


def hub_attention(theirs: str, ours: str) -> list[Rule]:
    """As `bert_attention`; transformers says attention where LAVIS says self."""
    return [Rule((r.theirs[0].replace(".self.", ".attention."),), r.ours) for r in bert_attention(theirs, ours)]


FEED_FORWARDS = KeyMap(feed_forward("_query", "query"), feed_forward("", "text"))
WORDS = KeyMap(
    same("embeddings.word_embeddings.weight", "words.weight"),
    same("embeddings.position_embeddings.weight", "positions.weight"),
)

LAVIS_QFORMER = KeyMap(  # below `Qformer.bert.`
    WORDS,
    same("embeddings.LayerNorm.{w}", "norm.{w}"),
    dropped("embeddings.position_ids", "counted anew"),
    bert_attention(LAYER + "attention.", BLOCK + "attn."),
    bert_attention(LAYER + "crossattention.", BLOCK + "cross."),
    FEED_FORWARDS,
)
_LAYERS = KeyMap(
    hub_attention(LAYER + "attention.", BLOCK + "attn."),
    hub_attention(LAYER + "crossattention.", BLOCK + "cross."),
    FEED_FORWARDS,
)
HUB_QFORMER = KeyMap(same("layernorm.{w}", "norm.{w}"), _LAYERS)  # below `qformer.`; Blip2's words stand outside of it
HUB_QFORMER_READING = KeyMap(WORDS, same("embeddings.layernorm.{w}", "norm.{w}"), _LAYERS)  # InstructBLIP's


def qformer_spec(config: Mapping[str, Any], *, queries: int, words: int) -> QFormerSpec:
    """Of a `qformer_config` as transformers' Blip2QFormerConfig; what it leaves out is BERT's.

    Args:
        words: how many it has where the config does not say; 0 for one that reads none, whatever it says.
    """
    return QFormerSpec(
        dim=config.get("hidden_size", 768), hidden=config.get("intermediate_size", 3072),
        layers=config.get("num_hidden_layers", 12), heads=config.get("num_attention_heads", 12), queries=queries,
        width=config.get("encoder_hidden_size", 1408), every=config.get("cross_attention_frequency", 2),
        vocab=config.get("vocab_size", words) if words else 0, context=config.get("max_position_embeddings", 512),
        eps=config.get("layer_norm_eps", 1e-12),
    )  # fmt: skip


def qformer_config(spec: QFormerSpec) -> dict[str, Any]:
    """The inverse of `qformer_spec`; queries stand elsewhere, and so does whether it has words."""
    words = {"vocab_size": spec.vocab} if spec.vocab else {}
    return words | {
        "hidden_size": spec.dim, "intermediate_size": spec.hidden, "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads, "encoder_hidden_size": spec.width, "cross_attention_frequency": spec.every,
        "max_position_embeddings": spec.context, "layer_norm_eps": spec.eps,
    }  # fmt: skip
