"""Encoders: what the rest must know of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from scops.checkpoints.hub_clip import HUB_CLIP, HUB_CLIP_BARE, OPENAI_CLIP
from scops.checkpoints.hub_efficientnet import KEYS as EFFICIENTNET
from scops.checkpoints.hub_eva import HUB_EVA, LAVIS_EVA
from scops.checkpoints.hub_siglip import HUB_SIGLIP, HUB_SIGLIP_BARE
from scops.connectors.own import Features
from scops.core.layout import Pixels
from scops.encoders.efficientnet import SIZES as LITE
from scops.encoders.efficientnet import EfficientNet
from scops.encoders.eva import EvaSpec, EvaVit
from scops.encoders.grid_vit import GridVit
from scops.encoders.siglip import Siglip, SiglipSpec
from scops.encoders.vit import Vit, VitSpec
from scops.systems import Origin, Published
from scops.systems.mplug_owl import CLIP_MEAN, CLIP_STD, tower
from scops.systems.mplug_owl2 import TABLE
from scops.systems.mplug_owl21 import BIGG

ROLE = "image.encoder"
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class LiteSpec:
    """EfficientNet-Lite of any side in pixels."""

    size: str = "lite0"
    side: int = 224


@dataclass(frozen=True)
class GridVitSpec:
    """mPLUG-Owl2.1's tower, without class token and last norm.

    Args:
        table: rows and columns of its learned positions, which are brought to the picture's.
    """

    vit: VitSpec = field(default_factory=lambda: BIGG)
    table: int = TABLE


@dataclass(frozen=True)
class Eyes:
    """Args:
    published: how files of its weights may name them.
    carried: by which packages.
    """

    build: Callable[[], nn.Module]
    pixels: Pixels
    features: Features
    published: tuple[Published, ...]
    carried: tuple[Origin, ...] = ()


def lite(spec: LiteSpec) -> Eyes:
    if spec.size not in LITE:
        raise ValueError(f"there is no EfficientNet-Lite {spec.size!r}; there are {', '.join(LITE)}")
    size, side = LITE[spec.size], -(-spec.side // 32)
    return Eyes(
        lambda: EfficientNet(size), replace(size.pixels, height=spec.side, width=spec.side),
        Features(size.head, side, side, placed=False), (Published(EFFICIENTNET),),
        (Origin(f"efficientnet-{spec.size}", EFFICIENTNET, f"{ROLE}."),),
    )  # fmt: skip


def vit(spec: VitSpec) -> Eyes:
    published = Published(HUB_CLIP, ("vision_model",)), Published(HUB_CLIP_BARE), Published(OPENAI_CLIP)
    return Eyes(lambda: Vit(spec), _square(spec.image), _patches(spec, first=1), published)


def grid_vit(spec: GridVitSpec) -> Eyes:
    keys = tower(spec.vit.heads).under(theirs="transformer.vision_model.")
    return Eyes(
        lambda: GridVit(spec.vit, table=spec.table, post_norm=nn.Identity()), _square(spec.vit.image),
        _patches(spec.vit), (Published(keys, ("transformer.vision_model",)),),
    )  # fmt: skip


def siglip(spec: SiglipSpec) -> Eyes:
    pixels = Pixels(spec.image, spec.image, HALF, HALF)
    published = Published(HUB_SIGLIP, ("vision_model",)), Published(HUB_SIGLIP_BARE)
    return Eyes(lambda: Siglip(spec), pixels, _patches(spec), published)


def eva(spec: EvaSpec) -> Eyes:
    published = (
        Published(LAVIS_EVA),
        Published(LAVIS_EVA.under(theirs="visual_encoder."), ("visual_encoder",)),
        Published(HUB_EVA.under(theirs="vision_model."), ("vision_model.embeddings", "vision_model.encoder")),
    )
    return Eyes(lambda: EvaVit(spec), _square(spec.image), _patches(spec, first=1), published)


def _square(side: int) -> Pixels:
    return Pixels(side, side, CLIP_MEAN, CLIP_STD)


def _patches(spec: VitSpec | SiglipSpec | EvaSpec, *, first: int = 0) -> Features:
    side = spec.image // spec.patch
    return Features(spec.dim, side, side, first)


EYES: Mapping[type, Callable[..., Eyes]] = {
    LiteSpec: lite, VitSpec: vit, SiglipSpec: siglip, EvaSpec: eva, GridVitSpec: grid_vit,
}  # fmt: skip
