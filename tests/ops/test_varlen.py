"""Packed rows by torch's kernel for sequences of any lengths: what it is told everywhere, what it finds where a GPU is."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from scops.ops import varlen
from scops.ops.attention import attend
from scops.ops.documents import grouped
from scops.ops.masks import Documents
from tests.conftest import close

HERE = varlen.kernel() is not None
GPU = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
STARTS = ((0, 1, 12), (0,), (0, 9))
"""Documents of 3 rows of 17 tokens."""


def heads(kv_heads: int, **kind: object) -> list[torch.Tensor]:
    return [torch.randn(3, n, 17, 32, **kind).requires_grad_() for n in (6, kv_heads, kv_heads)]


def plain(q_RNH, k_RKH, v_RKH, begins, key_begins, longest, longest_key, *, scale, window_size, enable_gqa):
    """What torch's documentation says of the kernel, document by document."""
    assert torch.equal(begins, key_begins)
    assert begins.dtype is torch.int32
    assert window_size == (-1, 0)
    lengths = begins.diff().tolist()
    assert longest == longest_key == max(lengths)
    assert sum(lengths) == len(q_RNH)
    pieces = zip(*(x.split(lengths) for x in (q_RNH, k_RKH, v_RKH)), strict=True)
    found = [
        scaled_dot_product_attention(
            *(x.transpose(0, 1) for x in piece), is_causal=True, scale=scale, enable_gqa=enable_gqa
        )
        for piece in pieces
    ]
    return torch.cat(found, 1).transpose(0, 1)


@pytest.mark.parametrize("kv_heads", [6, 2])
def test_told_of_every_document_it_finds_what_groups_find(monkeypatch, kv_heads: int) -> None:
    inputs, mask = heads(kv_heads), grouped(Documents(STARTS), 17, torch.device("cpu"))
    wanted = attend(*inputs, mask, scale=0.3)
    monkeypatch.setattr(varlen, "kernel", lambda: plain)
    found = varlen.attend_documents(*inputs, mask.bounds_D1, mask.sizes[0][1], scale=0.3)
    assert close(found, wanted)


@pytest.mark.skipif(not HERE, reason="this torch has no kernel for sequences of any lengths")
def test_the_kernel_is_called_as_its_signature_wants() -> None:
    q, k, v = heads(2, device="meta", dtype=torch.bfloat16)
    mask = grouped(Documents(STARTS), 17, torch.device("meta"))
    found = varlen.attend_documents(q, k, v, mask.bounds_D1, mask.sizes[0][1])
    assert found.shape == q.shape
    found.sum().backward()
    assert (q.grad.shape, k.grad.shape) == (q.shape, k.shape)


def test_a_processor_is_not_asked() -> None:
    assert not varlen.takes(torch.randn(1, 2, 3, 32, dtype=torch.bfloat16))


@pytest.mark.skipif(not (HERE and GPU), reason="no GPU here")
@pytest.mark.parametrize("kv_heads", [6, 2])
def test_on_a_gpu_values_and_gradients_are_those_of_groups(kv_heads: int) -> None:
    inputs = heads(kv_heads, device="cuda", dtype=torch.bfloat16)
    mask = grouped(Documents(STARTS), 17, torch.device("cuda"))
    assert varlen.takes(inputs[0])
    exact = [x.detach().float().requires_grad_() for x in inputs]
    found, wanted = attend(*inputs, mask), attend(*exact, mask)
    weights = torch.randn_like(wanted)
    (found.float() * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert (found.float() - wanted).abs().max() < 0.02
    for brief, one in zip(inputs, exact, strict=True):
        assert (brief.grad.float() - one.grad).abs().max() < 0.03 * one.grad.abs().max()
