"""What passes through an input's parts: shapes, and which module works when. A run on the meta device, without numbers."""

# I prepared pictures, M items, P features per picture, Q tokens per item, D width
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from scops.core.batch import Tiles
from scops.lab.figure.modules import Turns
from scops.lab.figure.source import Shown, plainest
from scops.nn.tiled import Tiled

SOME = np.zeros(8, np.int64)
"""Words that a connector may read with a picture."""


@dataclass(frozen=True)
class Passage:
    """Args:
    between: what leaves the encoder and the connector, count and width.
    order: by identity of a module, when its work began first and last.
    """

    between: tuple[str, str] = ("", "")
    order: dict[int, Turns] = field(default_factory=dict)


def passage(encoder: nn.Module, connector: nn.Module, examples: Sequence[Shown]) -> Passage:
    """Of the first example, as plain as it can be."""
    if not examples:
        return Passage()
    pixels, slots = examples[0].media.pixels, plainest(examples[0].media)
    order: dict[int, Turns] = {}
    with torch.device("meta"), torch.no_grad(), _watched(encoder, order), _watched(connector, order):
        words = [SOME for slot in slots if slot.words for _ in slot.places]
        tiles = Tiles.of([s.places for s in slots], "meta", extents=[s.extent for s in slots], words=words)
        x_ICHW = torch.zeros(sum(tiles.count_M), 3, pixels.height, pixels.width)
        features_IPD = _shaped(encoder, x_ICHW, tiles)
        made = _shaped(connector, features_IPD, tiles)
        tokens_MQD = made if isinstance(made, Tensor) else made[0][None]
    return Passage((_counts(features_IPD), _counts(tokens_MQD)), order)


def _shaped(module: nn.Module, x: Tensor, tiles: Tiles) -> Any:
    """What the module would make of x, wherever its own numbers are."""
    own = {name: tensor.to("meta") for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    return functional_call(module, own, (x, tiles) if isinstance(module, Tiled) else (x,))


def _counts(x: Tensor) -> str:
    return " × ".join(map(str, x.shape[1:]))


@contextmanager
def _watched(module: nn.Module, order: dict[int, Turns]) -> Iterator[None]:
    def begins(part: nn.Module, _: object) -> None:
        order[id(part)] = order.get(id(part), (count[0],))[0], count[0]
        count[0] += 1

    count = [len(order)]
    hooks = [part.register_forward_pre_hook(begins) for part in module.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
