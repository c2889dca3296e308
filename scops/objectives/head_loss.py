"""The language head and its cross-entropy in chunks of rows, so that the scores of all rows at once never exist."""

# R supervised positions, D width, V vocabulary
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64 * 2**20
"""Bytes of a chunk's scores in float32; three times as many are alive at once."""


def head_loss(
    head: Callable[[Tensor], Tensor], hidden_RD: Tensor, ids_R: Tensor, *, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy in float32: its sum, to be differentiated, and that of each row, not to be.

    The gradients of the hidden states and of whatever learns in the head (tied or not, with an adapter or without) are made
    while a chunk's scores are there (Liger Kernel, arXiv 2410.10989, section 3.2); `backward` only multiplies them.

    Args:
        head: (R, D) -> (R, V), row by row.
        smoothing: share of each target that is spread over all words.
    """
    chunks = list(zip(*(x.split(_rows_at_once(head, hidden_RD)) for x in (hidden_RD, ids_R)), strict=True))
    losses, hidden_grads = [], []
    learns: list[Tensor] = []
    sums: list[Tensor] = []
    for part, ids in chunks:
        hidden = part.detach().requires_grad_(part.requires_grad)
        chunk_R = F.cross_entropy(head(hidden).float(), ids, reduction="none", label_smoothing=smoothing)
        losses.append(chunk_R.detach())
        if not chunk_R.requires_grad:
            continue
        learns = learns or [leaf for leaf in _leaves(chunk_R) if leaf is not hidden]
        inputs = [hidden] * hidden.requires_grad + learns
        others = list(torch.autograd.grad(chunk_R.sum(), inputs))
        hidden_grads += [others.pop(0)] if hidden.requires_grad else []
        sums = [s.add_(g) for s, g in zip(sums, others, strict=True)] if sums else [_summand(g, chunks) for g in others]
    losses_R = torch.cat(losses)
    grads = [torch.cat(hidden_grads)] if hidden_grads else []
    return _Known.apply(losses_R.sum(), grads + sums, *[hidden_RD] * len(grads), *learns), losses_R


class _Known(torch.autograd.Function):
    """A number whose gradients are known; it can go backward once, because they are scaled where they are."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, grads: list[Tensor], *inputs: Tensor) -> Tensor:
        ctx.grads, ctx.dtypes = grads, [x.dtype for x in inputs]
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        made = [known.mul_(grads[0]).to(dtype) for known, dtype in zip(ctx.grads, ctx.dtypes, strict=True)]
        del ctx.grads
        return None, None, *made


def _rows_at_once(head: Callable[[Tensor], Tensor], hidden_RD: Tensor) -> int:
    with torch.no_grad():
        vocabulary = head(hidden_RD[:1]).shape[-1]
    return max(1, CHUNK // (4 * vocabulary))


def _summand(grad: Tensor, chunks: list[Any]) -> Tensor:
    """Many chunks are added up in float32."""
    return grad.float() if len(chunks) > 1 else grad


def _leaves(made: Tensor) -> list[Tensor]:
    """What learns and was used to make it."""
    found, seen, waiting = [], set(), [made.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found
