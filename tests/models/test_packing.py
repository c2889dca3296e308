"""Packed rows against the same documents alone."""

import torch

from scops.core.batch import Batch
from scops.data.collate import pack
from scops.nn.block import Routed
from scops.nn.context import Context
from scops.ops.attention import attend
from scops.ops.masks import Documents
from scops.systems import mplug_owl
from tests.conftest import TOLERANCE, batch_of, close, randomise
from tests.systems.test_mplug_owl import TINY, rows


@torch.no_grad()
def test_packed_documents_equal_each_alone() -> None:
    system, examples = randomise(mplug_owl.build(TINY)), list(rows().values())
    batch = pack(examples, capacity=20, pad_id=0)
    assert batch.packed
    made = supervised(system, batch)
    alone = torch.cat([supervised(system, batch_of(one)) for one in examples])
    assert made.shape == alone.shape
    distance = (made[:, None] - alone).abs().amax(-1)  # packing reorders documents: each finds its own
    assert max(distance.amin(0).max(), distance.amin(1).max()) <= TOLERANCE[torch.float32]


def supervised(system: torch.nn.Module, batch: Batch) -> torch.Tensor:
    return system(batch).flatten(0, 1)[batch.targets.index_R]


def test_the_loop_over_documents_equals_the_dense_mask() -> None:
    q, k, v = torch.randn(3, 4, 9, 6), torch.randn(3, 2, 9, 6), torch.randn(3, 2, 9, 6)
    mask = Documents(((0, 3, 4), (0,), (0, 8)))
    dense = mask.dense(3, 9, 9, "cpu")
    assert close(attend(q, k, v, mask), attend(q, k, v, dense))
    seen = dense[0, 0]
    assert seen[5].tolist() == [False] * 4 + [True, True] + [False] * 3


def test_routing_by_prepared_indices_equals_choosing_token_by_token() -> None:
    experts = [randomise(torch.nn.Linear(6, 5)) for _ in range(2)]
    batch = batch_of(*rows().values())
    is_media = torch.zeros(batch.ids_BT.numel(), dtype=torch.bool)
    is_media[batch.where["image"].index_R] = True
    x = torch.randn(*batch.ids_BT.shape, 6)
    expected = torch.where(is_media.view(*batch.ids_BT.shape, 1), experts[1](x), experts[0](x))
    routed = Routed(*experts)
    assert close(routed(x, Context(route=batch.route)), expected)
    assert close(routed(x, Context()), experts[0](x))
