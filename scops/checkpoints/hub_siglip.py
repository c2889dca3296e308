"""transformers' SiglipVisionModel -> our SigLIP tower with its head."""

from scops.checkpoints.hub_clip import clip_layer
from scops.checkpoints.keymap import KeyMap, LeadingAxes, Split, dropped, same, split

# Without the prefix `vision_model.`, as transformers 5 and mPLUG-Owl3 name it.
HUB_SIGLIP_BARE = KeyMap(
    same("embeddings.position_embedding.weight", "positions", LeadingAxes(1)),
    same("embeddings.patch_embedding.{w}", "patch.{w}"),
    dropped("embeddings.position_ids", "counted anew"),
    clip_layer("encoder.layers.{i}.", "blocks.{i}."),
    same("post_layernorm.{w}", "post_norm.{w}"),
    same("head.probe", "head.probe"),
    split("head.attention.in_proj_{w}", ("head.q.{w}", "head.k.{w}", "head.v.{w}"), Split(3)),
    same("head.attention.out_proj.{w}", "head.o.{w}"),
    same("head.layernorm.{w}", "head.norm.{w}"),
    same("head.mlp.fc1.{w}", "head.mlp.up.{w}"),
    same("head.mlp.fc2.{w}", "head.mlp.down.{w}"),
)
HUB_SIGLIP = HUB_SIGLIP_BARE.under(theirs="vision_model.")
