"""Attention within the documents of packed rows by torch's kernel for sequences of any lengths, one call for all of them
(FlashAttention-2, arXiv 2307.08691). On NVIDIA GPUs, in half precision, where torch is new enough to have it.
"""

# B rows, N query heads, K key heads, T tokens, H head width, R tokens of all rows, D documents
from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
WIDEST = 256
"""Numbers per head."""


@cache
def kernel() -> Callable[..., Any] | None:
    """torch's, looked for when it is first asked for; None where torch has none that takes grouped heads."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "enable_gqa" in signature(varlen_attn).parameters else None


def takes(q_BNTH: Tensor) -> bool:
    """Whether the kernel is there for these."""
    if not q_BNTH.is_cuda or q_BNTH.dtype not in HALVES or q_BNTH.shape[-1] > WIDEST or torch.version.hip is not None:
        return False
    return kernel() is not None and torch.cuda.get_device_capability(q_BNTH.device) >= (8, 0)


def attend_documents(
    q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, bounds_D1: Tensor, longest: int, *, scale: float | None = None
) -> Tensor:
    """(B, N, T, H), causal within each document. Grouped heads where K < N.

    Args:
        bounds_D1: int32, where each document begins among the tokens of all rows one behind the other, and the end.
        longest: tokens of the longest document.
    """
    call = kernel()
    assert call is not None, "attend_documents was called where takes() says no"
    q_RNH, k_RKH, v_RKH = (x.transpose(1, 2).flatten(0, 1) for x in (q_BNTH, k_BKTH, v_BKTH))
    out_RNH = call(
        q_RNH, k_RKH, v_RKH, bounds_D1, bounds_D1, longest, longest, scale=scale, window_size=(-1, 0),
        enable_gqa=q_BNTH.shape[1] != k_BKTH.shape[1],
    )  # fmt: skip
    return out_RNH.unflatten(0, (q_BNTH.shape[0], q_BNTH.shape[2])).transpose(1, 2)
