"""Attention by blocks of queries, and by groups of documents, against torch's own attention with a dense mask."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from scops.ops import attention
from scops.ops.attention import attend, realise
from scops.ops.blocked import BLOCK, blocked_attention, pays
from scops.ops.documents import SLACK, Grouped, grouped
from scops.ops.masks import Causal, Documents
from tests.conftest import close


def heads(rows: int, queries: int, keys: int, *, dtype: torch.dtype = torch.float32, of: tuple[int, int] = (6, 2)):
    """q, k, v as projections leave them: (B, T, N, H) in memory."""
    shapes = ((queries, of[0]), (keys, of[1]), (keys, of[1]))
    made = [torch.randn(rows, length, heads, 5, dtype=dtype).transpose(1, 2) for length, heads in shapes]
    return [x.detach().requires_grad_() for x in made]


def gradients(made: Tensor, grad: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [made.detach(), *torch.autograd.grad(made, inputs, grad)]


@pytest.mark.parametrize("queries", [1, 2, 7, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
@pytest.mark.parametrize("groups", [(6, 2), (3, 3), (4, 1)])
def test_causal_blocks_equal_torchs_attention_forward_and_back(queries: int, groups: tuple[int, int]) -> None:
    inputs, grad = heads(3, queries, queries, of=groups), torch.randn(3, groups[0], queries, 5)
    theirs = scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True, scale=0.7)
    ours = blocked_attention(*inputs, causal=True, scale=0.7)
    for a, b in zip(gradients(ours, grad, inputs), gradients(theirs, grad, inputs), strict=True):
        assert close(a, b)


@pytest.mark.parametrize(("queries", "keys"), [(3, 11), (BLOCK + 2, 7), (5, 2 * BLOCK)])
def test_blocks_that_see_every_key_equal_torchs_attention(queries: int, keys: int) -> None:
    inputs, grad = heads(2, queries, keys), torch.randn(2, 6, queries, 5)
    theirs = scaled_dot_product_attention(*inputs, enable_gqa=True)
    for a, b in zip(
        gradients(blocked_attention(*inputs, causal=False), grad, inputs),
        gradients(theirs, grad, inputs),
        strict=True,
    ):
        assert close(a, b)


def test_bfloat16_learns_by_blocks_on_a_cpu_and_is_as_near_to_float32_as_torchs_own() -> None:
    inputs, grad = heads(2, 70, 70, dtype=torch.bfloat16), torch.randn(2, 6, 70, 5)
    exact = [x.detach().float().requires_grad_() for x in inputs]
    expected = gradients(attend(*exact, Causal()), grad, exact)
    assert pays(*inputs)
    assert not pays(*exact)
    with torch.no_grad():
        assert not pays(*inputs)
    ours = gradients(attend(*inputs, Causal()), grad.bfloat16(), inputs)
    theirs = gradients(scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True), grad.bfloat16(), inputs)
    for mine, other, right in zip(ours, theirs, expected, strict=True):
        off, allowed = ((x.float() - right).abs().max() / right.abs().max() for x in (mine, other))
        assert off <= max(2 * allowed, 8e-3)


def test_a_sequence_of_one_block_keeps_its_probabilities_and_a_longer_one_does_not() -> None:
    for queries, kept in ((BLOCK, 4), (BLOCK + 1, 3)):
        shapes: list[torch.Size] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: shapes.append(x.shape) or x, lambda x: x):
            blocked_attention(*heads(1, queries, queries), causal=True)
        assert len(shapes) == kept


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_groups_of_documents_equal_the_dense_mask_forward_and_back(seed: int, dtype: torch.dtype) -> None:
    dice = np.random.default_rng(seed)
    rows, tokens = int(dice.integers(1, 4)), int(dice.integers(2, 90))
    starts = [sorted({0, *dice.integers(0, tokens, int(dice.integers(0, 9))).tolist()}) for _ in range(rows)]
    mask = Documents(tuple(map(tuple, starts)))
    inputs, grad = heads(rows, tokens, tokens, dtype=dtype), torch.randn(rows, 6, tokens, 5).to(dtype)
    exact = [x.detach().float().requires_grad_() for x in inputs]
    dense = mask.dense(rows, tokens, tokens, "cpu")
    theirs = gradients(attend(*exact, dense), grad.float(), exact)
    seen = realise(mask, rows=rows, queries=tokens, keys=tokens, device=torch.device("cpu"))
    assert isinstance(seen, Grouped)
    assert torch.equal(seen.dense(rows, tokens, tokens, "cpu"), dense)
    for visible in (mask, seen):
        for a, b in zip(gradients(attend(*inputs, visible), grad, inputs), theirs, strict=True):
            assert a.dtype == dtype
            assert (
                close(a.float(), b) if dtype == torch.float32 else (a.float() - b).abs().max() <= 0.03 * b.abs().max()
            )


def test_documents_of_like_length_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fused = attention.scaled_dot_product_attention
    monkeypatch.setattr(
        attention, "scaled_dot_product_attention", lambda q, *a, **b: calls.append(q.shape[0]) or fused(q, *a, **b)
    )
    mask = Documents(((0, 30, 61), (0, 29, 60)))
    attend(*heads(2, 90, 90), mask)
    assert calls == [6]
    assert grouped(mask, 90, torch.device("cpu")).sizes == ((6, 31),)
    assert grouped(Documents(((0, 9 + SLACK),)), 9 + SLACK + 8, torch.device("cpu")).sizes == ((1, 17), (1, 8))
