"""Relative positions in buckets (T5, arXiv 1910.10683, section 2.1): near distances one by one, far ones together."""

from math import log

import torch
from torch import Tensor


def two_sided(distance: Tensor, buckets: int, farthest: int) -> Tensor:
    """Numbers 0 to buckets - 1 of key's place minus query's place: the first half for keys at or before the query, the
    second for those behind it."""
    behind = (distance > 0).long() * (buckets // 2)
    return behind + _numbered(distance.abs(), buckets // 2, farthest)


def one_sided(distance: Tensor, buckets: int, farthest: int) -> Tensor:
    """The same where no query sees a key behind it: all buckets are for those before it."""
    return _numbered((-distance).clamp(min=0), buckets, farthest)


def _numbered(away: Tensor, buckets: int, farthest: int) -> Tensor:
    """Half of the buckets for single distances, the others growing with the logarithm up to `farthest` and beyond."""
    single = buckets // 2
    grown = torch.log(away.float() / single) / log(farthest / single) * (buckets - single)
    far = (single + grown.clamp(min=0).long()).clamp(max=buckets - 1)
    return torch.where(away < single, away, far)
