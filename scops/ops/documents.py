"""Attention within the documents of packed rows: documents of like length are one batch, and no dense mask is made."""

# B rows, N query heads, K key heads, T tokens, H head width, R tokens of all rows, S places of all groups, D documents
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scops.ops.masks import Documents, Mask
from scops.ops.untraced import untraced

SLACK = 8
"""Documents of a group are at most an eighth, or so many tokens, shorter than its longest."""


@dataclass(frozen=True)
class Grouped(Mask):
    """The same predicate as `documents`, and in which order its tokens make batches of documents.

    Args:
        order_S: flat positions, group by group; behind the end of a shorter document stands its last token again,
            which no token before it sees.
        inverse_R: where in `order_S` each token stands.
        sizes: documents and tokens per document of each group, the longest first.
        bounds_D1: int32, where each document begins among the tokens of all rows one behind the other, and the end.
    """

    documents: Documents
    order_S: Tensor
    inverse_R: Tensor
    sizes: tuple[tuple[int, int], ...]
    bounds_D1: Tensor

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.documents(b, h, q, k)


def grouped(documents: Documents, tokens: int, device: torch.device) -> Grouped:
    """Args:
    tokens: per row; padding counts to the last document of a row.
    """
    spans = [
        (row * tokens + start, end - start)
        for row, starts in enumerate(documents.starts)
        for start, end in zip(starts, (*starts[1:], tokens), strict=True)
    ]
    groups: list[tuple[int, list[tuple[int, int]]]] = []
    for first, length in sorted(spans, key=lambda span: -span[1]):
        if not groups or length < min(groups[-1][0] * 7 // 8, groups[-1][0] - SLACK):
            groups.append((length, []))
        groups[-1][1].append((first, length))
    places = [
        first + np.minimum(np.arange(longest), length - 1) for longest, members in groups for first, length in members
    ]
    order_S = np.concatenate(places)
    inverse_R = np.empty(len(documents.starts) * tokens, np.int64)
    inverse_R[order_S[::-1]] = np.arange(len(order_S))[::-1]  # of equal places the first counts
    sizes = tuple((len(members), longest) for longest, members in groups)
    bounds_D1 = np.array([*(first for first, _ in spans), len(inverse_R)], np.int32)
    return Grouped(
        documents,
        torch.from_numpy(order_S).to(device),
        torch.from_numpy(inverse_R).to(device),
        sizes,
        torch.from_numpy(bounds_D1).to(device),
    )


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Causal attention of (B, N, T, H) with (B, K, T, H) twice."""


@untraced
def attend_grouped(q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, groups: Grouped, causal: Attend) -> Tensor:
    """(B, N, T, H): what `causal` makes of each group of documents."""
    counts = [documents * length for documents, length in groups.sizes]
    pieces = [_Taken.apply(_flat(x), groups).split(counts) for x in (q_BNTH, k_BKTH, v_BKTH)]
    made = [
        _flat(causal(*(x_SNH.unflatten(0, size).transpose(1, 2) for x_SNH in piece)))
        for size, piece in zip(groups.sizes, zip(*pieces, strict=True), strict=True)
    ]
    out_RNH = _PutBack.apply(torch.cat(made), groups)
    return out_RNH.unflatten(0, (q_BNTH.shape[0], q_BNTH.shape[2])).transpose(1, 2)


def _flat(x_BNTH: Tensor) -> Tensor:
    return x_BNTH.transpose(1, 2).flatten(0, 1)


class _Taken(torch.autograd.Function):
    """x[order]. Repeated tokens have no gradient, because what they become is thrown away: so back is a gather too."""

    @staticmethod
    def forward(ctx: Any, x_RNH: Tensor, groups: Grouped) -> Tensor:
        ctx.groups = groups
        return x_RNH.index_select(0, groups.order_S)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.groups.inverse_R), None


class _PutBack(torch.autograd.Function):
    """y[inverse]"""

    @staticmethod
    def forward(ctx: Any, y_SNH: Tensor, groups: Grouped) -> Tensor:
        ctx.groups = groups
        return y_SNH.index_select(0, groups.inverse_R)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad_SNH = grads[0].new_zeros(len(ctx.groups.order_S), *grads[0].shape[1:])
        return grad_SNH.index_copy_(0, ctx.groups.inverse_R, grads[0]), None
