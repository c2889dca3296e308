"""A plain LlamaForCausalLM or Qwen2ForCausalLM -> our language model with Hyper Attention, without gates."""

from collections.abc import Sequence

from scops.checkpoints.keymap import Copies, KeyMap, rule


def llama_into_hyper(layers: Sequence[int], plain: KeyMap) -> KeyMap:
    """Pictures' keys and values start as the text's (mPLUG-Owl3, arXiv 2408.04840, section 2.2).

    Args:
        layers: with Hyper Attention, counted from 1.
        plain: of the language model without it.
    """
    copied = [
        rule(
            (f"model.layers.{number - 1}.self_attn.{name}_proj.{{w}}",),
            tuple(f"blocks.{number - 1}.attn.{part}.{name}.{{w}}" for part in ("body", "pictures")),
            Copies(2),
        )
        for number in layers
        for name in "kv"
    ]
    return KeyMap(copied, plain)
