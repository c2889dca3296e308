"""Many tokens over pages through the kernel against plain attention."""

import pytest
import torch

from scops.native.pages import attend_pages, takes
from scops.ops.attention import attend
from scops.ops.masks import Behind

WIDTHS = [32, 64, 80, 96, 128]


def pieces(width: int, *, heads: int = 6, kv_heads: int = 2, page: int = 8, longest: int = 90):
    """Queries, pages of two rows in mixed order, and the same keys and values in plain order."""
    pages = -(-longest // page)
    k_PKSH, v_PKSH = (torch.randn(2 * pages, kv_heads, page, width).bfloat16() for _ in range(2))
    table_BL = torch.randperm(2 * pages).int().unflatten(0, (2, pages))
    plain = [t[table_BL.long()].transpose(1, 2).flatten(2, 3) for t in (k_PKSH, v_PKSH)]
    return torch.randn(2, heads, 37, width).bfloat16(), k_PKSH, v_PKSH, table_BL, plain


@torch.no_grad()
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("before", "tokens"), [((0, 0), (37, 37)), ((5, 0), (37, 20)), ((40, 53), (1, 37))])
@pytest.mark.parametrize("window", [None, 7, 33])
def test_pages_are_attended_as_plain_keys(width: int, before: tuple, tokens: tuple, window: int | None) -> None:
    q_BNTH, k_PKSH, v_PKSH, table_BL, (k_BKSH, v_BKSH) = pieces(width)
    if not takes(q_BNTH):
        pytest.skip("no kernel for this processor")
    lengths_B, tokens_B = torch.tensor(before), torch.tensor(tokens)
    made = attend_pages(
        q_BNTH, k_PKSH, v_PKSH, table_BL=table_BL, lengths_B=lengths_B, tokens_B=tokens_B, window=window
    )
    seen = Behind(lengths_B, 37, k_BKSH.shape[2], window)
    exact = attend(q_BNTH.float(), k_BKSH.float(), v_BKSH.float(), seen)
    for row, real in enumerate(tokens):
        assert (made[row, :, :real].float() - exact[row, :, :real]).abs().max() < 0.02
        assert not made[row, :, real:].any()


@torch.no_grad()
def test_chunks_of_many_keys_are_joined() -> None:
    q_BNTH, k_PKSH, v_PKSH, table_BL, (k_BKSH, v_BKSH) = pieces(64, longest=900)
    if not takes(q_BNTH):
        pytest.skip("no kernel for this processor")
    lengths_B, tokens_B = torch.tensor([860, 300]), torch.tensor([37, 37])
    k_PKSH[table_BL[0, :30].long()] *= 4  # so that the running maximum moves between chunks
    k_BKSH[0, :, : 30 * 8] *= 4
    made = attend_pages(q_BNTH, k_PKSH, v_PKSH, table_BL=table_BL, lengths_B=lengths_B, tokens_B=tokens_B)
    exact = attend(q_BNTH.float(), k_BKSH.float(), v_BKSH.float(), Behind(lengths_B, 37, k_BKSH.shape[2]))
    assert (made.float() - exact).abs().max() < 0.02


def test_what_it_does_not_take() -> None:
    q_BNTH = torch.randn(1, 2, 5, 64)
    assert not takes(q_BNTH.bfloat16())  # gradients
    with torch.no_grad():
        assert not takes(q_BNTH)  # float32
        assert not takes(q_BNTH.bfloat16()[..., :24])  # an unusual width
        assert not takes(q_BNTH.bfloat16()[:, :, :1])  # a step of one token has its own kernel
