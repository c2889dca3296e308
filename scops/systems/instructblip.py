"""InstructBLIP (arXiv 2305.06500; salesforce/LAVIS, blip2_vicuna_instruct.py and blip2_t5_instruct.py): BLIP-2 whose Q-Former reads
the instruction, in BERT's words, beside its queries. The queries alone go on, in front of all text of a frozen Vicuna or FlanT5."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scops.connectors.qformer import QFormerSpec, tokens_for
from scops.core.layout import Always, ClipLayout, Layout, MediaLayout, PerSecond, Slot, TurnText
from scops.core.stage import Stage
from scops.core.template import Role, Template
from scops.encoders.eva import EvaSpec
from scops.language.llama import LlamaSpec
from scops.language.t5 import T5Spec
from scops.models.decoder import MultimodalDecoder
from scops.models.encoder_decoder import EncoderDecoder
from scops.systems import Origins, lavis
from scops.systems.blip2 import APART, END, FLAN_T5, causal, read_and_written
from scops.systems.lavis import parts, settled
from scops.systems.lavis_config import hub_config, hub_numbers, lavis_config, lavis_numbers
from scops.systems.mplug_owl import squares

__all__ = ["KEYS", "SIZES", "STAGES", "Spec", "build", "layout", "origins", "parts", "settled", "spec_of"]

TITLE = "InstructBLIP: Towards General-purpose Vision-Language Models with Instruction Tuning"
PAPER = "arXiv 2305.06500"
READS = QFormerSpec(vocab=30523)  # BERT's words and [DEC]
VICUNA_7B = LlamaSpec()  # LAVIS adds a row for padding, which nothing reads; transformers' folders have it
VICUNA_13B = LlamaSpec(dim=5120, hidden=13824, layers=40, heads=40, kv_heads=40)
LANGUAGES = {
    "vicuna-7b": VICUNA_7B,
    "vicuna-13b": VICUNA_13B,
    **FLAN_T5,
}


@dataclass(frozen=True)
class Spec:
    """Args:
    eps: of the norm between tower and Q-Former.
    """

    vision: EvaSpec = field(default_factory=EvaSpec)
    qformer: QFormerSpec = READS
    language: LlamaSpec | T5Spec = VICUNA_7B
    eps: float = 1e-5


SIZES = {f"instructblip-{name}": Spec(language=language) for name, language in LANGUAGES.items()}


def build(spec: Spec) -> MultimodalDecoder | EncoderDecoder:
    return lavis.assembled(spec)


# How published --------------------------------------------------------------------------------------------------------

KEYS = {"authors": lavis.lavis_keys, "transformers": lavis.hub_keys}
ARCHS = {"blip2_vicuna_instruct": LlamaSpec, "blip2_t5_instruct": T5Spec}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that LAVIS's or transformers' config.json means; None when it is another system's."""
    if config.get("arch") in ARCHS:
        return Spec(**lavis_numbers(config, ARCHS, LANGUAGES, READS))
    if config.get("model_type") != "instructblip":
        return None
    return Spec(**hub_numbers(config, reads=True))


def authors_config(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`: the `model` section of LAVIS's YAML files."""
    return lavis_config(spec, ARCHS, LANGUAGES, READS)


def transformers_config(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`: transformers' config.json."""
    return {
        "architectures": ["InstructBlipForConditionalGeneration"],
        "model_type": "instructblip",
        **hub_config(spec),
    }


CONFIGS = {"authors": authors_config, "transformers": transformers_config}


# How read -------------------------------------------------------------------------------------------------------------

TEMPLATES: dict[type, Template] = {
    LlamaSpec: causal(Role(between=APART), Role(after=END), "</s>"),
    T5Spec: read_and_written(Role(between=APART, after=END)),
}


@dataclass(frozen=True)
class PerFrame:
    """Every frame of a clip is looked at for itself (arXiv 2305.06500, section 3.1)."""

    slot: Slot

    def __call__(self, times: Sequence[float]) -> tuple[Slot, ...]:
        return (self.slot,) * len(times)


def layout(spec: Spec) -> Layout:
    pixels = squares(spec.vision.image)
    slot = Slot("image", tokens_for(spec.qformer), words=TurnText() if spec.qformer.vocab else ())
    clip = ClipLayout(pixels, PerFrame(slot), PerSecond(most=4))
    media = {"image": MediaLayout(pixels, Always((slot,))), "video": clip}
    return Layout(TEMPLATES[type(spec.language)], media, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

INSTRUCT = Stage(
    "instruct", train=("image.connector",), data=("instructions",), steps=60_000, batch=128, lr=1e-5, warmup=1_000,
    schedule="cosine", weight_decay=0.05,
    source="arXiv 2305.06500 section 2.6, recalled (LAVIS has no training configuration): at most 60K steps; 13 held-in data sets, "
    "drawn by the square roots of their sizes; begins with BLIP-2's second stage",
)  # fmt: skip
STAGES = {
    "instructblip-vicuna-7b": (INSTRUCT,),
    "instructblip-vicuna-13b": (replace(INSTRUCT, batch=64),),
    "instructblip-flan-t5-xl": (replace(INSTRUCT, batch=192),),
    "instructblip-flan-t5-xxl": (replace(INSTRUCT, batch=64),),
}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    return lavis.origins(SIZES[size])
