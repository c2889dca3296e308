"""The one place where attention is computed."""

# B rows, N query heads, K key heads, T queries, S keys, H head width
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from scops.ops.masks import Causal, Documents, Mask

Visible = Mask | Tensor | None
"""None: every query sees every key. Tensor: bool, broadcastable to (B, N, T, S). Mask: a predicate."""


def attend(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, visible: Visible = None, *, scale: float | None = None
) -> Tensor:
    """Scaled dot-product attention; a query that may see nothing gets zeros. Grouped heads where K < N.

    Args:
        scale: of q k, H ** -0.5 when None.

    Returns:
        (B, N, T, H)
    """
    options: dict[str, Any] = {"scale": scale, "enable_gqa": q_BNTH.shape[1] != k_BKSH.shape[1]}
    if q_BNTH.shape[2] == 1 and options["enable_gqa"] and _is_of_all_heads(visible):
        folded_BKTH = q_BNTH.unflatten(1, (k_BKSH.shape[1], -1)).flatten(2, 3)
        return attend(folded_BKTH, k_BKSH, v_BKSH, visible, scale=scale).flatten(1, 2)[:, :, None]
    if visible is None:
        return scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, **options)
    if isinstance(visible, Causal) and q_BNTH.shape[2] == k_BKSH.shape[2]:
        return scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, is_causal=True, **options)
    if isinstance(visible, Documents):
        return _attend_documents(q_BNTH, k_BKSH, v_BKSH, visible, options)
    if isinstance(visible, Mask):
        visible = visible.dense(q_BNTH.shape[0], q_BNTH.shape[2], k_BKSH.shape[2], q_BNTH.device)
    out_BNTH = scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, attn_mask=visible, **options)
    return torch.where(visible.any(-1, keepdim=True), out_BNTH, 0.0)


def _is_of_all_heads(visible: Visible) -> bool:
    """Whether one query's heads may ask as if they were queries: 16 times faster in bfloat16 on a CPU than grouped heads."""
    return visible is None or (isinstance(visible, Tensor) and visible.shape[-3:-1] == (1, 1))


def realise(visible: Visible, *, rows: int, queries: int, keys: int, device: torch.device) -> Visible:
    """What all layers of one forward share: a mask that has a fast path stays itself, any other becomes dense once."""
    if not isinstance(visible, Mask) or isinstance(visible, Documents):
        return visible
    if isinstance(visible, Causal) and queries == keys:
        return visible
    return visible.dense(rows, queries, keys, device)


def _attend_documents(q: Tensor, k: Tensor, v: Tensor, visible: Documents, options: dict[str, Any]) -> Tensor:
    """Document by document: 4-5 times faster on a CPU than one dense mask over the packed row.

    Split, not sliced: the gradients of the pieces are joined once, instead of each being added to a whole row of zeros.
    """
    rows = []
    for starts, *row in zip(visible.starts, q.split(1), k.split(1), v.split(1), strict=True):
        lengths = [end - start for start, end in zip(starts, (*starts[1:], q.shape[2]), strict=True)]
        pieces = zip(*(x.split(lengths, dim=2) for x in row), strict=True)
        rows.append(
            torch.cat([scaled_dot_product_attention(*piece, is_causal=True, **options) for piece in pieces], dim=2)
        )
    return torch.cat(rows)
