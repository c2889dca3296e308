"""What stands between products in training: values and gradients of the kernels against torch in double precision."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import rms_norm, silu

from scops.native.learning import RmsNorm, SwiGluGate, Turned, takes
from scops.native.library import library
from scops.nn.feed_forward import SwiGlu
from scops.nn.norm import RMSNorm
from scops.ops.rope import plain, turned

pytestmark = pytest.mark.skipif(library() is None, reason="no compiler here")
NEAR = {torch.float32: 2e-6, torch.bfloat16: 5e-3}
"""Of the largest number: one rounding."""


def found(call: Callable[..., Tensor], inputs: list[Tensor], back: Tensor) -> list[Tensor]:
    """A result and its gradients by what learns."""
    inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
    made = call(*inputs)
    made.backward(back.to(made.dtype))
    return [made.detach(), *(x.grad for x in inputs if x.requires_grad)]


def equal(mine: list[Tensor], exact: list[Tensor]) -> bool:
    dtype = mine[0].dtype
    return all(
        a.dtype == dtype and (a.double() - b).abs().max() <= NEAR[dtype] * b.abs().max()
        for a, b in zip(mine, exact, strict=True)
    )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("shape", [(1, 5), (3, 7, 37), (0, 16), (2, 5, 4, 64)])
@pytest.mark.parametrize("dtype", NEAR)
def test_norms_have_torchs_values_and_gradients(
    dtype: torch.dtype, shape: tuple[int, ...], frozen: bool, threads: int
) -> None:
    x = (torch.randn(shape) * 3).to(dtype).requires_grad_()
    weight_D = torch.randn(shape[-1]).to(dtype).requires_grad_(not frozen)
    back, before = torch.randn(shape).to(dtype), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        mine = found(lambda x, w: RmsNorm.apply(x, w, 1e-3), [x, weight_D], back)
    finally:
        torch.set_num_threads(before)
    doubled = [x.detach().double().requires_grad_(), weight_D.detach().double().requires_grad_(not frozen)]
    exact = found(lambda x, w: rms_norm(x, shape[-1:], w, 1e-3), doubled, back)
    assert [a.shape for a in mine] == [b.shape for b in exact]
    assert not x.numel() or equal(mine, exact)


@pytest.mark.parametrize("dtype", NEAR)
def test_gates_have_torchs_values_and_gradients(dtype: torch.dtype) -> None:
    gate, up = (torch.randn(3, 41, 5).to(dtype).transpose(0, 1).requires_grad_() for _ in range(2))
    with torch.no_grad():
        gate[0, 0] = torch.tensor([0.0, 90.0, -90.0, 300.0, -300.0])
    back = torch.randn(41, 3, 5).to(dtype)
    doubled = [x.detach().double().requires_grad_() for x in (gate, up)]
    assert equal(found(SwiGluGate.apply, [gate, up], back), found(lambda g, u: silu(g) * u, doubled, back))


def test_a_gate_alone_may_learn() -> None:
    gate, up = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)
    mine, exact = (found(call, [gate, up], torch.ones(3, 5)) for call in (SwiGluGate.apply, lambda g, u: silu(g) * u))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, exact, strict=True))


@pytest.mark.parametrize(("rows", "part"), [(3, 8), (1, 8), (3, 6)])
@pytest.mark.parametrize("dtype", NEAR)
def test_turned_pairs_have_the_ropes_values_and_gradients(dtype: torch.dtype, rows: int, part: int) -> None:
    """Angles of each row or of all alike, of all channels or the first."""
    x_BNTH = torch.randn(3, 5, 4, 8).to(dtype).transpose(1, 2).requires_grad_()
    positions_BT = torch.randint(0, 99, (rows, 5))
    cos_B1TR, sin_B1TR = (x.to(dtype) for x in plain(part).turns(positions_BT))
    back = torch.randn(3, 4, 5, 8).to(dtype)
    mine = found(lambda x: Turned.apply(x, cos_B1TR, sin_B1TR), [x_BNTH], back)
    doubled = x_BNTH.detach().double().requires_grad_()
    assert equal(mine, found(lambda x: turned(x, cos_B1TR.double(), sin_B1TR.double()), [doubled], back))


def test_modules_take_the_kernels_where_they_learn_and_torch_elsewhere() -> None:
    norm, feed, x = RMSNorm(24, 1e-6), SwiGlu(24, 40), torch.randn(2, 24)
    assert isinstance(norm, nn.RMSNorm)
    assert type(norm(x).grad_fn).__name__ == "RmsNormBackward"
    with torch.no_grad():
        assert torch.equal(norm(x), nn.RMSNorm(24, 1e-6)(x))
        assert not takes(x, norm.weight)
    frozen = norm.requires_grad_(False)(x)
    assert frozen.grad_fn is None
    assert takes(feed.gate(x))
    assert not takes(feed.gate(x), x.double())
    assert not takes(x.double().requires_grad_())


def test_tensors_without_a_place_are_torchs() -> None:
    with FakeTensorMode():
        x = torch.randn(2, 24, requires_grad=True)
        assert not takes(x)
        assert RMSNorm(24, 1e-6)(x).shape == (2, 24)


def test_without_a_library_torch_computes(monkeypatch) -> None:
    monkeypatch.setattr("scops.native.learning.library", lambda: None)
    x = torch.randn(2, 24, requires_grad=True)
    assert "RmsNormBackward" not in type(RMSNorm(24, 1e-6)(x).grad_fn).__name__
    assert "SwiGlu" not in type(SwiGlu(24, 40)(x).grad_fn).__name__


@pytest.mark.parametrize("dtype", NEAR)
def test_what_torch_compiles_it_fuses_itself(dtype: torch.dtype) -> None:
    norm = RMSNorm(24, 1e-6).to(dtype)
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    assert "RmsNormBackward" not in type(compiled(torch.randn(2, 24, dtype=dtype)).grad_fn).__name__
