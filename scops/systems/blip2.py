"""BLIP-2 as it writes (arXiv 2301.12597, section 3.3; salesforce/LAVIS, blip2_opt.py and blip2_t5.py): the second stage's models.

Tower -> Q-Former without text -> 32 tokens in front of all text of a frozen OPT or FlanT5. LAVIS runs FlanT5 with the exact GELU.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scops.connectors.qformer import QFormerSpec, tokens_for
from scops.core.layout import Always, Layout, MediaLayout, Slot
from scops.core.names import nearest
from scops.core.stage import Stage
from scops.core.template import Role, Special, Template, Written
from scops.encoders.eva import EvaSpec
from scops.language.opt import OptSpec
from scops.language.t5 import T5Spec
from scops.models.decoder import MultimodalDecoder
from scops.models.encoder_decoder import EncoderDecoder
from scops.systems import Origins, lavis
from scops.systems.lavis import parts, settled
from scops.systems.lavis_config import hub_config, hub_numbers, lavis_config, lavis_numbers
from scops.systems.mplug_owl import squares

__all__ = ["KEYS", "SIZES", "STAGES", "Spec", "build", "layout", "origins", "parts", "settled", "spec_of"]

TITLE = "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language Models"
PAPER = "arXiv 2301.12597"


@dataclass(frozen=True)
class Spec:
    """Args:
    eps: of the norm between tower and Q-Former.
    template: "question" writes "Question: ... Answer:" around what the user says, as LAVIS asks; "plain" writes it as it is, for
        captions (with or without "a photo of") and prompts of one's own.
    """

    vision: EvaSpec = field(default_factory=EvaSpec)
    qformer: QFormerSpec = field(default_factory=QFormerSpec)
    language: OptSpec | T5Spec = field(default_factory=OptSpec)
    eps: float = 1e-5
    template: str = "question"


FLAN_T5 = {
    "flan-t5-xl": T5Spec(activation="gelu"),
    "flan-t5-xxl": T5Spec(dim=4096, hidden=10240, heads=64, activation="gelu"),
}
LANGUAGES = {
    "opt-2.7b": OptSpec(),
    "opt-6.7b": OptSpec(dim=4096, hidden=16384),
    **FLAN_T5,
}
SIZES = {f"blip2-{name}": Spec(language=language) for name, language in LANGUAGES.items()}


def build(spec: Spec) -> MultimodalDecoder | EncoderDecoder:
    return lavis.assembled(spec)


# How published --------------------------------------------------------------------------------------------------------

KEYS = {"authors": lavis.lavis_keys, "transformers": lavis.hub_keys}
ARCHS = {"blip2_opt": OptSpec, "blip2_t5": T5Spec}
WRITES = "Blip2ForConditionalGeneration"


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that LAVIS's or transformers' config.json means; None when it is another system's."""
    if config.get("arch") in ARCHS:
        return Spec(**lavis_numbers(config, ARCHS, LANGUAGES, QFormerSpec()))
    if config.get("model_type") != "blip-2" or WRITES not in (config.get("architectures") or [WRITES]):
        return None
    return Spec(**hub_numbers(config, reads=False))


def authors_config(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`: the `model` section of LAVIS's YAML files."""
    return lavis_config(spec, ARCHS, LANGUAGES, QFormerSpec())


def transformers_config(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`: transformers' config.json."""
    return {"architectures": [WRITES], "model_type": "blip-2", **hub_config(spec)}


CONFIGS = {"authors": authors_config, "transformers": transformers_config}


# How read -------------------------------------------------------------------------------------------------------------

APART = (Written(" "),)
END = (Special("</s>"),)
QUESTION, ANSWER = (Written("Question: "),), (Written(" Answer:"),)


def causal(user: Role, assistant: Role, stop: str) -> Template:
    """Media, a beginning, and then text in one line."""
    roles = {"system": Role(after=(Written("\n"),)), "user": user, "assistant": assistant}
    return Template(
        roles, start=END, stops=(stop,), media_first=True
    )  # "</s>" begins a text of OPT, and of LAVIS's Vicuna


def read_and_written(user: Role) -> Template:
    """The encoder's text ends, the decoder's begins with T5's padding."""
    roles = {
        "system": Role(after=(Written("\n"),)),
        "user": user,
        "assistant": Role(before=(Special("<pad>"),), after=END),
    }
    return Template(roles, stops=("</s>",), media_first=True)


LINE = (Written("\n"),)
TEMPLATES: dict[type, dict[str, Template]] = {
    OptSpec: {
        "question": causal(Role(QUESTION, APART), Role(before=ANSWER, after=LINE, lead=" "), "\n"),
        "plain": causal(Role(between=APART), Role(after=LINE), "\n"),
    },
    T5Spec: {
        "question": read_and_written(Role(QUESTION, APART, (*ANSWER, *END))),
        "plain": read_and_written(Role(between=APART, after=END)),
    },
}


def layout(spec: Spec) -> Layout:
    known = TEMPLATES[type(spec.language)]
    if spec.template not in known:
        raise ValueError(f"there is no template {spec.template!r}{nearest(spec.template, known)}")
    slot = Always((Slot("image", tokens_for(spec.qformer)),))
    return Layout(known[spec.template], {"image": MediaLayout(squares(spec.vision.image), slot)}, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

_PAPER = (
    "arXiv 2301.12597 section 3.4, 129M pictures (COCO, VG, CC3M, CC12M, SBU, LAION400M); {}. The norm between tower and "
    "Q-Former learns too (LAVIS freezes the tower alone)"
)
GENERATE = Stage(
    "generate", train=("image.connector",), data=("pairs",), steps=80_000, batch=1920, lr=1e-4, min_lr=5e-5,
    warmup=2_000, schedule="cosine", betas=(0.9, 0.98), weight_decay=0.05, overrides={"vision": {"image": 224}},
    source=_PAPER.format("captions after pictures"),
)  # fmt: skip
GENERATE_T5 = replace(
    GENERATE, batch=1520, source=_PAPER.format("captions cut in two, one half read, the other written")
)
LAVIS = replace(
    GENERATE, batch=64, min_lr=1e-5, betas=(0.9, 0.999),
    source="salesforce/LAVIS lavis/projects/blip2/train/pretrain_stage2.yaml (64 a GPU, 10 epochs of COCO and VG); the paper's steps",
)  # fmt: skip
CAPTION = Stage(
    "caption", train=("image",), data=("captions",), steps=11_070, batch=256, lr=1e-5, warmup=1_000, schedule="cosine",
    weight_decay=0.05, overrides={"vision": {"image": 364}},
    source="salesforce/LAVIS lavis/projects/blip2/train/caption_coco_ft.yaml (16 a GPU), prompt 'a photo of'; "
    "batch and steps worked out: 16 GPUs, 5 epochs of 566,747 captions",
)  # fmt: skip
STAGES = {
    "blip2-opt-2.7b": (GENERATE,),
    "blip2-opt-6.7b": (GENERATE,),
    "blip2-flan-t5-xl": (GENERATE_T5,),
    "blip2-flan-t5-xxl": (GENERATE_T5,),
    "lavis": (LAVIS,),
    "caption": (CAPTION,),
}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    return lavis.origins(SIZES[size])
