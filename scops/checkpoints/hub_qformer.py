"""Q-Formers as salesforce/LAVIS and as transformers name them -> ours; `query_tokens` stands beside them in both."""

from scops.checkpoints.hub_bert import bert_attention
from scops.checkpoints.keymap import KeyMap, Rule, dropped, same

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
