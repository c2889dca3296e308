"""Encoders and connectors that must know which pictures make an item, and where each stands in it."""

from torch import Tensor, nn

from scops.core.batch import Tiles


class Tiled(nn.Module):
    """A module whose forward takes (x, tiles): x by prepared picture (I, ...). Plain encoders and connectors take x alone."""


def run_tiled(module: nn.Module, x: Tensor, tiles: Tiles) -> Tensor:
    return module(x, tiles) if isinstance(module, Tiled) else module(x)
