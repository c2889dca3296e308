"""RMSNorm, SwiGLU and ropes where something learns: one pass over memory each way, and nothing kept but what came in."""

# R rows, D width; B rows, N heads, T tokens, H head width, R turned channels
import ctypes
from typing import Any, cast

import torch
from torch import Tensor, nn

from scops.native.library import library
from scops.native.matrix import FORMATS

PLAIN = (Tensor, nn.Parameter)
"""What lies at one place in memory; other tensors (traced, spread over processes) do not."""


def takes(*inputs: Tensor) -> bool:
    """On a CPU, with a gradient to come, where torch does not compile: what it compiles it fuses itself."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or not any(x.requires_grad for x in inputs):
        return False
    first = inputs[0]
    plain = all(type(x) in PLAIN and (x.device, x.dtype) == (first.device, first.dtype) for x in inputs)
    return plain and first.device.type == "cpu" and first.dtype in FORMATS and library() is not None


class RmsNorm(torch.autograd.Function):
    """x weight / sqrt(mean of x^2 + eps), (..., D); rounded once, at the end."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        x, weights_D = x.contiguous(), weight_D.float().contiguous()
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        y, inverse_R = torch.empty_like(x), torch.empty(rows)
        _kernels().rms_norm(
            x.data_ptr(), weights_D.data_ptr(), y.data_ptr(), inverse_R.data_ptr(), rows, width, eps, *_about(x)
        )
        ctx.save_for_backward(x, weight_D, inverse_R)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight_D, inverse_R = ctx.saved_tensors
        dy, dx, weights_D = grads[0].contiguous(), torch.empty_like(x), weight_D.float().contiguous()
        sums_TD = torch.zeros(torch.get_num_threads(), x.shape[-1]) if ctx.needs_input_grad[1] else None
        _kernels().rms_norm_back(
            x.data_ptr(), weights_D.data_ptr(), inverse_R.data_ptr(), dy.data_ptr(), dx.data_ptr(),
            None if sums_TD is None else sums_TD.data_ptr(), len(inverse_R), x.shape[-1], *_about(x),
        )  # fmt: skip
        return dx, None if sums_TD is None else sums_TD.sum(0).to(weight_D.dtype), None


class SwiGluGate(torch.autograd.Function):
    """silu(gate) up; rounded once, at the end."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        _kernels().swiglu(gate.data_ptr(), up.data_ptr(), y.data_ptr(), gate.numel(), *_about(gate))
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        dy, dgate, dup = grads[0].contiguous(), torch.empty_like(gate), torch.empty_like(up)
        places = [x.data_ptr() for x in (gate, up, dy, dgate, dup)]
        _kernels().swiglu_back(*places, gate.numel(), *_about(gate))
        return dgate, dup


class Turned(torch.autograd.Function):
    """As scops.ops.rope.turned, of (B, N, T, H); the way back turns by the same angles the other way."""

    @staticmethod
    def forward(ctx: Any, x_BNTH: Tensor, cos_B1TR: Tensor, sin_B1TR: Tensor) -> Tensor:
        cos_B1TR, sin_B1TR = cos_B1TR.contiguous(), sin_B1TR.contiguous()
        ctx.save_for_backward(cos_B1TR, sin_B1TR)
        return _turned(x_BNTH, cos_B1TR, sin_B1TR, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos_B1TR, sin_B1TR = ctx.saved_tensors
        return _turned(grads[0], cos_B1TR, sin_B1TR, -1.0), None, None


def _turned(x_BNTH: Tensor, cos_B1TR: Tensor, sin_B1TR: Tensor, sign: float) -> Tensor:
    x_BTNH = x_BNTH.transpose(1, 2).contiguous()
    y_BTNH = torch.empty_like(x_BTNH)
    places = [x.data_ptr() for x in (x_BTNH, cos_B1TR, sin_B1TR, y_BTNH)]
    rows, *sizes = x_BTNH.shape
    _kernels().turn_pairs(*places, rows, len(cos_B1TR) > 1, *sizes, cos_B1TR.shape[-1], sign, *_about(x_BTNH))
    return y_BTNH.transpose(1, 2)


def _about(x: Tensor) -> tuple[bool, int]:
    return x.dtype is torch.bfloat16, torch.get_num_threads()


def _kernels() -> ctypes.CDLL:
    return cast(ctypes.CDLL, library())
