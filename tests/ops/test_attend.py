"""One query with grouped heads is asked in another shape; it finds the same."""

import pytest
import torch

from scops.ops.attention import attend
from tests.conftest import close


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("seen", [None, "row", "head"])
def test_one_query_of_grouped_heads_equals_repeated_keys(kv_heads: int, seen: str | None) -> None:
    q, k, v = torch.randn(3, 6, 1, 5), torch.randn(3, kv_heads, 7, 5), torch.randn(3, kv_heads, 7, 5)
    visible = None
    if seen:
        visible = torch.rand(3, 6 if seen == "head" else 1, 1, 7) < 0.6
        visible[1] = False  # one that sees nothing gets zeros
    repeated = (x.repeat_interleave(6 // kv_heads, 1) for x in (k, v))
    assert close(attend(q, k, v, visible), attend(q, *repeated, visible))
