"""What a composed system chooses from: encoders, connectors and fusions, each by its numbers."""

# M pictures, P features per picture, D width
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.functional import pad

from scops.checkpoints.hub_hyper import llama_into_hyper
from scops.checkpoints.hub_llama import HUB_LLAMA, HUB_LLAMA_TIED
from scops.checkpoints.hub_modality_adaptive import LLAMA_INTO_BOTH, LLAMA_INTO_BOTH_TIED
from scops.checkpoints.keymap import KeyMap
from scops.connectors.abstractor import AbstractorSpec, VisualAbstractor
from scops.connectors.abstractor import tokens_for as abstractor_tokens
from scops.connectors.h_reducer import HReducer, HReducerSpec
from scops.connectors.h_reducer import tokens_for as h_reducer_tokens
from scops.core.layout import Pixels
from scops.encoders.efficientnet import SIZES as LITE
from scops.encoders.efficientnet import EfficientNet
from scops.encoders.vit import Vit, VitSpec
from scops.language.hyper import hyper_llama
from scops.language.llama import LlamaSpec, llama
from scops.language.modality_adaptive import modality_adaptive
from scops.language.model import LanguageModel
from scops.models.beside import Beside
from scops.models.decoder import Inline, Placement
from scops.nn.initialise import IntoWords
from scops.systems.mplug_owl import CLIP_MEAN, CLIP_STD
from scops.systems.owl_small import PlacedGrid


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
    pixels = Pixels(spec.image, spec.image, CLIP_MEAN, CLIP_STD)
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
