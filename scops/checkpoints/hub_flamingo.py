"""open_flamingo/src/helpers.py (PerceiverResampler, GatedCrossAttentionBlock) -> our resampler and gated sub-layers."""

from scops.checkpoints.keymap import KeyMap, same, split


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
