"""Any encoder, connector, fusion and language model of the house put together: small members of each family, comparisons.

A size names its parts; the recipes of the sizes here are those of the published systems, with fewer and smaller steps.
"""

# M pictures, P features per picture, D width
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from scops.checkpoints.hub_efficientnet import KEYS as EFFICIENTNET
from scops.checkpoints.hub_hyper import llama_into_hyper
from scops.checkpoints.hub_llama import HUB_LLAMA, HUB_LLAMA_TIED
from scops.checkpoints.hub_modality_adaptive import LLAMA_INTO_BOTH, LLAMA_INTO_BOTH_TIED
from scops.checkpoints.keymap import KeyMap
from scops.connectors.abstractor import AbstractorSpec, VisualAbstractor
from scops.connectors.abstractor import tokens_for as abstractor_tokens
from scops.connectors.h_reducer import HReducer, HReducerSpec
from scops.connectors.h_reducer import tokens_for as h_reducer_tokens
from scops.core.layout import Cut, Layout, MediaLayout, Pixels, Slot
from scops.core.stage import Stage
from scops.data.tiling import AnchorFit
from scops.encoders.efficientnet import SIZES as LITE
from scops.encoders.efficientnet import EfficientNet
from scops.encoders.vit import Vit, VitSpec
from scops.language.hyper import hyper_llama
from scops.language.llama import LlamaSpec, llama
from scops.language.modality_adaptive import modality_adaptive
from scops.language.model import LanguageModel
from scops.models.beside import Beside
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder, Placement
from scops.nn.initialise import IntoWords
from scops.systems import Origin, Origins, docowl15, mplug_owl, mplug_owl2, mplug_owl3, ureader
from scops.systems.llama import SMOLLM2_135M
from scops.systems.owl_small import TEMPLATE, PlacedGrid

TITLE = "Encoders, connectors, fusions and language models put together freely"
PAPER = "arXiv 2304.14178, 2310.05126, 2311.04257, 2403.12895, 2408.04840"


@dataclass(frozen=True)
class LiteSpec:
    """EfficientNet-Lite of any side in pixels."""

    size: str = "lite0"
    side: int = 224


@dataclass(frozen=True)
class MlpSpec:
    """Feature by feature: linear, exact GELU, linear (LLaVA-1.5, arXiv 2310.03744, section 3.2).

    Args:
        hidden: between the two; 0 for one linear layer.
    """

    hidden: int = 0


@dataclass(frozen=True)
class InTheText:
    """Tokens of pictures stand in the sequence, and the language model does not tell them from words (LLaVA, mPLUG-Owl)."""


@dataclass(frozen=True)
class ByModality:
    """In the sequence, with norms, keys and values of their own (mPLUG-Owl2)."""


@dataclass(frozen=True)
class BesideTheText:
    """Asked by a few layers (mPLUG-Owl3).

    Args:
        layers: counted from 1.
        arrangement: "adaptive", "static" or "fused", of scops.language.hyper.
    """

    layers: tuple[int, ...] = (1, 9, 17, 25)
    arrangement: str = "adaptive"


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


# Encoders -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Eyes:
    """What the rest must know of an encoder.

    Args:
        grid: features per side; first: class tokens before them.
        placed: whether features know where they stand.
    """

    build: Callable[[], nn.Module]
    pixels: Pixels
    width: int
    grid: int
    first: int
    placed: bool


