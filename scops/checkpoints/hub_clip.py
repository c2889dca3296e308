"""CLIP's picture tower, transformers' CLIPVisionModel or OpenAI's own, -> our vision transformer."""

from collections.abc import Iterable

from scops.checkpoints.keymap import KeyMap, LeadingAxes, Rule, dropped, same, split


def clip_layer(theirs: str, ours: str) -> list[Rule]:
    return [
        same(theirs + "layer_norm1.{w}", ours + "attn.norm.{w}"),
        same(theirs + "self_attn.q_proj.{w}", ours + "attn.body.q.{w}"),
        same(theirs + "self_attn.k_proj.{w}", ours + "attn.body.k.{w}"),
        same(theirs + "self_attn.v_proj.{w}", ours + "attn.body.v.{w}"),
        same(theirs + "self_attn.out_proj.{w}", ours + "attn.body.o.{w}"),
        same(theirs + "layer_norm2.{w}", ours + "mlp.norm.{w}"),
        same(theirs + "mlp.fc1.{w}", ours + "mlp.body.up.{w}"),
        same(theirs + "mlp.fc2.{w}", ours + "mlp.body.down.{w}"),
    ]


# Without the prefix `vision_model.`, as transformers 5 names it inside a CLIPVisionModel.
HUB_CLIP_BARE = KeyMap(
    same("embeddings.class_embedding", "cls", LeadingAxes(2)),
    same("embeddings.position_embedding.weight", "positions", LeadingAxes(1)),
    same("embeddings.patch_embedding.weight", "patch.weight"),
    dropped("embeddings.position_ids", "counted anew"),
    same("pre_layrnorm.{w}", "pre_norm.{w}"),  # spelt so in every published file
    clip_layer("encoder.layers.{i}.", "blocks.{i}."),
    same("post_layernorm.{w}", "post_norm.{w}"),
)
HUB_CLIP = HUB_CLIP_BARE.under(theirs="vision_model.")


BLOCK, QKV = "transformer.resblocks.{i}.", tuple(f"blocks.{{i}}.attn.body.{name}.{{w}}" for name in "qkv")
OPENAI_CLIP = KeyMap(  # CLIP.visual of openai/CLIP, clip/model.py, without its projection
    same("class_embedding", "cls", LeadingAxes(2)),
    same("positional_embedding", "positions", LeadingAxes(1)),
    same("conv1.weight", "patch.weight"),
    same("ln_pre.{w}", "pre_norm.{w}"),
    same(BLOCK + "ln_1.{w}", "blocks.{i}.attn.norm.{w}"),
    split(BLOCK + "attn.in_proj_{w}", QKV),
    same(BLOCK + "attn.out_proj.{w}", "blocks.{i}.attn.body.o.{w}"),
    same(BLOCK + "ln_2.{w}", "blocks.{i}.mlp.norm.{w}"),
    same(BLOCK + "mlp.c_fc.{w}", "blocks.{i}.mlp.body.up.{w}"),
    same(BLOCK + "mlp.c_proj.{w}", "blocks.{i}.mlp.body.down.{w}"),
    same("ln_post.{w}", "post_norm.{w}"),
)


def clip_keys(names: Iterable[str]) -> KeyMap:
    """The map that fits these published names."""
    return HUB_CLIP if any(name.startswith("vision_model.") for name in names) else HUB_CLIP_BARE
