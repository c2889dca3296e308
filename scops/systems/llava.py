"""LLaVA 1.0 and 1.5 (arXiv 2304.08485, 2310.03744; haotian-liu/LLaVA): CLIP's patches -> projector -> tokens in the text of a LLaMA."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scops.checkpoints.hub_clip import HUB_CLIP, HUB_CLIP_BARE, OPENAI_CLIP
from scops.checkpoints.hub_llama import llama_keys
from scops.checkpoints.hub_llava import authors_llava, authors_projector, hub_llava, hub_projector
from scops.checkpoints.keymap import KeyMap
from scops.connectors.mlp import Projector, ProjectorSpec
from scops.core.layout import Always, Arranged, Layout, MediaLayout, Pixels, Slot
from scops.core.stage import Lora, Stage
from scops.core.template import Special
from scops.encoders.selected import Selected, Selection
from scops.encoders.vit import Vit, VitSpec
from scops.language.llama import LlamaSpec, llama
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.systems import Origins, Published
from scops.systems.llava_config import FITS, Read, authors_config, hub_config, read
from scops.systems.llava_wording import PLAIN, TEMPLATES
from scops.systems.mplug_owl import squares

TITLE = "LLaVA: Visual Instruction Tuning; LLaVA-1.5: Improved Baselines with Visual Instruction Tuning"
PAPER = "arXiv 2304.08485, 2310.03744"

LLAMA_13B = LlamaSpec(dim=5120, hidden=13824, layers=40, heads=40, kv_heads=40, eps=1e-5, context=4096)
VICUNA_7B = LlamaSpec(eps=1e-5, context=4096)


@dataclass(frozen=True)
class Spec:
    """Args:
    fit: how a picture becomes a square: "pad" with CLIP's mean colour (1.5), or "crop" its middle (1.0, transformers).
    marked: whether <im_start> and <im_end> stand around a picture (some of 1.0).
    template: of llava_wording.TEMPLATES.
    """

    vision: VitSpec = field(default_factory=lambda: VitSpec(image=336))
    features: Selection = field(default_factory=Selection)
    projector: ProjectorSpec = field(default_factory=ProjectorSpec)
    language: LlamaSpec = VICUNA_7B
    fit: str = "pad"
    marked: bool = False
    template: str = "v1"


# 1.0 has vocabularies of 32,000 words, <im_patch>, <im_start>, <im_end>, and over Vicuna v0 [PAD] (recalled)
FIRST = Spec(VitSpec(), projector=ProjectorSpec(1), language=LlamaSpec(vocab=32_003), fit="crop", marked=True)
SIZES = {
    "llava-v1.5-7b": Spec(),
    "llava-v1.5-13b": Spec(language=LLAMA_13B),
    "llava-7b-v0": replace(FIRST, language=LlamaSpec(vocab=32_004), template="v0"),
    "llava-7b-v1": FIRST,
    "llava-llama-2-13b": replace(FIRST, language=LLAMA_13B, marked=False, template="llava_llama_2"),
}


def build(spec: Spec) -> MultimodalDecoder:
    return MultimodalDecoder(llama(spec.language), image=sight(spec))


def sight(spec: Spec) -> MediaInput:
    encoder = Selected(Vit(spec.vision), spec.features)
    return MediaInput(encoder, Projector(spec.projector, encoder.width, spec.language.dim), Inline())


# How published --------------------------------------------------------------------------------------------------------


def authors(spec: Spec) -> KeyMap:
    """LlavaLlamaForCausalLM."""
    return authors_llava(authors_projector(spec.projector.depth, "image.connector."), tied=spec.language.tied)


def transformers(spec: Spec) -> KeyMap:
    """LlavaForConditionalGeneration."""
    return hub_llava(hub_projector(spec.projector.depth, "image.connector."), tied=spec.language.tied)


KEYS = {"authors": authors, "transformers": transformers}


def parts(spec: Any) -> dict[str, tuple[Published, ...]]:
    """A tower that was frozen is often not among the published weights; of the first stage the projector alone is there."""
    clip = (Published(HUB_CLIP, ("vision_model",)), Published(HUB_CLIP_BARE), Published(OPENAI_CLIP))
    return {"image.encoder.vit": clip, "language": (Published(llama_keys(tied=spec.language.tied)),)}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that an authors' or a transformers config.json means; None when it is another system's."""
    found = read(config)
    if found is None or is_next(found):
        return None
    if found.aspect not in FITS:
        raise ValueError(f"image_aspect_ratio is {found.aspect!r}; built are {', '.join(FITS)} and 'anyres'")
    return Spec(**found.parts, fit=FITS[found.aspect], marked=found.marked)