def lite(spec: LiteSpec) -> Eyes:
    size = LITE[spec.size]
    pixels = replace(size.pixels, height=spec.side, width=spec.side)
    return Eyes(lambda: EfficientNet(size), pixels, size.head, -(-spec.side // 32), 0, placed=False)


def vit(spec: VitSpec) -> Eyes:
    pixels = Pixels(spec.image, spec.image, mplug_owl.CLIP_MEAN, mplug_owl.CLIP_STD)
    return Eyes(lambda: Vit(spec), pixels, spec.dim, spec.image // spec.patch, 1, placed=True)


# Connectors -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bridge:
    """A connector, and how many tokens it makes of one picture."""

    build: Callable[[], nn.Module]
    tokens: int


class Joined(nn.Module):
    """connector(join(features)).

    Args:
        first: class tokens that the encoder gives, which are left away; wanted: that the connector takes, all zero.
    """

    def __init__(self, join: nn.Module, connector: nn.Module, *, first: int, wanted: int = 0):
        super().__init__()
        self.join, self.connector, self.first, self.wanted = join, connector, first, wanted

    def forward(self, features_MPD: Tensor) -> Tensor:
        return self.connector(pad(self.join(features_MPD[:, self.first :]), (0, 0, self.wanted, 0)))


def join(eyes: Eyes, dim: int) -> nn.Module:
    """Features `dim` wide that know where they stand."""
    return nn.Linear(eyes.width, dim) if eyes.placed else PlacedGrid(eyes.width, dim)


def abstractor(spec: AbstractorSpec, eyes: Eyes, out: int) -> Bridge:
    return Bridge(lambda: VisualAbstractor(spec, out, join=join(eyes, spec.dim)), abstractor_tokens(spec))


def h_reducer(spec: HReducerSpec, eyes: Eyes, out: int) -> Bridge:
    def build() -> nn.Module:
        return Joined(join(eyes, spec.dim), HReducer(spec, out), first=eyes.first, wanted=1)

    return Bridge(build, h_reducer_tokens(spec, eyes.grid))


def mlp(spec: MlpSpec, eyes: Eyes, out: int) -> Bridge:
    def build() -> nn.Module:
        width = spec.hidden or eyes.width
        first = nn.Sequential(join(eyes, width), nn.GELU()) if spec.hidden else join(eyes, width)
        return Joined(first, IntoWords(width, out), first=eyes.first)

    return Bridge(build, eyes.grid**2)


# Fusions --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Body:
    """A language model, and how pictures come into it.

    Args:
        mark: what stands in the text for a picture beside it; "" where its tokens do.
        keys: from a plain LLaMA's published weights; fresh: what these do not cover.
    """

    build: Callable[[], LanguageModel]
    placement: Placement
    keys: KeyMap
    mark: str = ""
    fresh: tuple[str, ...] = ()


def in_the_text(spec: InTheText, language: LlamaSpec) -> Body:
    return Body(lambda: llama(language), Inline(), plain(language))


def by_modality(spec: ByModality, language: LlamaSpec) -> Body:
    keys = LLAMA_INTO_BOTH_TIED if language.tied else LLAMA_INTO_BOTH
    return Body(lambda: modality_adaptive(language), Inline(), keys)


def beside_the_text(spec: BesideTheText, language: LlamaSpec) -> Body:
    gates = tuple(f"language.blocks.{number - 1}.attn.gate" for number in spec.layers)
    return Body(
        lambda: hyper_llama(language, spec.layers, spec.arrangement, "image"), Beside("image"),
        llama_into_hyper(spec.layers, plain(language)), "<|image|>", () if spec.arrangement == "fused" else gates,
    )  # fmt: skip


def plain(language: LlamaSpec) -> KeyMap:
    return HUB_LLAMA_TIED if language.tied else HUB_LLAMA


MADE: Mapping[type, Callable] = {
    LiteSpec: lite, VitSpec: vit, AbstractorSpec: abstractor, HReducerSpec: h_reducer, MlpSpec: mlp,
    InTheText: in_the_text, ByModality: by_modality, BesideTheText: beside_the_text,
}  # fmt: skip


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


@dataclass(frozen=True)
class Each:
    """Every prepared picture is an item of its own."""

    slot: Slot

    def __call__(self, cut: Cut) -> tuple[Slot, ...]:
        return tuple(replace(self.slot, places=(place,)) for place in cut.places)


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
