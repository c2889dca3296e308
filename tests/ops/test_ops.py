"""Masks, positions and attention against the plainest statement of each."""

import torch

from scops.ops.attention import attend, realise
from scops.ops.masks import Causal, Real, Seen, Window, earlier, latest
from scops.ops.positions import sincos, sincos_grid
from tests.conftest import close


def test_causal_fast_path_equals_the_dense_mask() -> None:
    q, k, v = (torch.randn(2, 3, 7, 4) for _ in range(3))
    assert close(attend(q, k, v, Causal()), attend(q, k, v, Causal().dense(2, 7, 7, "cpu")))
    assert realise(Causal(), rows=2, queries=7, keys=7, device="cpu") == Causal()


def test_a_query_that_sees_nothing_gets_zeros() -> None:
    q, k, v = (torch.randn(2, 3, 5, 4) for _ in range(3))
    real = torch.tensor([[False] * 5, [True] * 5])
    out = attend(q, k, v, Real(real))
    assert (out[0] == 0).all()
    assert close(out[1], attend(q[1:], k[1:], v[1:])[0])


def test_windows_and_media_are_seen_as_their_names_say() -> None:
    window = (Causal() & Window(2)).dense(1, 4, 4, "cpu")[0, 0]
    assert window.long().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    seen, item = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[1, 1, 2, 0]])
    assert Seen(seen, item, latest).dense(1, 4, 4, "cpu")[0, 0].long().tolist() == [
        [0] * 4,
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
    ]
    assert Seen(seen, item, earlier).dense(1, 4, 4, "cpu")[0, 0, 3].long().tolist() == [1, 1, 1, 0]


def test_grid_positions_put_the_column_first() -> None:
    grid = sincos_grid(2, 3, 8)
    assert grid.shape == (6, 8)
    assert close(grid[5], torch.cat([sincos(torch.tensor([2]), 4)[0], sincos(torch.tensor([1]), 4)[0]]))
    angle = torch.tensor([3.0, 0.03])
    assert close(sincos(torch.tensor([0, 3]), 4)[1], torch.cat([angle.sin(), angle.cos()]))
