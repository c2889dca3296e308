"""The tables of places that mPLUG-Owl2's files keep beside every layer of the abstractor; ours computes them (FixedPlaces)."""

# Q queries, P features per picture, D width
from functools import partial

import numpy as np
import torch
from torch import Tensor

from scops.checkpoints.keymap import Rule, WithTables, rule


def places_beside(queries: int, side: int, before: int) -> Rule:
    """The queries' projection of one layer, with the tables that theirs has beside it; as in FixedPlaces."""
    theirs = "encoder.layers.{i}.crossattention.attention."
    names = (theirs + "query.weight", theirs + "q_pos_embed", theirs + "k_pos_embed")
    return rule(names, ("layers.{i}.q.weight",), WithTables(partial(tables, queries, side, before)))


def tables(queries: int, side: int, before: int, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(Q, D) and (P, D), to the bit as the authors' files hold them: by numpy, in float32 throughout."""
    width, places = weight.shape[-1], np.arange(side, dtype=np.float32)
    column, row = _sines(np.tile(places, side), width // 2), _sines(np.repeat(places, side), width // 2)
    features = np.concatenate([np.zeros((before, width), np.float32), np.concatenate([column, row], 1)])
    return torch.from_numpy(_sines(np.arange(queries, dtype=np.float32), width)), torch.from_numpy(features)


def _sines(places: np.ndarray, width: int) -> np.ndarray:
    power = np.arange(width // 2, dtype=np.float32) / np.float32(width / 2)
    angles = places[:, None] * (1 / 10000**power)
    return np.concatenate([np.sin(angles), np.cos(angles)], 1)
