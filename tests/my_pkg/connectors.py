"""Connectors of a user's own: one that keeps its promise, and those that break one part of it each."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from scops.connectors.own import Features


class Pooled(nn.Module):
    """Windows of the grid, averaged, then one linear layer; with a number of its own that no file keeps."""

    def __init__(self, features: Features, out: int, *, window: int = 2):
        super().__init__()
        self.features, self.window = features, window
        self.project = nn.Linear(features.width, out)
        nn.init.constant_(self.project.bias, 0.25)
        self.register_buffer("scale", torch.full((), 0.5), persistent=False)

    @classmethod
    def tokens_for(cls, features: Features, *, window: int = 2) -> int:
        return (features.rows // window) * (features.columns // window)

    def forward(self, features_MPD: Tensor) -> Tensor:
        grid_MPD = features_MPD[:, self.features.first :]
        grid_MDRC = grid_MPD.transpose(1, 2).unflatten(2, (self.features.rows, self.features.columns))
        pooled_MDRC = nn.functional.avg_pool2d(grid_MDRC, self.window)
        return self.project(pooled_MDRC.flatten(2).transpose(1, 2)) * self.scale


class Miscounts(Pooled):
    @classmethod
    def tokens_for(cls, features: Features, *, window: int = 2) -> int:
        return 3


class SaysNothing(Pooled):
    @classmethod
    def tokens_for(cls, features: Features, *, window: int = 2) -> Any:
        return None


class Mixes(Pooled):
    """Looks from one picture at the others."""

    def forward(self, features_MPD: Tensor) -> Tensor:
        return super().forward(features_MPD - features_MPD.mean(0))


class Lists(Pooled):
    def forward(self, features_MPD: Tensor) -> Any:
        return [super().forward(features_MPD)]


class Refuses(Pooled):
    def __init__(self, features: Features, out: int, **numbers: Any):
        super().__init__(features, out, **numbers)
        if features.width % 100:
            raise ValueError(f"{features.width} is an odd width")


class Fails(Pooled):
    def forward(self, features_MPD: Tensor) -> Tensor:
        return features_MPD @ self.project.bias


class NoConnector:
    @classmethod
    def made(cls) -> Self:
        return cls()
