"""LlamaForCausalLM, plain or inside a PeftModel, as it stands in a system that was saved with its adapters -> our language model."""

from scops.checkpoints.hub_llama import HUB_LLAMA
from scops.checkpoints.keymap import KeyMap, same

INSIDE = "base_model.model."


def adapters(name: str) -> KeyMap:
    """Args:
    name: the adapter's and a dot; "" as before PEFT 0.3, where it had none.
    """
    theirs, ours = INSIDE + "model.layers.{i}.self_attn.", "blocks.{i}.attn.body."
    return KeyMap(
        same(f"{theirs}{projection}_proj.lora_{half}.{name}weight", f"{ours}{projection}.lora_{half.lower()}")
        for projection in "qkvo"
        for half in "AB"
    )


PEFT_LLAMA = KeyMap(
    adapters("default."),
    adapters("").read_only(),
    HUB_LLAMA,
    HUB_LLAMA.under(INSIDE).read_only(),
)
