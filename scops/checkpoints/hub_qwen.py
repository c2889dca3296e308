"""mPLUG-Owl2.1's Qwen 1 -> our language model. q, k and v are one tensor per modality, one below the other."""

from scops.checkpoints.keymap import KeyMap, dropped, same, split


def qwen_keys(query: str) -> KeyMap:
    """Args:
    query: where the experts of q stand below attn.body: "q", or "q.body" under what sharpens them.
    """
    layer, block = "transformer.h.{i}.", "blocks.{i}."
    qkv = [f"{block}attn.body.{name}.experts.{{j}}.{{w}}" for name in (query, "k", "v")]
    return KeyMap(
        same("transformer.wte.weight", "embed.weight"),
        same(layer + "ln_1.weight", block + "attn.norm.weight"),
        split(layer + "attn.c_attn.multiway.{j}.{w}", qkv),
        same(layer + "attn.c_proj.{w}", block + "attn.body.o.{w}"),
        same(layer + "ln_2.weight", block + "mlp.norm.weight"),
        same(layer + "mlp.w2.{w}", block + "mlp.body.gate.{w}"),
        same(layer + "mlp.w1.{w}", block + "mlp.body.up.{w}"),
        same(layer + "mlp.c_proj.{w}", block + "mlp.body.down.{w}"),
        same("transformer.ln_f.weight", "norm.weight"),
        same("lm_head.weight", "head.weight"),
        dropped("transformer.rotary_emb.inv_freq", "rebuilt from the base"),
    )
