"""mPLUG-Owl (arXiv 2304.14178) of small parts that package registries carry: the default system of scops.

EfficientNet-Lite0 grid -> visual abstractor -> SmolLM2-135M (owl-tiny), or a small decoder trained from scratch (owl-nano).
"""

# M pictures, P grid cells, D width
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

from torch import Tensor, nn

from scops.checkpoints.hub_efficientnet import KEYS as EFFICIENTNET
from scops.checkpoints.hub_llama import HUB_LLAMA_TIED
from scops.connectors.abstractor import AbstractorSpec, VisualAbstractor, tokens_for
from scops.core.layout import Always, Layout, MediaLayout, Slot
from scops.core.stage import Lora, Stage
from scops.core.template import Written
from scops.encoders.efficientnet import SIZES as ENCODERS
from scops.encoders.efficientnet import EfficientNet
from scops.language.llama import LlamaSpec, llama
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.ops.positions import sincos_grid
from scops.systems import Origin, Origins
from scops.systems.llama import SMOLLM2_135M, TEMPLATES

TITLE = "mPLUG-Owl of small parts: EfficientNet-Lite0, visual abstractor, SmolLM2-135M or a decoder from scratch"
PAPER = "arXiv 2304.14178, 1905.11946, 2502.02737"


@dataclass(frozen=True)
class Spec:
    """Args:
    encoder: a size of EfficientNet-Lite.
    side: pixels of the square that a picture is stretched to.
    """

    abstractor: AbstractorSpec
    language: LlamaSpec
    encoder: str = "lite0"
    side: int = 224


SIZES = {
    "owl-tiny": Spec(AbstractorSpec(dim=384, hidden=768, layers=2, heads=6, queries=16), SMOLLM2_135M),
    "owl-nano": Spec(
        AbstractorSpec(dim=256, hidden=512, layers=2, heads=4, queries=12),
        LlamaSpec(dim=256, hidden=768, layers=2, heads=4, kv_heads=4, vocab=4096, eps=1e-5, context=1024, tied=True),
        side=192,
    ),
}


class PlacedGrid(nn.Module):
    """A convolution's grid has no positions of its own: width changed, then a fixed sine per row and column added.

    forward: (M, P, in) -> (M, P, D), P a square number
    """

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.project = nn.Linear(width, dim)

    def forward(self, features_MPD: Tensor) -> Tensor:
        x_MPD = self.project(features_MPD)
        side = isqrt(x_MPD.shape[1])
        return x_MPD + sincos_grid(side, side, x_MPD.shape[2]).to(x_MPD)


def build(spec: Spec) -> MultimodalDecoder:
    encoder = EfficientNet(ENCODERS[spec.encoder])
    join = PlacedGrid(encoder.width, spec.abstractor.dim)
    connector = VisualAbstractor(spec.abstractor, out=spec.language.dim, join=join)
    return MultimodalDecoder(llama(spec.language), image=MediaInput(encoder, connector, Inline()))


# How published --------------------------------------------------------------------------------------------------------

KEYS: dict = {}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """No layout but our own."""
    return None


# How read -------------------------------------------------------------------------------------------------------------

USER = replace(TEMPLATES["chatml"].roles["user"], between=(Written("\n"),))
TEMPLATE = replace(TEMPLATES["chatml"], roles={**TEMPLATES["chatml"].roles, "user": USER})


def layout(spec: Spec) -> Layout:
    slot = Always((Slot("image", tokens_for(spec.abstractor)),))
    pixels = replace(ENCODERS[spec.encoder].pixels, height=spec.side, width=spec.side)
    return Layout(TEMPLATE, {"image": MediaLayout(pixels, slot)}, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

ADAPTERS = Lora(tuple(f"language.blocks.*.attn.body.{name}" for name in "qkvo"), rank=16, alpha=32.0)
EVERYTHING = ("names", "scenes", "which", "words", "text")
_OURS = "ours; the stages are those of arXiv 2304.14178 section 3.2"
STAGES = {
    "owl-tiny": (
        Stage("words", train=("image.connector",), data=("labels",), objective="word_reading", steps=3_000, batch=128,
              lr=2e-3, warmup=50, weight_decay=0.5, source=_OURS + ", before them pictures are read as words"),
        Stage("align", train=("image.connector",), data=("names",), steps=30, batch=32, lr=2e-4, warmup=20,
              weight_decay=0.05, source=_OURS),
        Stage("instruct", train=("image.connector",), data=EVERYTHING, lora=ADAPTERS, steps=330, batch=32, lr=5e-4,
              lr_of={"image.connector.*": 1e-4}, warmup=50, weight_decay=0.05, source=_OURS),
    ),
    "owl-nano": (
        Stage("words", train=("image.connector", "language.embed"), data=("labels",), objective="word_reading",
              steps=450, batch=128, lr=2e-3, warmup=30, weight_decay=0.5,
              source=_OURS + ", before them pictures are read as words"),
        Stage("align", train=("language",), data=("labels",), steps=200, batch=96, lr=3e-3, warmup=30,
              weight_decay=0.05, source=_OURS + "; the decoder is fresh and learns to read what the connector writes"),
        Stage("instruct", train=("language",), data=EVERYTHING, steps=240, batch=64, lr=2e-3, warmup=30,
              weight_decay=0.05, source=_OURS),
    ),
}  # fmt: skip


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    encoder = Origin("efficientnet-lite0", EFFICIENTNET, "image.encoder.")
    if size == "owl-nano":
        return Origins(
            (encoder,), fresh=("image.connector", "language")
        )  # its tokenizer is learnt from the run's own words
    language = Origin("smollm2-135m", HUB_LLAMA_TIED, "language.")
    return Origins((encoder, language), tokenizer="smollm2-135m", bridge="owl-tiny", fresh=("image.connector",))
