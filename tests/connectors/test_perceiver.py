"""The Perceiver Resampler against the reference, and with the embeddings that no published model has."""

from dataclasses import replace

import pytest
import torch

from scops.checkpoints.hub_flamingo import RESAMPLER
from scops.connectors.perceiver import PerceiverResampler, PerceiverSpec, tokens_for
from scops.core.batch import Tiles
from scops.core.layout import WHOLE
from tests.conftest import Golden, close, randomise
from tests.twins import come_back_bitwise

TINY = PerceiverSpec(dim=12, hidden=20, depth=2, heads=3, head_dim=4, queries=5)


def items(*counts: int) -> Tiles:
    return Tiles.of([(WHOLE,) * count for count in counts])


@torch.no_grad()
def test_every_probe_equals_the_reference() -> None:
    golden = Golden("open_flamingo_resampler")
    sizes = golden.config["args"]
    spec = PerceiverSpec(
        sizes["dim"], sizes["ff_mult"] * sizes["dim"], sizes["depth"], sizes["heads"], sizes["dim_head"], sizes["num_latents"]
    )  # fmt: skip
    made = PerceiverResampler(spec)
    made.load_state_dict(RESAMPLER.load(golden.weights))
    x_BTAPD, out = golden.inputs["x"], golden.outputs
    rows = x_BTAPD.shape[:2]
    tokens_MQD = made(x_BTAPD.flatten(0, 2), items(*[x_BTAPD.shape[2]] * (rows[0] * rows[1])))
    assert close(tokens_MQD.unflatten(0, rows), out["out"])
    layer, x_MSD = made.layers[0], x_BTAPD.flatten(0, 1).flatten(1, 2)
    latents_MQD = made.latents.expand(len(x_MSD), -1, -1)
    found_MQD = layer.asked(x_MSD, latents_MQD)
    assert close(found_MQD.unflatten(0, rows), out["attn0_out"])
    assert close(layer.mlp(layer.norm_mlp(latents_MQD + found_MQD)).unflatten(0, rows), out["ff0_out"])


def test_keys_come_back_bitwise() -> None:
    assert come_back_bitwise(RESAMPLER, Golden("open_flamingo_resampler").weights)
    made = randomise(PerceiverResampler(replace(TINY, frames=3, items=2)))
    theirs = RESAMPLER.save(made.state_dict())
    assert (theirs["frame_embs"].shape, theirs["media_time_embs"].shape) == ((3, 12), (2, 1, 12))
    assert come_back_bitwise(RESAMPLER, theirs)


@torch.no_grad()
def test_clips_of_any_length_and_pictures_give_as_many_tokens_and_stand_alone() -> None:
    made = randomise(PerceiverResampler(TINY))
    features = torch.randn(6, 7, 12)
    together = made(features, items(1, 3, 2))
    assert together.shape == (3, tokens_for(TINY), 12)
    for item, (first, last) in zip(together, ((0, 1), (1, 4), (4, 6)), strict=True):
        assert close(item, made(features[first:last], items(last - first))[0])


@torch.no_grad()
def test_frames_and_items_are_told_apart_by_embeddings_of_their_own() -> None:
    plain = randomise(PerceiverResampler(TINY))
    made = randomise(PerceiverResampler(replace(TINY, frames=4, items=3)))
    made.load_state_dict(plain.state_dict(), strict=False)
    x_MAPD, number_M = torch.randn(2, 3, 7, 12), torch.tensor([2, 0])
    moved = x_MAPD + made.frames[:3].reshape(1, 3, 1, 12) + made.items[number_M].reshape(2, 1, 1, 12)
    assert close(made.resampled(x_MAPD, number_M), plain.resampled(moved))


@torch.no_grad()
def test_a_class_token_is_left_away() -> None:
    made = randomise(PerceiverResampler(TINY))
    without = PerceiverResampler(replace(TINY, first=1))
    without.load_state_dict(made.state_dict())
    features = torch.randn(2, 7, 12)
    assert close(without.eval()(features, items(1, 1)), made(features[:, 1:], items(1, 1)))


def test_what_there_is_no_embedding_for_is_refused() -> None:
    made = PerceiverResampler(replace(TINY, frames=2))
    with pytest.raises(ValueError, match="a clip has 3 frames, but this resampler knows 2"):
        made(torch.randn(3, 7, 12), items(3))
    made = PerceiverResampler(replace(TINY, items=2))
    with pytest.raises(ValueError, match="numbered up to 2, but this resampler knows them by numbers from 0 to 1"):
        made.resampled(torch.randn(1, 1, 7, 12), torch.tensor([2]))
    with pytest.raises(ValueError, match="items are unnumbered"):
        made(torch.randn(1, 7, 12), items(1))
