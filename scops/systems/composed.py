"""Any encoder, connector, fusion and language model of the house put together: small members of each family, comparisons.

A size names its parts; the recipes of the sizes here are those of the published systems, with fewer and smaller steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scops.connectors.abstractor import AbstractorSpec
from scops.connectors.h_reducer import HReducerSpec
from scops.connectors.own import OwnSpec
from scops.connectors.perceiver import PerceiverSpec
from scops.connectors.qformer import QFormerSpec
from scops.core.layout import Each, Layout, MediaLayout, Slot
from scops.core.names import nearest
from scops.core.stage import Stage
from scops.data.tiling import AnchorFit
from scops.encoders.eva import EvaSpec
from scops.encoders.siglip import SiglipSpec
from scops.encoders.vit import VitSpec
from scops.language.bloom import BloomSpec
from scops.language.gated import GatedSpec
from scops.language.gpt_neox import GptNeoxSpec
from scops.language.llama import LlamaSpec
from scops.language.mpt import MptSpec
from scops.language.opt import OptSpec
from scops.models.decoder import MediaInput, MultimodalDecoder
from scops.systems import (
    Origin,
    Origins,
    Published,
    blip2,
    docowl15,
    llava,
    mplug_owl,
    mplug_owl2,
    mplug_owl3,
    open_flamingo,
    ureader,
)
from scops.systems.composing import offered
from scops.systems.composing.connectors import BRIDGES, Bridge, MlpSpec
from scops.systems.composing.encoders import EYES, ROLE, Eyes, GridVitSpec, LiteSpec
from scops.systems.composing.fusions import BODIES, SPEECH, BesideTheText, Body, ByModality, InTheText, Speech
from scops.systems.composing.templates import TEMPLATES
from scops.systems.llama import SMOLLM2_135M

TITLE = "Encoders, connectors, fusions and language models put together freely"
PAPER = "arXiv 2204.14198, 2304.14178, 2310.03744, 2310.05126, 2311.04257, 2403.12895, 2408.04840"


@dataclass(frozen=True)
class Spec:
    """Args:
    grids: (rows, columns) that large pictures are cut into, the whole picture before them; none for one view.
    template: how turns are written, a key of TEMPLATES.
    """

    encoder: LiteSpec | VitSpec | SiglipSpec | EvaSpec | GridVitSpec
    connector: AbstractorSpec | HReducerSpec | MlpSpec | QFormerSpec | PerceiverSpec | OwnSpec
    fusion: InTheText | ByModality | BesideTheText | GatedSpec
    language: LlamaSpec | BloomSpec | OptSpec | GptNeoxSpec | MptSpec
    grids: tuple[tuple[int, int], ...] = ()
    template: str = "chatml"


in_full = offered.in_full


def eyes_of(spec: Spec) -> Eyes:
    return EYES[type(spec.encoder)](spec.encoder)


def bridge_of(spec: Spec) -> Bridge:
    return BRIDGES[type(spec.connector)](spec.connector, eyes_of(spec).features, speech_of(spec).width)


def speech_of(spec: Spec) -> Speech:
    return SPEECH[type(spec.language)](spec.language)


def body_of(spec: Spec) -> Body:
    return BODIES[type(spec.fusion)](spec.fusion, spec.language, speech_of(spec))


def build(spec: Spec) -> MultimodalDecoder:
    """Raises ValueError: parts that do not go together, with the reason."""
    eyes, bridge, body = eyes_of(spec), bridge_of(spec), body_of(spec)
    return MultimodalDecoder(body.build(), image=MediaInput(eyes.build(), bridge.build(), body.placement))


# How big --------------------------------------------------------------------------------------------------------------

VIEW, QUERIES = LiteSpec(), AbstractorSpec(dim=384, hidden=768, layers=2, heads=6, queries=16)
QUARTERS = tuple((rows, columns) for rows in (1, 2) for columns in (1, 2))
SIZES = {
    "owl1-smol": Spec(VIEW, QUERIES, InTheText(), SMOLLM2_135M),
    "owl2-smol": Spec(VIEW, QUERIES, ByModality(), SMOLLM2_135M),
    "owl3-smol": Spec(VIEW, MlpSpec(), BesideTheText(), SMOLLM2_135M),
    "owl3-fused-smol": Spec(VIEW, MlpSpec(hidden=576), BesideTheText(arrangement="fused"), SMOLLM2_135M),
    "ureader-smol": Spec(VIEW, QUERIES, InTheText(), SMOLLM2_135M, QUARTERS),
    "docowl-smol": Spec(LiteSpec(side=256), HReducerSpec(dim=384), ByModality(), SMOLLM2_135M, QUARTERS),
    "llava-smol": Spec(VIEW, MlpSpec(hidden=None), InTheText(), SMOLLM2_135M),
    "blip2-smol": Spec(
        VIEW, QFormerSpec(dim=384, hidden=768, layers=4, heads=6, queries=16, width=384), InTheText(), SMOLLM2_135M
    ),
    "flamingo-smol": Spec(
        VIEW, PerceiverSpec(dim=384, hidden=768, depth=2, heads=6, queries=16), GatedSpec(every=4), SMOLLM2_135M
    ),
}


# How published --------------------------------------------------------------------------------------------------------

KEYS: dict = {}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """No layout but our own."""
    return None


def parts(spec: Spec) -> dict[str, tuple[Published, ...]]:
    """The encoder and the language model as others publish them."""
    return {ROLE: eyes_of(spec).published, "language": tuple(map(Published, body_of(spec).keys))}


# How read -------------------------------------------------------------------------------------------------------------


def layout(spec: Spec) -> Layout:
    eyes, tokens, mark = eyes_of(spec), bridge_of(spec).tokens, body_of(spec).mark
    if spec.template not in TEMPLATES:
        raise ValueError(f"there is no template {spec.template!r}{nearest(spec.template, TEMPLATES)}")
    cut = AnchorFit(eyes.pixels.height, spec.grids) if spec.grids else None
    arrange = Each(Slot("image", 0 if mark else tokens, written=mark))
    return Layout(TEMPLATES[spec.template], {"image": MediaLayout(eyes.pixels, arrange, cut)}, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------


def short(stage: Stage, *, lr: float, steps: int = 80) -> Stage:
    """The same stage in a few minutes on a small machine; an encoder that learns does so at a tenth of the rate.

    The template stays the same in all stages, and without tokens of its own no embedding learns alone.
    """
    sees = "image" in stage.train or ROLE in stage.train
    return replace(
        stage, train=tuple(path for path in stage.train if path not in stage.rows), rows={}, template="",
        overrides={}, data=("names",), steps=steps, batch=16, lr=lr, lr_of={ROLE: lr / 10} if sees else {}, min_lr=0.0, warmup=10,
        weight_decay=0.05, source=f"shortened from {stage.source}",
    )  # fmt: skip


def with_eyes(*stages: Stage, lr: float, steps: int = 80) -> tuple[Stage, ...]:
    """The encoder learns where it does as published.

    Args:
        lr: of the last stage; those before it train little and take more.
        steps: of each stage.
    """
    return (*(short(one, lr=1e-3, steps=steps) for one in stages[:-1]), short(stages[-1], lr=lr, steps=steps))


def recipe(*stages: Stage, lr: float, steps: int = 80) -> tuple[Stage, ...]:
    """The encoder does not learn, so that its features can be kept."""
    return tuple(map(_without_eyes, with_eyes(*stages, lr=lr, steps=steps)))


def _without_eyes(stage: Stage) -> Stage:
    learns = tuple(path for path in stage.train if path not in ("image", ROLE))
    return replace(stage, train=learns + ("image.connector",) * ("image" in stage.train), lr_of={})


def two_stages(*added: str) -> tuple[Stage, ...]:
    """First what is new learns, then it and the language model.

    Args:
        added: globs of what the fusion adds to the language model.
    """
    source = "numbers of LLaVA-1.5 (arXiv 2310.03744, appendix A); what the fusion adds learns with the connector"
    return (
        Stage("align", train=("image.connector", *added), data=("pairs",), steps=2_180, batch=256, lr=1e-3, warmup=65,
              source=source),
        Stage("instruct", train=("image.connector", "language"), data=("instructions",), steps=5_197, batch=128, lr=2e-5,
              warmup=156, source=source),
    )  # fmt: skip


GATES, PICTURES = "language.blocks.*.attn.gate", "language.blocks.*.attn.pictures"
STAGES = {
    "owl1-smol": recipe(*mplug_owl.STAGES["abstract"], lr=1e-3),
    "owl2-smol": recipe(*mplug_owl2.STAGES["paper"], lr=2e-4),
    "owl3-smol": recipe(*mplug_owl3.STAGES["mplug-owl3-7b-240728"][::2], lr=2e-4),
    "owl3-fused-smol": recipe(*mplug_owl3.STAGES["mplug-owl3-7b-241101"][::2], lr=2e-4),
    "ureader-smol": recipe(*ureader.STAGES["ureader-7b"], lr=1e-3),
    "docowl-smol": recipe(*docowl15.STAGES["docowl1.5"], lr=2e-4),
    "llava-smol": recipe(*llava.STAGES["llava-v1.5"], lr=2e-4),
    "blip2-smol": recipe(*blip2.STAGES["blip2-opt-2.7b"], lr=1e-3, steps=160),
    "flamingo-smol": recipe(*open_flamingo.STAGES["openflamingo"], lr=1e-3, steps=160),
    "owl1-smol-eyes": with_eyes(*mplug_owl.STAGES["abstract"], lr=1e-3),
    "owl2-smol-eyes": with_eyes(*mplug_owl2.STAGES["paper"], lr=2e-4),
    "docowl-smol-eyes": with_eyes(*docowl15.STAGES["docowl1.5"], lr=2e-4),
    "inline": two_stages(),
    "modality_adaptive": two_stages(*mplug_owl2.MEDIA_EXPERTS),
    "hyper_attention": two_stages(PICTURES, GATES),
    "hyper_attention_fused": two_stages(PICTURES),
    "gated_cross_attention": two_stages("language.blocks.*.gated_attn", "language.blocks.*.gated_mlp"),
}


def recipe_of(spec: Spec) -> str:
    """Of the fusion."""
    return body_of(spec).recipe


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    return origins_of(SIZES[size])


def origins_of(spec: Spec) -> Origins:
    """What registries carry; the connector and what the fusion adds are fresh, and the rest must be said."""
    eyes, body = eyes_of(spec), body_of(spec)
    smol = spec.language == SMOLLM2_135M
    carried = (*eyes.carried, *((Origin("smollm2-135m", body.keys[0], "language."),) if smol else ()))
    here = {one.under.rstrip(".") for one in carried}
    return Origins(
        carried, tokenizer="smollm2-135m" if smol else None, fresh=("image.connector", *body.fresh),
        elsewhere=tuple(part for part in (ROLE, "language") if part not in here),
    )  # fmt: skip
