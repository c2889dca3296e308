"""Encoders and connectors that must know which pictures make an item, and where each stands in it."""

# M items, I pictures of all of them, T pictures of one
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scops.core.batch import Tiles


class Tiled(nn.Module):
    """A module whose forward takes (x, tiles): x by prepared picture (I, ...). Plain encoders and connectors take x alone."""


def run_tiled(module: nn.Module, x: Tensor, tiles: Tiles) -> Any:
    """A tensor by item or prepared picture; of a connector whose items differ in length, a tensor (Q, D) of each."""
    return module(x, tiles) if isinstance(module, Tiled) else module(x)


def by_count(x: Tensor, tiles: Tiles, run: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """For each item what `run` makes of it, given (m, T, ...) of items that have as many pictures.

    Args:
        x: by prepared picture, (I, ...).
    """
    items, made, same = x.split(tiles.count_M), {}, {}
    for number, count in enumerate(tiles.count_M):
        same.setdefault(count, []).append(number)
    for numbers in same.values():
        made |= dict(zip(numbers, run(torch.stack([items[number] for number in numbers])), strict=True))
    return [made[number] for number in range(len(items))]
