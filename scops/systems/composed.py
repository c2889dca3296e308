"""Any encoder, connector, fusion and language model of the house put together: small members of each family, comparisons.

A size names its parts; the recipes of the sizes here are those of the published systems, with fewer and smaller steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scops.checkpoints.hub_efficientnet import KEYS as EFFICIENTNET
from scops.connectors.abstractor import AbstractorSpec
from scops.connectors.h_reducer import HReducerSpec
from scops.core.layout import Each, Layout, MediaLayout, Slot
from scops.core.stage import Stage
from scops.data.tiling import AnchorFit
from scops.encoders.vit import VitSpec
from scops.language.llama import LlamaSpec
from scops.models.decoder import MediaInput, MultimodalDecoder
from scops.systems import Origin, Origins, docowl15, mplug_owl, mplug_owl2, mplug_owl3, ureader
from scops.systems.composed_parts import (
    MADE,
    BesideTheText,
    Body,
    Bridge,
    ByModality,
    Eyes,
    InTheText,
    LiteSpec,
    MlpSpec,
)
from scops.systems.llama import SMOLLM2_135M
from scops.systems.owl_small import TEMPLATE

TITLE = "Encoders, connectors, fusions and language models put together freely"
PAPER = "arXiv 2304.14178, 2310.05126, 2311.04257, 2403.12895, 2408.04840"


@dataclass(frozen=True)
class Spec:
    """Args:
    grids: (rows, columns) that large pictures are cut into, the whole picture before them; none for one view.
    """

    encoder: LiteSpec | VitSpec
    connector: AbstractorSpec | HReducerSpec | MlpSpec
    fusion: InTheText | ByModality | BesideTheText
    language: LlamaSpec
    grids: tuple[tuple[int, int], ...] = ()


def eyes_of(spec: Spec) -> Eyes:
    return MADE[type(spec.encoder)](spec.encoder)


def bridge_of(spec: Spec) -> Bridge:
    return MADE[type(spec.connector)](spec.connector, eyes_of(spec), spec.language.dim)


def body_of(spec: Spec) -> Body:
    return MADE[type(spec.fusion)](spec.fusion, spec.language)


def build(spec: Spec) -> MultimodalDecoder:
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
}


# How published --------------------------------------------------------------------------------------------------------

KEYS: dict = {}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """No layout but our own."""
    return None


# How read -------------------------------------------------------------------------------------------------------------


def layout(spec: Spec) -> Layout:
    eyes, tokens, mark = eyes_of(spec), bridge_of(spec).tokens, body_of(spec).mark
    cut = AnchorFit(eyes.pixels.height, spec.grids) if spec.grids else None
    arrange = Each(Slot("image", 0 if mark else tokens, written=mark))
    return Layout(TEMPLATE, {"image": MediaLayout(eyes.pixels, arrange, cut)}, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------


def short(stage: Stage, *, steps: int, lr: float) -> Stage:
    """The same stage in a few minutes on a small machine. The encoder does not learn, so that its features can be kept."""
    learns = tuple(path for path in stage.train if path not in ("image", "image.encoder"))
    learns += ("image.connector",) * ("image" in stage.train)
    return replace(
        stage, train=learns, data=("names",), steps=steps, batch=16, lr=lr, lr_of={}, min_lr=0.0, warmup=10,
        weight_decay=0.05, source=f"shortened from {stage.source}",
    )  # fmt: skip


def recipe(*stages: Stage, lr: float) -> tuple[Stage, ...]:
    """Args:
    lr: of the last stage; those before it train little and take more.
    """
    return (*(short(one, steps=80, lr=1e-3) for one in stages[:-1]), short(stages[-1], steps=80, lr=lr))


STAGES = {
    "owl1-smol": recipe(*mplug_owl.STAGES["abstract"], lr=1e-3),
    "owl2-smol": recipe(*mplug_owl2.STAGES["paper"], lr=2e-4),
    "owl3-smol": recipe(*mplug_owl3.STAGES["mplug-owl3-7b-240728"][::2], lr=2e-4),
    "owl3-fused-smol": recipe(*mplug_owl3.STAGES["mplug-owl3-7b-241101"][::2], lr=2e-4),
    "ureader-smol": recipe(*ureader.STAGES["ureader-7b"], lr=1e-3),
    "docowl-smol": recipe(*docowl15.STAGES["docowl1.5"], lr=2e-4),
}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    body = body_of(SIZES[size])
    weights = (
        Origin("efficientnet-lite0", EFFICIENTNET, "image.encoder."),
        Origin("smollm2-135m", body.keys, "language."),
    )
    return Origins(weights, tokenizer="smollm2-135m", fresh=("image.connector", *body.fresh))