def is_next(found: Read) -> bool:
    """Whether it is LLaVA-NeXT's: several views, or a view with something behind it."""
    return found.aspect == "anyres" or found.merge != "flat"


def aspect_of(spec: Spec) -> dict[str, str]:
    return {"image_aspect_ratio": next(theirs for theirs, ours in FITS.items() if ours == spec.fit)}


CONFIGS = {
    "authors": lambda spec: authors_config(spec, aspect_of(spec) | {"mm_patch_merge_type": "flat"}),
    "transformers": lambda spec: hub_config(
        spec, aspect_of(spec) | {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}
    ),
}


# How read -------------------------------------------------------------------------------------------------------------


def marks(spec: Any, slot: Slot) -> tuple[Arranged, ...]:
    return (Special("<im_start>"), slot, Special("<im_end>")) if spec.marked else (slot,)


def squared(spec: Any) -> Pixels:
    """The mean colour that is put around pictures is (122, 116, 104) of 255."""
    return replace(squares(spec.vision.image), fit=spec.fit)


def layout(spec: Spec) -> Layout:
    slot = Slot("image", spec.features.tokens(spec.vision.tokens))
    pictures = MediaLayout(squared(spec), Always(marks(spec, slot)))
    return Layout(TEMPLATES[spec.template], {"image": pictures}, spec.language.context, {"plain": PLAIN})


# How trained ----------------------------------------------------------------------------------------------------------

PRETRAIN = Stage(
    "pretrain", train=("image.connector",), data=("pairs",), template="plain", steps=2_181, batch=256, lr=1e-3, warmup=66,
    source="haotian-liu/LLaVA scripts/v1_5/pretrain.sh: one epoch of LCS-558K (558,128 captions), warm-up 3%, at 336 pixels",
)  # fmt: skip
FINETUNE = Stage(
    "finetune", train=("image.connector", "language"), data=("instructions",), steps=5_198, batch=128, lr=2e-5, warmup=156,
    source="haotian-liu/LLaVA scripts/v1_5/finetune.sh: one epoch of llava_v1_5_mix665k (665,298), warm-up 3%, at 336 pixels",
)  # fmt: skip
LORA = replace(
    FINETUNE, train=("image.connector",), lr=2e-4, lr_of={"image.connector": 2e-5},
    lora=Lora(("language.blocks.*.attn.body.[qkvo]", "language.blocks.*.mlp.body.*"), rank=128, alpha=256.0, dropout=0.05),
    source="haotian-liu/LLaVA scripts/v1_5/finetune_lora.sh",
)  # fmt: skip
FIRST_PRETRAIN = replace(
    PRETRAIN, steps=4_651, batch=128, lr=2e-3, warmup=140,
    source="arXiv 2304.08485 section 5 and scripts/pretrain.sh: one epoch of CC-595K (595,375 captions), at 224 pixels",
)  # fmt: skip
FIRST_FINETUNE = replace(
    FINETUNE, steps=14_786, batch=32, warmup=444,
    source="arXiv 2304.08485 section 5: three epochs of LLaVA-Instruct-158K (157,712), at 224 pixels; warm-up as in the script",
)  # fmt: skip
LIGHTNING = (
    replace(
        FIRST_PRETRAIN, steps=4_361, warmup=131,
        source="haotian-liu/LLaVA scripts/pretrain.sh: one epoch of LCS-558K, at 224 pixels",
    ),
    replace(
        FIRST_FINETUNE, steps=625, batch=128, warmup=19,
        source="haotian-liu/LLaVA scripts/finetune.sh: one epoch of LLaVA-Instruct-80K, at 224 pixels",
    ),
)  # fmt: skip
STAGES = {
    "llava-v1.5": (PRETRAIN, FINETUNE),
    "llava-v1.5-lora": (PRETRAIN, LORA),
    "llava-7b-v0": (FIRST_PRETRAIN, FIRST_FINETUNE),
    "llava-7b-v1": LIGHTNING,
    "llava-llama-2-13b": LIGHTNING,
}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "language"))
