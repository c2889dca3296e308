"""Items of several pictures: connectors and encoders are told which pictures make an item and where each stands."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from scops.core.batch import Batch, Example, Tiles
from scops.core.layout import WHOLE
from scops.language.llama import LlamaSpec, llama
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.models.recompute import Recompute
from scops.nn.tiled import Tiled
from tests.conftest import batch_of, close, example, randomise
from tests.twins import rows_stand_alone

ROOM = 2


class Pages(Tiled):
    """An item is the weighted sum of its pictures, each weighted by its place: (I, P, D) -> (M, ROOM, D)."""

    def __init__(self, dim: int):
        super().__init__()
        self.project = nn.Linear(dim, dim)

    def forward(self, x_IPD: Tensor, tiles: Tiles) -> Tensor:
        weight_I11 = (tiles.place_I2 @ torch.tensor([3, 1]) + 5)[:, None, None].to(x_IPD.dtype)
        items = (self.project(x_IPD) * weight_I11).split(tiles.count_M)
        return torch.stack([item_IPD.sum(0)[:ROOM] for item_IPD in items])


class Patches(nn.Module):
    def forward(self, pixels_ICHW: Tensor) -> Tensor:
        return pixels_ICHW.flatten(2)


def system() -> MultimodalDecoder:
    language = llama(LlamaSpec(dim=16, hidden=20, layers=2, heads=2, kv_heads=1, vocab=53))
    return randomise(MultimodalDecoder(language, image=MediaInput(Patches(), Pages(16), Inline())))


PAGE, PAIR, ALONE = (WHOLE, (0, 0), (0, 1)), ((0, 0), (1, 0)), (WHOLE,)


def rows() -> list[Example]:
    def one(ids: list[int], *spans: tuple) -> Example:
        return example(ids, spans, [torch.randn(3, 4, 4) for *_, places in spans for _ in places])

    return [
        one([1, 0, 0, 2, 0, 0, 3], (1, ROOM, PAGE), (4, ROOM, ALONE)),
        one([0, 0, 5], (0, ROOM, PAIR)),
        one([7, 8]),
    ]


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone() -> None:
    assert rows_stand_alone(system(), rows())


@torch.no_grad()
def test_every_session_equals_recompute() -> None:
    decoder, examples = system(), rows()
    fast = decoder.session(batch_of(*examples), capacity=20)
    shared = decoder.shared(60, page=3, media_bytes=2**20)
    slow = Recompute(decoder, [batch_of(one) for one in examples])
    opened = [shared.open(one) for one in examples]
    read = [shared.read(row, 99) for row in opened]
    assert close(torch.stack(read), slow.logits_BV)
    assert close(fast.logits_BV, slow.logits_BV)
    for ids_B in torch.randint(1, 50, (3, len(examples))):
        expected = slow.step(ids_B)
        assert close(fast.step(ids_B), expected)
        assert close(shared.step(opened, ids_B), expected)


@torch.no_grad()
@pytest.mark.parametrize("changed", ["places", "pictures"])
def test_an_item_of_other_places_or_pictures_is_another_one_to_a_shared_session(changed: str) -> None:
    decoder, (one, *_) = system(), rows()
    if changed == "places":
        spans = (replace(one.spans[0], places=(WHOLE, (0, 1), (0, 0))), one.spans[1])
        other = replace(one, spans=spans)
    else:
        pictures = one.media["image"]
        other = replace(one, media={"image": (pictures[1], pictures[0], *pictures[2:])}, digests={})
        one = replace(one, digests={})
    shared = decoder.shared(60, page=2, media_bytes=2**20)
    first, second = (shared.read(shared.open(each), 99) for each in (one, other))
    assert close(second[None], decoder(batch_of(other))[0, -1:])
    assert (first - second).abs().max() > 1e-3


def test_pictures_without_tiles_are_items_of_their_own() -> None:
    pixels = torch.randn(3, 3, 4, 4)
    nothing = torch.zeros(1, 1, dtype=torch.long)
    made = system().connect(Batch(nothing, nothing, (1,), ((0,),), media={"image": pixels}))["image"]
    assert made.shape == (3, ROOM, 16)
