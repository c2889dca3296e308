"""mPLUG-Owl for videos (X-PLUG/mPLUG-Owl, mPLUG-Owl/mplug_owl_video): frames mix in the tower, temporal queries ask all of them.

An item is a picture or the frames of a clip; a picture passes the same weights without the temporal parts.
"""

# M items, T frames of an item, P features per frame (class token first), Q tokens per item, I frames of all items, D width
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from scops.checkpoints.keymap import KeyMap, TrailingAxes, same
from scops.connectors.abstractor import AbstractorSpec, VisualAbstractor, tokens_for
from scops.core.batch import Tiles
from scops.core.layout import WHOLE, ClipLayout, Layout, Slot
from scops.encoders.vit import Vit, VitSpec
from scops.language.bloom import BloomSpec
from scops.language.llama import LlamaSpec
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.nn.context import Context
from scops.nn.feed_forward import QuickGelu
from scops.nn.initialise import IntoWords
from scops.nn.tiled import Tiled, by_count
from scops.systems import Origins, mplug_owl

TITLE = "mPLUG-Owl for videos"
PAPER = "arXiv 2304.14178"


@dataclass(frozen=True)
class Spec:
    """Args:
    frames: of a clip, chosen evenly.
    """

    vision: VitSpec = field(default_factory=lambda: VitSpec(eps=1e-6))
    abstractor: AbstractorSpec = field(default_factory=AbstractorSpec)
    language: LlamaSpec | BloomSpec = field(default_factory=LlamaSpec)
    frames: int = 4

    @property
    def of_pictures(self) -> mplug_owl.Spec:
        """The system without its temporal parts."""
        return mplug_owl.Spec(self.vision, self.abstractor, self.language)


SIZES = {"mplug-owl-llama-7b-video": Spec()}


def build(spec: Spec) -> MultimodalDecoder:
    connector = VideoAbstractor(spec.abstractor, out=spec.language.dim)
    return MultimodalDecoder(
        mplug_owl.language(spec.language), image=MediaInput(VideoTower(spec.vision), connector, Inline())
    )


