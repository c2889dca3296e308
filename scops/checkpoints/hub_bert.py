"""transformers' BertModel and BertLMHeadModel -> our BERT; the names of most vision-language systems of 2019 to 2022."""

from collections.abc import Iterable

from scops.checkpoints.keymap import KeyMap, Repeated, Rule, dropped, rule, same

WORDS = "embeddings.word_embeddings.weight"
OUR_WORDS = "embeddings.words.weight"


def bert_attention(theirs: str, ours: str) -> list[Rule]:
    """One attention with its norm, `attention.` or `crossattention.`."""
    return [
        same(theirs + "self.query.{w}", ours + "body.q.{w}"),
        same(theirs + "self.key.{w}", ours + "body.k.{w}"),
        same(theirs + "self.value.{w}", ours + "body.v.{w}"),
        same(theirs + "output.dense.{w}", ours + "body.o.{w}"),
        same(theirs + "output.LayerNorm.{w}", ours + "norm.{w}"),
    ]


def bert_layer(theirs: str, ours: str) -> list[Rule]:
    """One layer, with cross-attention where it has one."""
    return [
        *bert_attention(theirs + "attention.", ours + "attn."),
        *bert_attention(theirs + "crossattention.", ours + "cross."),
        *bert_feed_forward(theirs, ours),
    ]


def bert_feed_forward(theirs: str, ours: str) -> list[Rule]:
    return [
        same(theirs + "intermediate.dense.{w}", ours + "mlp.body.up.{w}"),
        same(theirs + "output.dense.{w}", ours + "mlp.body.down.{w}"),
        same(theirs + "output.LayerNorm.{w}", ours + "mlp.norm.{w}"),
    ]


BEHIND_WORDS = KeyMap(
    same("embeddings.position_embeddings.weight", "embeddings.positions.weight"),
    same("embeddings.token_type_embeddings.weight", "embeddings.segments.weight"),
    same("embeddings.LayerNorm.{w}", "embeddings.norm.{w}"),
    dropped("embeddings.position_ids", "counted anew"),
)
EMBEDDINGS = KeyMap(same(WORDS, OUR_WORDS), BEHIND_WORDS)
HUB_BERT = KeyMap(EMBEDDINGS, bert_layer("encoder.layer.{i}.", "blocks.{i}."))

TRANSFORM = KeyMap(
    same("cls.predictions.transform.dense.{w}", "head.transform.{w}"),
    same("cls.predictions.transform.LayerNorm.{w}", "head.norm.{w}"),
)
# torch.save keeps words and bias once more under the head's own projection, as published .pth files do.
HUB_BERT_HEAD = KeyMap(
    rule(("bert." + WORDS, "cls.predictions.decoder.weight"), (OUR_WORDS,), Repeated(2)),
    rule(("cls.predictions.bias", "cls.predictions.decoder.bias"), ("head.bias",), Repeated(2)),
    TRANSFORM,
    KeyMap(BEHIND_WORDS, bert_layer("encoder.layer.{i}.", "blocks.{i}.")).under(theirs="bert."),
)
# A safetensors file of transformers keeps them once.
HUB_BERT_HEAD_ONCE = KeyMap(
    same("cls.predictions.bias", "head.bias"), TRANSFORM, HUB_BERT.under(theirs="bert."),
)  # fmt: skip


def bert_head_keys(names: Iterable[str]) -> KeyMap:
    """The map that fits these published names."""
    return HUB_BERT_HEAD if "cls.predictions.decoder.weight" in set(names) else HUB_BERT_HEAD_ONCE
