"""Connectors behind any encoder: each brings the features to the width that it wants."""

# M pictures, P features per picture, D width
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import pad

from scops.connectors.abstractor import AbstractorSpec, VisualAbstractor
from scops.connectors.abstractor import tokens_for as abstractor_tokens
from scops.connectors.h_reducer import HReducer, HReducerSpec
from scops.connectors.h_reducer import tokens_for as h_reducer_tokens
from scops.connectors.own import Features, OwnSpec, own_connector
from scops.connectors.own import tokens_for as own_tokens
from scops.connectors.perceiver import PerceiverResampler, PerceiverSpec
from scops.connectors.perceiver import tokens_for as perceiver_tokens
from scops.connectors.qformer import QFormerConnector, QFormerSpec
from scops.connectors.qformer import tokens_for as qformer_tokens
from scops.core.batch import Tiles
from scops.nn.initialise import IntoWords
from scops.nn.tiled import Tiled, run_tiled
from scops.systems.owl_small import PlacedGrid


@dataclass(frozen=True)
class MlpSpec:
    """Feature by feature: linear, exact GELU, linear (LLaVA-1.5, arXiv 2310.03744, section 3.2).

    Args:
        hidden: between the two; None for the language model's width, as in LLaVA-1.5, 0 for one linear layer.
    """

    hidden: int | None = 0


@dataclass(frozen=True)
class Bridge:
    """A connector, and how many tokens it makes of one picture."""

    build: Callable[[], nn.Module]
    tokens: int


class Projected(Tiled):
    """project(connector(features))."""

    def __init__(self, connector: nn.Module, project: nn.Module):
        super().__init__()
        self.connector, self.project = connector, project

    def forward(self, features_MPD: Tensor, tiles: Tiles) -> Tensor:
        return self.project(run_tiled(self.connector, features_MPD, tiles))


class Joined(Tiled):
    """connector(join(features)).

    Args:
        first: class tokens that the encoder gives, which are left away; wanted: that the connector takes, all zero.
    """

    def __init__(self, join: nn.Module, connector: nn.Module, *, first: int = 0, wanted: int = 0):
        super().__init__()
        self.join, self.connector, self.first, self.wanted = join, connector, first, wanted

    def forward(self, features_MPD: Tensor, tiles: Tiles) -> Tensor:
        x_MPD = pad(self.join(features_MPD[:, self.first :]), (0, 0, self.wanted, 0))
        return run_tiled(self.connector, x_MPD, tiles)


def join(features: Features, dim: int) -> nn.Module:
    """Features `dim` wide that know where they stand."""
    return nn.Linear(features.width, dim) if features.placed else PlacedGrid(features.width, dim)


def join_where_needed(features: Features, dim: int) -> nn.Module:
    return nn.Identity() if features.placed and features.width == dim else join(features, dim)


def abstractor(spec: AbstractorSpec, features: Features, out: int) -> Bridge:
    return Bridge(lambda: VisualAbstractor(spec, out, join=join(features, spec.dim)), abstractor_tokens(spec))


def h_reducer(spec: HReducerSpec, features: Features, out: int) -> Bridge:
    high, wide = spec.kernel
    if features.rows % high**2 or features.columns % wide:
        raise ValueError(
            f"the H-Reducer's kernel of {high} x {wide} would leave away some of {features.rows} x {features.columns} features; "
            "choose pictures of another size or another kernel"
        )

    def build() -> nn.Module:
        return Joined(join(features, spec.dim), HReducer(spec, out), first=features.first, wanted=1)

    return Bridge(build, h_reducer_tokens(spec, features.rows))


def mlp(spec: MlpSpec, features: Features, out: int) -> Bridge:
    hidden = out if spec.hidden is None else spec.hidden

    def build() -> nn.Module:
        width = hidden or features.width
        first = nn.Sequential(join(features, width), nn.GELU()) if hidden else join(features, width)
        return Joined(first, IntoWords(width, out), first=features.first)

    return Bridge(build, features.rows * features.columns)


def qformer(spec: QFormerSpec, features: Features, out: int) -> Bridge:
    if spec.vocab:
        raise ValueError(
            f"a Q-Former that reads words (vocab {spec.vocab}) needs a layout that brings them, as InstructBLIP's does; "
            "in a composed system its vocab is 0"
        )
    return Bridge(
        lambda: Joined(join_where_needed(features, spec.width), QFormerConnector(spec, out)), qformer_tokens(spec)
    )


def perceiver(spec: PerceiverSpec, features: Features, out: int) -> Bridge:
    if spec.first > features.first or spec.items:
        raise ValueError(
            f"a resampler that leaves away {spec.first} features and numbers {spec.items} items does not go with an encoder of "
            f"{features.first} class tokens and pictures without numbers; first is {features.first} at most, and items 0"
        )

    def build() -> nn.Module:
        resampler = Projected(PerceiverResampler(spec), IntoWords(spec.dim, out))
        return Joined(join_where_needed(features, spec.dim), resampler)

    return Bridge(build, perceiver_tokens(spec))


def own(spec: OwnSpec, features: Features, out: int) -> Bridge:
    return Bridge(lambda: own_connector(spec, features, out), own_tokens(spec, features))


BRIDGES: Mapping[type, Callable[..., Bridge]] = {
    AbstractorSpec: abstractor, HReducerSpec: h_reducer, MlpSpec: mlp, QFormerSpec: qformer,
    PerceiverSpec: perceiver, OwnSpec: own,
}  # fmt: skip
