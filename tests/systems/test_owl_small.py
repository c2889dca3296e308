"""The default system at a tiny size: what no published reference can say of it."""

import torch

from scops.core.layout import UNCUT
from scops.systems import owl_small
from tests.conftest import batch_of, close, example
from tests.systems.test_stages import ROOM, SIDE, SMALL, small
from tests.twins import STEPS, follow, recomputed, rows_stand_alone

ROWS = {
    "first": ([0] * ROOM + [5, 6, 7], (0,)),
    "last": ([1, 9, 8, 7, *[0] * ROOM], (4,)),
    "adjacent": ([1, 3, *[0] * ROOM, *[0] * ROOM, 4], (2, 6)),
    "none": ([1, 2, 3, 4, 5], ()),
}


def rows() -> list:
    return [
        example(ids, tuple((s, ROOM) for s in starts), [torch.randn(3, SIDE, SIDE) for _ in starts])
        for ids, starts in ROWS.values()
    ]


@torch.no_grad()
def test_cached_session_equals_recompute() -> None:
    system, examples = small(SMALL), rows()
    ids_BS = torch.randint(1, 50, (len(examples), STEPS))
    fast = system.session(batch_of(*examples), capacity=20)
    assert close(follow(fast, ids_BS), recomputed(system, examples, ids_BS))


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone() -> None:
    assert rows_stand_alone(small(SMALL), rows())


@torch.no_grad()
def test_the_place_of_a_thing_in_the_picture_matters() -> None:
    system = small(SMALL)
    features = torch.randn(1, 4, system.image.encoder.width)
    turned = features[:, [1, 0, 2, 3]]
    assert not torch.allclose(system.image.connector(features), system.image.connector(turned), atol=1e-3)


def test_the_layout_promises_what_the_connector_delivers() -> None:
    for spec in (SMALL, *owl_small.SIZES.values()):
        with torch.device("meta"):
            system = owl_small.build(spec)
            made = system.image.connector(system.image.encoder(torch.empty(1, 3, spec.side, spec.side)))
        (slot,) = owl_small.layout(spec).media["image"].arrange(UNCUT)
        assert made.shape == (1, slot.tokens, spec.language.dim)
