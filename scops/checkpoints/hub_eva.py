"""EVA-CLIP-g's tower, salesforce/LAVIS's `visual_encoder` or transformers' Blip2VisionModel, -> ours; norms behind it are others'."""

from scops.checkpoints.keymap import KeyMap, rule, same, split
from scops.checkpoints.op import WithoutKeyBias

QKV = tuple(f"blocks.{{i}}.attn.body.{name}.weight" for name in "qkv")
LAVIS_EVA = KeyMap(
    same("cls_token", "cls"),
    same("pos_embed", "positions"),
    same("patch_embed.proj.{w}", "patch.{w}"),
    same("blocks.{i}.norm1.{w}", "blocks.{i}.attn.norm.{w}"),
    split("blocks.{i}.attn.qkv.weight", QKV),
    same("blocks.{i}.attn.q_bias", "blocks.{i}.attn.body.q.bias"),
    same("blocks.{i}.attn.v_bias", "blocks.{i}.attn.body.v.bias"),
    same("blocks.{i}.attn.proj.{w}", "blocks.{i}.attn.body.o.{w}"),
    same("blocks.{i}.norm2.{w}", "blocks.{i}.mlp.norm.{w}"),
    same("blocks.{i}.mlp.fc1.{w}", "blocks.{i}.mlp.body.up.{w}"),
    same("blocks.{i}.mlp.fc2.{w}", "blocks.{i}.mlp.body.down.{w}"),
)
LAYER, BLOCK = "encoder.layers.{i}.", "blocks.{i}."
HUB_EVA = KeyMap(  # below `vision_model.`
    same("embeddings.class_embedding", "cls"),
    same("embeddings.position_embedding", "positions"),
    same("embeddings.patch_embedding.{w}", "patch.{w}"),
    same(LAYER + "layer_norm1.{w}", BLOCK + "attn.norm.{w}"),
    split(LAYER + "self_attn.qkv.weight", QKV),
    rule((LAYER + "self_attn.qkv.bias",), (BLOCK + "attn.body.q.bias", BLOCK + "attn.body.v.bias"), WithoutKeyBias()),
    same(LAYER + "self_attn.projection.{w}", BLOCK + "attn.body.o.{w}"),
    same(LAYER + "layer_norm2.{w}", BLOCK + "mlp.norm.{w}"),
    same(LAYER + "mlp.fc1.{w}", BLOCK + "mlp.body.up.{w}"),
    same(LAYER + "mlp.fc2.{w}", BLOCK + "mlp.body.down.{w}"),
)
