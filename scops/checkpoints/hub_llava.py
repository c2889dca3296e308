"""LLaVA's names: haotian-liu/LLaVA's own (LlavaLlamaForCausalLM) and transformers' (LlavaForConditionalGeneration).

A connector's map goes from the names below `model.` (authors) or from the top (transformers) to ours from the top.
"""

from scops.checkpoints.hub_clip import HUB_CLIP, HUB_CLIP_BARE
from scops.checkpoints.hub_llama import HUB_LLAMA_BARE, llama_keys
from scops.checkpoints.keymap import KeyMap, dropped, same

TOWER = "image.encoder.vit."


def tower(theirs: str) -> KeyMap:
    """CLIP's, with `vision_model.` in its names or, as transformers 5 writes them, without."""
    return KeyMap(HUB_CLIP.under(theirs, TOWER), HUB_CLIP_BARE.under(theirs, TOWER).read_only())


def authors_llava(connector: KeyMap, *, tied: bool) -> KeyMap:
    """Whole folders, projectors alone (mm_projector.bin), and what PEFT keeps beside adapters (non_lora_trainables.bin)."""
    keys = KeyMap(
        tower("model.vision_tower.vision_tower."),
        connector.under("model."),
        llama_keys(tied=tied).under("", "language."),
    )
    return KeyMap(keys, keys.under("base_model.model.").read_only())


def authors_projector(depth: int, ours: str) -> KeyMap:
    """One nn.Linear, or an nn.Sequential with activations between."""
    if depth == 1:
        return KeyMap(same("mm_projector.{w}", ours + "layers.0.{w}"))
    return KeyMap(same(f"mm_projector.{2 * n}.{{w}}", f"{ours}layers.{n}.{{w}}") for n in range(depth))


def hub_llava(connector: KeyMap, *, tied: bool) -> KeyMap:
    """As published; what transformers 5 has in memory is read as well."""
    head = (
        dropped("lm_head.weight", "the head is the embedding")
        if tied
        else same("lm_head.weight", "language.head.weight")
    )
    in_memory = KeyMap(
        tower("model.vision_tower."),
        connector.under("model."),
        HUB_LLAMA_BARE.under("model.language_model.", "language."),
        head,
    )
    words = llama_keys(tied=tied).under("language_model.", "language.")
    return KeyMap(tower("vision_tower."), connector, words, in_memory.read_only())


def hub_projector(depth: int, ours: str) -> KeyMap:
    """Two layers, always: of another depth no name fits."""
    layers = range(2 if depth == 2 else 0)
    return KeyMap(same(f"multi_modal_projector.linear_{n + 1}.{{w}}", f"{ours}layers.{n}.{{w}}") for n in layers)
