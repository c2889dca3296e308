"""The one place where attention is computed."""

# B rows, N query heads, K key heads, T queries, S keys, H head width
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from scops.ops import varlen
from scops.ops.blocked import blocked_attention, pays
from scops.ops.documents import Grouped, attend_grouped, grouped
from scops.ops.masks import Behind, Causal, Documents, Mask

Visible = Mask | Tensor | None
"""None: every query sees every key. Tensor: bool, broadcastable to (B, N, T, S). Mask: a predicate."""
Bias = Callable[[Tensor, Tensor], Tensor]
"""Places of queries (B, T) and of keys (B or 1, S) -> what is added to their scores, (B, N, T, S)."""


def attend(
    q_BNTH: Tensor,
    k_BKSH: Tensor,
    v_BKSH: Tensor,
    visible: Visible = None,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention; a query that may see nothing gets zeros. Grouped heads where K < N.

    Args:
        scale: of q k, H ** -0.5 when None.
        bias: added to the scores, in the dtype of q, broadcastable to (B, N, T, S).

    Returns:
        (B, N, T, H)
    """
    queries, keys, grouped_heads = q_BNTH.shape[2], k_BKSH.shape[2], q_BNTH.shape[1] != k_BKSH.shape[1]
    if bias is not None:
        return _with_bias(q_BNTH, k_BKSH, v_BKSH, visible, bias, scale)
    if isinstance(visible, Behind):
        visible = None if visible.all else visible.dense(q_BNTH.shape[0], queries, keys, q_BNTH.device)
    if queries == 1 and grouped_heads and _is_of_all_heads(visible):
        folded_BKTH = q_BNTH.unflatten(1, (k_BKSH.shape[1], -1)).flatten(2, 3)
        return attend(folded_BKTH, k_BKSH, v_BKSH, visible, scale=scale).flatten(1, 2)[:, :, None]
    if isinstance(visible, Documents):
        visible = grouped(visible, queries, q_BNTH.device)
    if isinstance(visible, Grouped) and varlen.takes(q_BNTH):
        return varlen.attend_documents(q_BNTH, k_BKSH, v_BKSH, visible.bounds_D1, visible.sizes[0][1], scale=scale)
    if isinstance(visible, Grouped):
        return attend_grouped(q_BNTH, k_BKSH, v_BKSH, visible, lambda q, k, v: attend(q, k, v, Causal(), scale=scale))
    causal = isinstance(visible, Causal) and queries == keys
    if (visible is None or causal) and pays(q_BNTH, k_BKSH, v_BKSH):
        return blocked_attention(q_BNTH, k_BKSH, v_BKSH, causal=causal, scale=scale)
    options: dict[str, Any] = {"scale": scale, "enable_gqa": grouped_heads}
    if visible is None or causal:
        return scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, is_causal=visible is not None, **options)
    if isinstance(visible, Mask):
        visible = visible.dense(q_BNTH.shape[0], queries, keys, q_BNTH.device)
    out_BNTH = scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, attn_mask=visible, **options)
    return torch.where(visible.any(-1, keepdim=True), out_BNTH, 0.0)


def _with_bias(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, visible: Visible, bias: Tensor, scale: float | None
) -> Tensor:
    """One dense mask of both."""
    if isinstance(visible, Mask):
        visible = visible.dense(q_BNTH.shape[0], q_BNTH.shape[2], k_BKSH.shape[2], q_BNTH.device)
    options: dict[str, Any] = {"scale": scale, "enable_gqa": q_BNTH.shape[1] != k_BKSH.shape[1]}
    if visible is None:
        return scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, attn_mask=bias, **options)
    added = bias.masked_fill(~visible, -torch.inf)
    out_BNTH = scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, attn_mask=added, **options)
    return torch.where(visible.any(-1, keepdim=True), out_BNTH, 0.0)


def _is_of_all_heads(visible: Visible) -> bool:
    """Whether one query's heads may ask as if they were queries: 16 times faster in bfloat16 on a CPU than grouped heads."""
    return visible is None or (isinstance(visible, Tensor) and visible.shape[-3:-1] == (1, 1))


def realise(visible: Visible, *, rows: int, queries: int, keys: int, device: torch.device) -> Visible:
    """What all layers of one forward share: a mask that has a fast path stays itself, any other becomes dense once."""
    if isinstance(visible, Documents):
        return grouped(visible, queries, device)
    whole = isinstance(visible, Behind) or (isinstance(visible, Causal) and queries == keys)
    if whole or not isinstance(visible, Mask):
        return visible
    return visible.dense(rows, queries, keys, device)


def side_by_side(
    first: Visible, second: Visible, *, rows: int, queries: int, keys: tuple[int, int], device: Any
) -> Visible:
    """What is seen of two sets of keys put one behind the other for one softmax; None where that is all.

    Args:
        keys: in each set.
    """
    sets = [None if isinstance(visible, Behind) and visible.all else visible for visible in (first, second)]
    if sets == [None, None]:
        return None
    return torch.cat([_dense(*one, rows, queries, device) for one in zip(sets, keys, strict=True)], dim=-1)


def _dense(visible: Visible, keys: int, rows: int, queries: int, device: Any) -> Tensor:
    """bool (B, 1, T, S)."""
    if isinstance(visible, Mask):
        return visible.dense(rows, queries, keys, device)
    if visible is None:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device).expand(rows, 1, queries, keys)
    return visible.expand(rows, 1, queries, keys)
