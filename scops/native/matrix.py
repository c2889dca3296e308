"""Weights as the kernels read them: as torch keeps them, or as int8 or int4 by groups of 32 columns.

Rounding is to the nearest, symmetric, with one float16 scale per row and group: 8.5 and 4.5 bits per weight, the sizes of
llama.cpp's Q8_0 and Q4_0.
"""

# N rows (outputs), C columns (inputs), G groups of 32 columns, X tiles of 16 rows
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from scops.native.library import library

TILE, GROUP = 16, 32
FLOAT32, BFLOAT16, INT8, INT4 = range(4)
FORMATS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16}
BITS = {"int8": 8, "int4": 4}
MOST_ROWS = 192
"""Vectors that a kernel takes at a time."""


class MatrixStruct(ctypes.Structure):
    _fields_ = (
        ("format", ctypes.c_int64), ("rows", ctypes.c_int64), ("cols", ctypes.c_int64),
        ("data", ctypes.c_void_p), ("scales", ctypes.c_void_p), ("bias", ctypes.c_void_p),
    )  # fmt: skip


@dataclass(frozen=True)
class Matrix:
    """A kernel's view of a projection; holds the tensors that it points into."""

    struct: MatrixStruct
    kept: tuple[Tensor, ...]

    @property
    def format(self) -> int:
        return self.struct.format


def matrix_of(projection: nn.Module) -> Matrix | None:
    """None for what kernels cannot read: another type (an adapter), dtype or device, or rows with gaps."""
    if type(projection) is Quantised:
        data, scales = projection.data, projection.scales
        code = INT8 if projection.bits == 8 else INT4
    elif type(projection) is nn.Linear:
        data, scales = projection.weight.detach(), None
        code = FORMATS.get(data.dtype)
    else:
        return None
    if code is None or data.device.type != "cpu" or not data.is_contiguous():
        return None
    bias = None if projection.bias is None else projection.bias.detach().float().contiguous()
    kept = tuple(t for t in (data, scales, bias) if t is not None)
    place = lambda t: None if t is None else t.data_ptr()
    rows, cols = projection.out_features, projection.in_features
    return Matrix(MatrixStruct(code, rows, cols, data.data_ptr(), place(scales), place(bias)), kept)


def product(matrix: Matrix, x_BC: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, C) -> (B, N) in a dtype, at most 192 rows; sums are float32."""
    kernels, x_BC = cast(ctypes.CDLL, library()), x_BC.contiguous()
    y_BN = torch.empty(len(x_BC), matrix.struct.rows, dtype=dtype)
    room = torch.empty(kernels.product_room(ctypes.byref(matrix.struct), len(x_BC)), dtype=torch.uint8)
    kernels.product(
        ctypes.byref(matrix.struct), len(x_BC), x_BC.data_ptr(), x_BC.dtype is torch.bfloat16, y_BN.data_ptr(),
        dtype is torch.bfloat16, room.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return y_BN


class Quantised(nn.Module):
    """A linear projection with int8 or int4 weights.

    forward: (..., C) -> (..., N), in the dtype of x

    Few vectors are also rounded, to int8 by groups of 32; many meet the weights as floats again.

    Args:
        data: uint8; int8 (X, C / 4, 16, 4) holds weight + 128; int4 (X, G, 4, 16, 4) holds weight + 8, columns 4 j + i of
            the group in the low half, 16 columns on in the high half.
        scales: float16 (X, G, 16).
    """

    def __init__(self, data: Tensor, scales: Tensor, *, rows: int, cols: int, bias: nn.Parameter | None = None):
        super().__init__()
        self.register_buffer("data", data)
        self.register_buffer("scales", scales)
        self.data: Tensor
        self.scales: Tensor
        self.bias = bias
        self.out_features, self.in_features = rows, cols

    @property
    def bits(self) -> int:
        return 8 if self.data.ndim == 4 else 4

    @classmethod
    def of(cls, linear: nn.Linear, bits: int) -> "Quantised":
        data, scales = pack(*rounded(linear.weight.detach(), bits), bits)
        return cls(data, scales, rows=linear.out_features, cols=linear.in_features, bias=linear.bias)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The weights that it computes with, (N, C)."""
        matrix = matrix_of(self) if dtype in FORMATS and library() else None
        if matrix is not None:
            weight_NC = torch.empty(self.out_features, self.in_features, dtype=dtype)
            pointers = ctypes.byref(matrix.struct), weight_NC.data_ptr()
            cast(ctypes.CDLL, library()).floats(*pointers, dtype is torch.bfloat16, torch.get_num_threads())
            return weight_NC
        whole_NGi, scales_NG = unpack(self.data, self.scales)
        weights_NC = (whole_NGi * scales_NG[..., None].float()).flatten(1)
        return weights_NC[: self.out_features, : self.in_features].to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        vectors = x.shape[:-1].numel()
        if 0 < vectors <= MOST_ROWS and x.dtype in FORMATS and not torch.is_grad_enabled() and library():
            matrix = matrix_of(self)
            if matrix is not None:
                return product(matrix, x.flatten(0, -2), x.dtype).unflatten(0, x.shape[:-1])
        return nn.functional.linear(x, self.weight(x.dtype), self.bias)

    def _apply(self, fn: Callable, recurse: bool = True) -> "Quantised":
        """Moves with its module; `.to(dtype)` leaves what the kernels read as it is."""
        scales = self.scales
        super()._apply(fn, recurse)
        if self.scales.dtype != scales.dtype:
            self.scales = scales.to(self.scales.device)
        return self

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.bits} bits"


def rounded(weight_NC: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Whole numbers (N', G, 32) int16 and scales (N', G) float16; rows and columns padded with zeros to full tiles and groups."""
    rows, cols = weight_NC.shape
    padded = nn.functional.pad(weight_NC.float(), (0, -cols % GROUP, 0, -rows % TILE))
    groups_NGi = padded.unflatten(1, (-1, GROUP))
    if bits == 8:
        scales_NG = (groups_NGi.abs().amax(-1) / 127).half()
    else:  # the largest of a group, with its sign, lies at -8
        largest = groups_NGi.gather(-1, groups_NGi.abs().argmax(-1, keepdim=True))[..., 0]
        scales_NG = (largest / -8).half()
    inverse = torch.where(scales_NG == 0, 0.0, 1 / scales_NG.float())
    most = 2 ** (bits - 1)
    return (groups_NGi * inverse[..., None]).round().clamp(-most, most - 1).to(torch.int16), scales_NG


def pack(whole_NGi: Tensor, scales_NG: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """To the tiles of `Quantised`."""
    tiles = whole_NGi.unflatten(0, (-1, TILE)).unflatten(-1, (8, 4))  # (X, 16, G, 8, 4)
    tiles = (tiles.permute(0, 2, 3, 1, 4) + 2 ** (bits - 1)).to(torch.uint8)  # (X, G, 8, 16, 4)
    data = tiles.flatten(1, 2) if bits == 8 else tiles[:, :, :4] | (tiles[:, :, 4:] << 4)
    return data.contiguous(), scales_NG.unflatten(0, (-1, TILE)).transpose(1, 2).contiguous()


def unpack(data: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """`pack` undone."""
    if data.ndim == 4:
        tiles, offset = data.unflatten(1, (-1, 8)), 128
    else:
        tiles, offset = torch.cat([data & 15, data >> 4], 2), 8
    whole = tiles.permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1).to(torch.int16) - offset
    return whole, scales.transpose(1, 2).flatten(0, 1)
