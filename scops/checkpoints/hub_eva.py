"""EVA-CLIP-g's tower, salesforce/LAVIS's `visual_encoder` or transformers' Blip2VisionModel, -> ours; norms behind it are others'."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scops.checkpoints.keymap import KeyMap, rule, same, split
from scops.checkpoints.op import Op, Split
from scops.encoders.eva import EvaSpec


@dataclass(frozen=True)
class WithoutKeyBias(Op):
    """A fused bias of queries, keys and values whose middle third is zero (EVA); ours has none there.

    Whatever stands in it adds the same to all scores of a query, which a softmax does not see.
    """

    def load(self, tensors: list[Tensor]) -> list[Tensor]:
        q, _, v = Split(3).load(tensors)
        return [q, v]

    def save(self, tensors: list[Tensor]) -> list[Tensor]:
        q, v = tensors
        return [torch.cat([q, torch.zeros_like(q), v])]


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


def running(spec: EvaSpec) -> tuple[str, ...]:
    """Globs of what runs of EVA-CLIP's own file, eva_vit_g.pth, which has a block more."""
    return ("cls_token", "pos_embed", "patch_embed", *(f"blocks.{number}" for number in range(spec.layers)))


def eva_spec(config: Mapping[str, Any]) -> EvaSpec:
    """Of a `vision_config` as transformers' Blip2VisionConfig; what it leaves out is g/14's."""
    return EvaSpec(
        dim=config.get("hidden_size", 1408), hidden=config.get("intermediate_size", 6144),
        layers=config.get("num_hidden_layers", 39), heads=config.get("num_attention_heads", 16),
        image=config.get("image_size", 224), patch=config.get("patch_size", 14),
        eps=config.get("layer_norm_eps", 1e-6), activation=config.get("hidden_act", "gelu"),
    )  # fmt: skip


def eva_config(spec: EvaSpec) -> dict[str, Any]:
    """The inverse of `eva_spec`."""
    return {
        "hidden_size": spec.dim, "intermediate_size": spec.hidden, "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads, "image_size": spec.image, "patch_size": spec.patch,
        "layer_norm_eps": spec.eps, "hidden_act": spec.activation, "qkv_bias": True,
    }  # fmt: skip
