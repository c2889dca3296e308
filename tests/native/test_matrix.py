"""Products of the kernels against plain torch, for every format and for sizes that fill no tile and no group."""

import pytest
import torch
from torch import Tensor, nn

from scops.native.library import library
from scops.native.matrix import GROUP, MOST_ROWS, Quantised, matrix_of, pack, product, rounded, unpack
from tests.conftest import close

needs_kernels = pytest.mark.skipif(library() is None, reason="no compiler here")
SIZES = [(16, 32), (5, 7), (50, 33), (33, 100), (17, 64)]


def linear(rows: int, cols: int, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    return nn.Linear(cols, rows, bias=bias).to(dtype)


def like_a_kernel(x_BC: Tensor) -> Tensor:
    """Vectors rounded to int8 by groups of 32, the slow way."""
    padded = nn.functional.pad(x_BC, (0, -x_BC.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    scale = padded.abs().amax(-1, keepdim=True) / 127
    whole = torch.where(scale > 0, padded * torch.where(scale > 0, 1 / scale, 0), 0).round()
    return (whole * scale).flatten(1)[:, : x_BC.shape[1]]


@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_packing_keeps_every_number(bits: int, rows: int, cols: int) -> None:
    whole, scales = rounded(torch.randn(rows, cols), bits)
    back, back_scales = unpack(*pack(whole, scales, bits))
    assert torch.equal(back, whole)
    assert torch.equal(back_scales, scales)


@torch.no_grad()
@pytest.mark.parametrize(("bits", "bits_lost"), [(8, 1 / 127 / 2), (4, 1 / 8)])
def test_rounding_errs_by_at_most_a_step_of_its_group(bits: int, bits_lost: float) -> None:
    weight_NC = torch.randn(20, 70) * torch.rand(20, 1)
    kept_NC = Quantised.of(_with(weight_NC), bits).weight(torch.float32)
    largest_NG = nn.functional.pad(weight_NC, (0, -70 % GROUP)).unflatten(1, (-1, GROUP)).abs().amax(-1)
    allowed_NC = largest_NG.repeat_interleave(GROUP, 1)[:, :70] * bits_lost * 1.01
    assert ((kept_NC - weight_NC).abs() <= allowed_NC).all()


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert not Quantised.of(_with(torch.zeros(3, 40)), 4).weight(torch.float32).any()


@torch.no_grad()
@needs_kernels
@pytest.mark.parametrize("count", [1, 2, 3, 7, 23, MOST_ROWS])
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_float32_product_equals_torch(rows: int, cols: int, count: int) -> None:
    projection, x_BC = linear(rows, cols), torch.randn(count, cols)
    assert close(product(matrix_of(projection), x_BC, torch.float32), projection(x_BC))


@torch.no_grad()
@needs_kernels
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_bfloat16_product_equals_the_sum_in_float32(rows: int, cols: int) -> None:
    projection, x_BC = linear(rows, cols, dtype=torch.bfloat16), torch.randn(5, cols).bfloat16()
    slow = nn.functional.linear(x_BC.float(), projection.weight.float(), projection.bias.float())
    assert close(product(matrix_of(projection), x_BC, torch.float32), slow)


@torch.no_grad()
@needs_kernels
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("count", [1, 4, 11])
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_quantised_product_equals_its_slow_twin(rows: int, cols: int, count: int, bits: int) -> None:
    projection, x_BC = Quantised.of(linear(rows, cols), bits), torch.randn(count, cols)
    slow = nn.functional.linear(like_a_kernel(x_BC), projection.weight(torch.float32), projection.bias)
    assert close(product(matrix_of(projection), x_BC, torch.float32), slow)


@torch.no_grad()
@needs_kernels
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_as_floats_are_those_of_plain_torch(bits: int, dtype: torch.dtype, monkeypatch) -> None:
    projection = Quantised.of(linear(37, 45), bits)
    fast = projection.weight(dtype)
    monkeypatch.setattr("scops.native.matrix.library", lambda: None)
    assert torch.equal(fast, projection.weight(dtype))


@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 4])
def test_few_vectors_and_many_meet_the_same_weights(bits: int) -> None:
    projection, x_BTC = Quantised.of(linear(21, 64), bits), torch.randn(3, 80, 64)
    whole = nn.functional.linear(x_BTC, projection.weight(torch.float32), projection.bias)
    assert close(projection(x_BTC), whole)  # 240 vectors
    few = projection(x_BTC[:1, :20])
    assert few.shape == (1, 20, 21)
    assert (few - whole[:1, :20]).abs().max() < 0.02 * whole.abs().max()  # vectors are rounded too


def test_moving_to_another_dtype_leaves_scales_and_data_alone() -> None:
    projection = Quantised.of(linear(16, 32), 8)
    moved = projection.to(torch.bfloat16)
    assert (moved.scales.dtype, moved.data.dtype, moved.bias.dtype) == (torch.float16, torch.uint8, torch.bfloat16)


def _with(weight_NC: Tensor) -> nn.Linear:
    made = nn.Linear(weight_NC.shape[1], weight_NC.shape[0], bias=False)
    made.weight = nn.Parameter(weight_NC)
    return made
