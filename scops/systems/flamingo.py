"""Flamingo (arXiv 2204.14198), never published: resampler, gated layers and sizes of the paper around parts that stand in.

Its encoder is an NFNet-F6, its language model a Chinchilla; here a vision transformer and a GPT-NeoX of their widths stand
in their places. Numbers marked so are recalled, not looked up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from scops.connectors.perceiver import PerceiverResampler, PerceiverSpec
from scops.core.layout import WHOLE, Always, ClipLayout, Layout, MediaLayout, PerSecond, Slot
from scops.core.stage import Stage
from scops.core.template import Special
from scops.encoders.vit import Vit, VitSpec
from scops.language.gated import GatedSpec
from scops.language.gpt_neox import GptNeoxSpec
from scops.models.beside import Beside
from scops.models.decoder import MediaInput, MultimodalDecoder
from scops.systems import Origins
from scops.systems.mplug_owl import squares
from scops.systems.open_flamingo import TEMPLATE
from scops.systems.open_flamingo_parts import gated_gpt_neox

TITLE = "Flamingo: a Visual Language Model for Few-Shot Learning"
PAPER = "arXiv 2204.14198"


@dataclass(frozen=True)
class Spec:
    """Args:
    vision: in place of NFNet-F6, whose features are 1,536 wide.
    language: in place of Chinchilla.
    """

    vision: VitSpec = field(
        default_factory=lambda: VitSpec(dim=1536, hidden=6144, image=320, patch=16, activation="gelu")
    )
    perceiver: PerceiverSpec = field(
        default_factory=lambda: PerceiverSpec(
            1536, 6144, heads=16, head_dim=96, activation="squared_relu", first=1, frames=8
        )
    )
    language: GptNeoxSpec = field(default_factory=GptNeoxSpec)
    gates: GatedSpec = field(default_factory=GatedSpec)


def _size(dim: int, layers: int, heads: int, every: int) -> Spec:
    """A row of the paper's table of sizes, recalled: heads 128 wide, feed-forwards four times the model's width."""
    gates = GatedSpec(every, heads, 128, activation="squared_relu")
    return Spec(language=GptNeoxSpec(dim, 4 * dim, layers, heads, vocab=32003), gates=gates)


SIZES = {
    "flamingo-3b": _size(2048, 24, 16, every=1),
    "flamingo-9b": _size(4096, 40, 32, every=4),
    "flamingo-80b": _size(8192, 80, 64, every=7),
}


def build(spec: Spec) -> MultimodalDecoder:
    encoder = Vit(spec.vision, post_norm=nn.Identity())
    language = gated_gpt_neox(spec.language, spec.gates, memory="image", width=spec.perceiver.dim)
    return MultimodalDecoder(language, image=MediaInput(encoder, PerceiverResampler(spec.perceiver), Beside("image")))


# How published: nothing is -------------------------------------------------------------------------------------------

KEYS: dict[str, Any] = {}
CONFIGS: dict[str, Any] = {}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    return None


# How read -------------------------------------------------------------------------------------------------------------

MARK = Special("<image>")


def layout(spec: Spec) -> Layout:
    """A clip is one item: its frames, one a second, have an embedding each and become as many tokens as a picture."""
    pixels = squares(spec.vision.image)
    clip = lambda times: (Slot("image", 0, (WHOLE,) * len(times)), MARK)
    media = {
        "image": MediaLayout(pixels, Always((Slot("image", 0), MARK))),
        "video": ClipLayout(pixels, clip, PerSecond(1.0, most=spec.perceiver.frames)),
    }
    return Layout(TEMPLATE, media, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

PRETRAIN = Stage(
    "pretrain", train=("image.connector", "language.blocks.*.gated_attn", "language.blocks.*.gated_mlp"),
    data=("interleaved", "pairs", "clips"), steps=500_000, lr=1e-4, warmup=5_000, schedule="constant", weight_decay=0.1,
    source="arXiv 2204.14198 sections 2.4 and B.1, recalled: M3W with weight 1.0, ALIGN 0.2, LTIP 0.2, VTP 0.03; no decay of the "
    "resampler there; the batch is not recalled",
)  # fmt: skip
STAGES = {"flamingo": (PRETRAIN,)}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """Nobody has published any."""
    return Origins(fresh=("image", "language"))
