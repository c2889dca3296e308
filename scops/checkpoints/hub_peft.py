"""LlamaForCausalLM inside a PeftModel, as it is when trained adapters are saved with the rest of a system -> our language model."""

from scops.checkpoints.hub_llama import HUB_LLAMA
from scops.checkpoints.keymap import KeyMap, same


def peft_llama(adapter: str = "default.") -> KeyMap:
    """Args:
    adapter: its name and a dot; "" as before PEFT 0.3, which had one without a name.
    """
    theirs, ours = "model.layers.{i}.self_attn.", "blocks.{i}.attn.body."
    pairs = [
        same(f"{theirs}{name}_proj.lora_{half}.{adapter}weight", f"{ours}{name}.lora_{half.lower()}")
        for name in "qkvo"
        for half in "AB"
    ]
    return KeyMap(pairs, HUB_LLAMA).under("base_model.model.")
