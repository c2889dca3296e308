"""Attention of many new tokens per row over the pages of a cache."""

# B rows, N query heads, K key heads, T new tokens, P pages, S tokens per page, H head width
import ctypes
from typing import cast

import torch
from torch import Tensor

from scops.native.library import library


class PagesStruct(ctypes.Structure):
    _fields_ = (
        ("page", ctypes.c_int64), ("heads", ctypes.c_int64), ("width", ctypes.c_int64), ("bfloat16", ctypes.c_int64),
        ("keys", ctypes.c_void_p), ("values", ctypes.c_void_p), ("table", ctypes.c_void_p), ("lengths", ctypes.c_void_p),
        ("longest", ctypes.c_int64), ("window", ctypes.c_int64),
    )  # fmt: skip


def pages_of(k_PKSH: Tensor, v_PKSH: Tensor, table_BL: Tensor, lengths_B: Tensor, window: int | None) -> PagesStruct:
    """A kernel's view; the tensors must outlive it."""
    _, heads, page, width = k_PKSH.shape
    return PagesStruct(
        page, heads, width, k_PKSH.dtype is torch.bfloat16, k_PKSH.data_ptr(), v_PKSH.data_ptr(),
        table_BL.data_ptr(), lengths_B.data_ptr(), table_BL.shape[1], window or 0,
    )  # fmt: skip


def takes(q_BNTH: Tensor) -> bool:
    """bfloat16 on a processor that multiplies it, usual head widths, nothing to be differentiated, more than a few tokens."""
    fits = q_BNTH.device.type == "cpu" and q_BNTH.dtype is torch.bfloat16 and q_BNTH.shape[2] > 1
    kernels = library() if fits and not torch.is_grad_enabled() else None
    return kernels is not None and bool(kernels.prefill_takes_width(q_BNTH.shape[3]))


def attend_pages(
    q_BNTH: Tensor,
    k_PKSH: Tensor,
    v_PKSH: Tensor,
    *,
    table_BL: Tensor,
    lengths_B: Tensor,
    tokens_B: Tensor,
    window: int | None = None,
) -> Tensor:
    """Token t of row b sees the first lengths_B[b] + t + 1 tokens of its pages (of these the last `window`).

    Args:
        table_BL: int32, the pages of each row in order.
        lengths_B: int64, tokens before the new ones.
        tokens_B: int64, how many of the T new tokens of each row are real; what stands behind them gets zeros.
    Returns:
        (B, N, T, H)
    """
    kernels, (rows, heads, tokens, width) = cast(ctypes.CDLL, library()), q_BNTH.shape
    table_BL, lengths_B, tokens_B = table_BL.contiguous(), lengths_B.contiguous(), tokens_B.contiguous()
    pages = pages_of(k_PKSH, v_PKSH, table_BL, lengths_B, window)
    q_BTNH, keys = q_BNTH.transpose(1, 2).contiguous(), int((lengths_B + tokens_B).max())
    y_BTNH = torch.zeros_like(q_BTNH)
    room = torch.empty(kernels.prefill_room(ctypes.byref(pages), rows, keys), dtype=torch.uint8)
    kernels.prefill(
        ctypes.byref(pages), rows, heads, tokens, tokens_B.data_ptr(), keys, q_BTNH.data_ptr(), y_BTNH.data_ptr(),
        width**-0.5, room.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return y_BTNH.transpose(1, 2)