class FrameMixing(nn.Module):
    """x + [cls; up(quick_gelu(conv(down(norm(patches)))))], the convolution over the same patch of three frames.

    The class token is added to itself, as published.

    forward: (M, T, P, D) -> (M, T, P, D)
    """

    def __init__(self, dim: int):
        super().__init__()
        self.norm, self.activation = nn.LayerNorm(dim, 1e-5), QuickGelu()
        self.down, self.up = nn.Linear(dim, dim // 2), nn.Linear(dim // 2, dim)
        self.conv = nn.Conv1d(dim // 2, dim // 2, 3, padding=1, groups=dim // 2)

    def forward(self, x_MTPD: Tensor) -> Tensor:
        patches = self.down(self.norm(x_MTPD[:, :, 1:])).permute(0, 2, 3, 1)
        mixed = self.conv(patches.flatten(0, 1)).unflatten(0, patches.shape[:2]).permute(0, 3, 1, 2)
        return x_MTPD + torch.cat([x_MTPD[:, :, :1], self.up(self.activation(mixed))], 2)


class VideoTower(Tiled):
    """A vision transformer per frame; where an item has several, they are mixed before each block.

    forward: frames (I, C, H, W) -> (I, P, D)
    """

    def __init__(self, spec: VitSpec):
        super().__init__()
        self.vit = Vit(spec)
        self.mixing = nn.ModuleList(FrameMixing(spec.dim) for _ in range(spec.layers))
        self.width, self.tokens = spec.dim, spec.tokens

    def forward(self, pixels_ICHW: Tensor, tiles: Tiles) -> Tensor:
        return torch.cat(by_count(self.vit.embed(pixels_ICHW), tiles, self.blocks))

    def blocks(self, x_MTPD: Tensor) -> Tensor:
        """Items with as many frames each."""
        ctx, shape = Context(), x_MTPD.shape[:2]
        for mixing, block in zip(self.mixing, self.vit.blocks, strict=True):
            x_MTPD = mixing(x_MTPD) if shape[1] > 1 else x_MTPD
            x_MTPD = block(x_MTPD.flatten(0, 1), ctx).unflatten(0, shape)
        return self.vit.post_norm(x_MTPD)


class VideoAbstractor(Tiled):
    """Queries and temporal queries ask all frames of an item together; their tokens are added.

    forward: features (I, P, D) -> (M, Q, out)
    """

    def __init__(self, spec: AbstractorSpec, out: int):
        super().__init__()
        self.abstractor = VisualAbstractor(spec, out)
        self.queries = nn.Parameter(torch.zeros(1, spec.queries, spec.dim))
        self.project = IntoWords(spec.dim, out)

    def forward(self, features_IPD: Tensor, tiles: Tiles) -> Tensor:
        return torch.stack(by_count(features_IPD, tiles, self.tokens))

    def tokens(self, features_MTPD: Tensor) -> Tensor:
        """Items with as many frames each."""
        spatial, (items, frames) = self.abstractor, features_MTPD.shape[:2]
        features_MSD = features_MTPD.flatten(1, 2)
        if frames == 1:
            return spatial(features_MSD)
        x_MQD = spatial.asked(features_MSD, queries_1QD=torch.cat([spatial.queries, self.queries], 1))
        where, when = x_MQD.chunk(2, dim=1)
        return torch.cat([spatial.project(where) + self.project(when), spatial.end.expand(items, -1, -1)], 1)


# How published --------------------------------------------------------------------------------------------------------


def authors(spec: Spec) -> KeyMap:
    """As the system of pictures, and beside it the temporal parts, whose convolutions are three-dimensional."""
    theirs, ours = "vision_model.encoder.layers.{i}.temporal.", "image.encoder.mixing.{i}."
    return KeyMap(
        same(theirs + "ln.{w}", ours + "norm.{w}"),
        same(theirs + "down_proj.weight", ours + "down.weight", TrailingAxes(3)),
        same(theirs + "down_proj.bias", ours + "down.bias"),
        same(theirs + "conv.weight", ours + "conv.weight", TrailingAxes(2)),
        same(theirs + "conv.bias", ours + "conv.bias"),
        same(theirs + "up_proj.weight", ours + "up.weight", TrailingAxes(3)),
        same(theirs + "up_proj.bias", ours + "up.bias"),
        mplug_owl.tower(spec.vision.heads).under("vision_model.", "image.encoder.vit."),
        same("query_tokens", "image.connector.abstractor.queries"),
        same("temporal_query_tokens", "image.connector.queries"),
        same("abstractor.temporal_visual_fc.{w}", "image.connector.project.{w}"),
        mplug_owl.ABSTRACTOR.under("abstractor.", "image.connector.abstractor."),
        mplug_owl.language_keys(spec.language).under("language_model.", "language."),
    )


KEYS = {"authors": authors}
WIDTH, UNIT = 2816, 256


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that an authors' config.json means; None when it is another system's.

    It says nothing that the system of pictures would not say: the names of the weights tell them apart. The abstractor's
    hidden width is 2816, or two thirds of what is said, rounded up to a multiple of 256.
    """
    spec = mplug_owl.spec_of(config)
    if spec is None:
        return None
    said = spec.abstractor.hidden
    hidden = said if said == WIDTH else UNIT * -(-int(2 * said / 3) // UNIT)
    return Spec(spec.vision, replace(spec.abstractor, hidden=hidden), spec.language)


def config_of(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`."""
    hidden = spec.abstractor.hidden
    if hidden % UNIT:
        raise ValueError(f"the authors' config.json has only multiples of {UNIT} for the abstractor, not {hidden}")
    said = hidden if hidden == WIDTH else hidden * 3 // 2
    return mplug_owl.config_of(replace(spec.of_pictures, abstractor=replace(spec.abstractor, hidden=said)))


CONFIGS = {"authors": config_of}


# How read -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evenly:
    """Always so many frames, the first from the middle of the first share; short clips show frames twice.

    Source: X-PLUG/mPLUG-Owl, mplug_owl_video/processing_mplug_owl.py, get_index.
    """

    frames: int

    def __call__(self, count: int, fps: float) -> tuple[int, ...]:
        share = (count - 1) / self.frames
        return tuple(int(share / 2) + round(share * number) for number in range(self.frames))


@dataclass(frozen=True)
class Clip:
    """One item of all frames."""

    tokens: int

    def __call__(self, times: Sequence[float]) -> tuple[Slot]:
        return (Slot("image", self.tokens, (WHOLE,) * len(times)),)


def layout(spec: Spec) -> Layout:
    pictures = mplug_owl.layout(spec.of_pictures)
    clips = ClipLayout(pictures.media["image"].pixels, Clip(tokens_for(spec.abstractor)), Evenly(spec.frames))
    return replace(pictures, media={**pictures.media, "video": clips})


# How trained ----------------------------------------------------------------------------------------------------------

STAGES = mplug_owl.STAGES


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "language"))
