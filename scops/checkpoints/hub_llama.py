"""transformers' LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM -> our language model."""

from scops.checkpoints.keymap import KeyMap, Rule, dropped, same


def llama_layer(theirs: str, ours: str) -> list[Rule]:
    """One decoder layer. {w}: Qwen2 has biases on q, k, v; Qwen3 norms q and k per head."""
    return [
        same(theirs + "input_layernorm.{w}", ours + "attn.norm.{w}"),
        same(theirs + "self_attn.q_proj.{w}", ours + "attn.body.q.{w}"),
        same(theirs + "self_attn.k_proj.{w}", ours + "attn.body.k.{w}"),
        same(theirs + "self_attn.v_proj.{w}", ours + "attn.body.v.{w}"),
        same(theirs + "self_attn.o_proj.{w}", ours + "attn.body.o.{w}"),
        same(theirs + "self_attn.q_norm.{w}", ours + "attn.body.q_norm.{w}"),
        same(theirs + "self_attn.k_norm.{w}", ours + "attn.body.k_norm.{w}"),
        same(theirs + "post_attention_layernorm.{w}", ours + "mlp.norm.{w}"),
        same(theirs + "mlp.gate_proj.{w}", ours + "mlp.body.gate.{w}"),
        same(theirs + "mlp.up_proj.{w}", ours + "mlp.body.up.{w}"),
        same(theirs + "mlp.down_proj.{w}", ours + "mlp.body.down.{w}"),
        dropped(theirs + "self_attn.rotary_emb.inv_freq", "rebuilt from the base"),
    ]


HUB_LLAMA_BARE = KeyMap(  # without the head
    same("embed_tokens.weight", "embed.weight"),
    llama_layer("layers.{i}.", "blocks.{i}."),
    same("norm.weight", "norm.weight"),
    dropped("rotary_emb.inv_freq", "rebuilt from the base"),
)
BODY = HUB_LLAMA_BARE.under("model.")
HUB_LLAMA = KeyMap(BODY, same("lm_head.weight", "head.weight"))
# For tied models: some files carry the head once more.
HUB_LLAMA_TIED = KeyMap(BODY, dropped("lm_head.weight", "the head is the embedding"))


def llama_keys(*, tied: bool) -> KeyMap:
    """Args:
    tied: whether the head is the embedding.
    """
    return HUB_LLAMA_TIED if tied else HUB_LLAMA
