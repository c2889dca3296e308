"""Published Perceiver Resamplers and gated cross-attention -> ours: open_flamingo/src/helpers.py, and transformers' IDEFICS."""

from scops.checkpoints.keymap import KeyMap, Rule, same, split


def gated_keys(*, immediate: bool = True) -> KeyMap:
    """Args:
    immediate: as in GatedSpec.
    """
    attn, mlp, q = "gated_attn.", "gated_mlp.", "q." if immediate else "q.body."
    return KeyMap(
        same("attn_gate", attn + "scale.weight"),
        same("attn.norm.{w}", attn + "norm.{w}"),
        same("attn.to_q.weight", f"{attn}body.{q}weight"),
        split("attn.to_kv.weight", [f"{attn}body.{name}.weight" for name in "kv"]),
        same("attn.to_out.weight", attn + "body.o.weight"),
        same("ff_gate", mlp + "scale.weight"),
        same("ff.0.{w}", mlp + "norm.{w}"),
        same("ff.1.weight", mlp + "body.up.weight"),
        same("ff.3.weight", mlp + "body.down.weight"),
    )


def _layer(theirs: str, ours: str) -> list[Rule]:
    return [
        same(theirs + "0.norm_media.{w}", ours + "norm_features.{w}"),
        same(theirs + "0.norm_latents.{w}", ours + "norm_latents.{w}"),
        same(theirs + "0.to_q.weight", ours + "q.weight"),
        split(theirs + "0.to_kv.weight", [f"{ours}{name}.weight" for name in "kv"]),
        same(theirs + "0.to_out.weight", ours + "o.weight"),
        same(theirs + "1.0.{w}", ours + "norm_mlp.{w}"),
        same(theirs + "1.1.weight", ours + "mlp.up.weight"),
        same(theirs + "1.3.weight", ours + "mlp.down.weight"),
    ]


RESAMPLER = KeyMap(
    same("latents", "latents"),
    same("frame_embs", "frames"),
    same("media_time_embs", "items"),
    _layer("layers.{i}.", "layers.{i}."),
    same("norm.{w}", "norm.{w}"),
)
"""PerceiverResampler."""


_THEIRS = "blocks.{i}."
IDEFICS_RESAMPLER = KeyMap(
    same("latents", "latents"),
    same(_THEIRS + "0.context_layer_norm.{w}", "layers.{i}.norm_features.{w}"),
    same(_THEIRS + "0.latents_layer_norm.{w}", "layers.{i}.norm_latents.{w}"),
    *(same(f"{_THEIRS}0.{name}_layer_norm.{{w}}", f"layers.{{i}}.{name}_norm.{{w}}") for name in "qk"),
    *(same(f"{_THEIRS}0.{name}_proj.weight", f"layers.{{i}}.{name}.weight") for name in "qkv"),
    same(_THEIRS + "0.output_proj.weight", "layers.{i}.o.weight"),
    same(_THEIRS + "1.ln.{w}", "layers.{i}.norm_mlp.{w}"),
    same(_THEIRS + "1.fc.weight", "layers.{i}.mlp.up.weight"),
    same(_THEIRS + "1.c_proj.weight", "layers.{i}.mlp.down.weight"),
    same("layer_norm.{w}", "norm.{w}"),
)
"""transformers models/idefics/perceiver.py, IdeficsPerceiverResampler."""
