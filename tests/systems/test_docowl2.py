"""DocOwl 2: its parts are proved alone (tests/connectors); here is how they stand together."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scops.connectors.doc_compressor import CompressorSpec
from scops.core.batch import Example, Tiles
from scops.core.layout import Cut, Slot
from scops.data.errors import MediaError
from scops.data.processor import Processor
from scops.systems import docowl2, docowl15
from tests.conftest import batch_of, close, randomise
from tests.data.vocabularies import metaspace
from tests.systems import pieces
from tests.systems.test_docowl15 import TINY as OLDER
from tests.twins import documents_stand_alone, rows_stand_alone

TINY = docowl2.Spec(OLDER.vision, OLDER.reducer, CompressorSpec(dim=24, layers=2, heads=3), OLDER.language)
ROOM = 5  # tokens of one page in TINY
side = st.integers(1, 5000)


def rows() -> dict[str, Example]:
    cuts = {grid: Cut(grid, ((1, 1),), "first") for grid in ((2, 1), (1, 1), (1, 3))}
    return pieces.in_orders({grid: [3, Slot("image", ROOM, cut.places)] for grid, cut in cuts.items()})


def test_full_size_is_docowl15s_and_a_compressor() -> None:
    spec = docowl2.SIZES["docowl2"]
    with torch.device("meta"):
        system, older = docowl2.build(spec), docowl15.build(docowl15.SIZES["docowl1.5-chat"])
    reducer, compressor = system.image.connector.reducer, system.image.connector.compressor
    assert sum(p.numel() for p in reducer.parameters()) == 25_181_184
    width, hidden = 4096, 11008
    layer = (
        4 * (width * width + width)
        + 3 * 2 * width
        + 2 * hidden * width
        + 2 * hidden
        + hidden * width
        + width
        + 2 * hidden
    )
    assert sum(p.numel() for p in compressor.parameters()) == 2 * layer + width * width + width + width
    assert compressor.columns == 9
    ours, theirs = (
        docowl2.KEYS["authors"](spec).save(system.state_dict()),
        docowl15.KEYS["authors"](docowl15.SIZES["docowl1.5-chat"]).save(older.state_dict()),
    )
    assert theirs.keys() <= ours.keys()
    assert all(name.startswith("model.hr_compressor.compressor_") for name in ours.keys() - theirs.keys())
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    assert shapes["model.vision_model.embeddings.position_embedding"] == (1, 1297, 1024)
    prefix = "model.hr_compressor.compressor_crossatt.layers.1."
    assert shapes[prefix + "attention.key.weight"] == (4096, 4096)
    assert shapes[prefix + "output.mlp.w2.weight"] == (4096, 11008)
    assert shapes[prefix + "normk.bias"] == (4096,)
    assert shapes["model.hr_compressor.compressor_eos"] == (1, 1, 4096)


def test_keys_round_trip_bitwise() -> None:
    keys, state = docowl2.KEYS["authors"](TINY), randomise(docowl2.build(TINY)).state_dict()
    back = keys.load(keys.save(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_its_config_is_told_from_docowl15s() -> None:
    config = docowl2.CONFIGS["authors"](TINY)
    assert docowl2.CONFIGS["authors"](docowl2.spec_of(config)) == config
    assert docowl15.spec_of(config) is None
    assert docowl2.spec_of({"model_type": "llama"}) is None


def test_a_page_is_its_number_and_325_tokens_however_it_is_cut() -> None:
    make = Processor(docowl2.layout(TINY), metaspace())
    sizes = ((14, 14), (14, 40), (1, 170))
    made = make(pieces.asked(*(Image.new("RGB", size) for size in sizes)), reply=True)
    encode, ids = make.tokenizer.encode_text, [make.tokenizer.bos_id, *make.tokenizer.encode_text("USER: <img 1>")]
    ids += [*[0] * ROOM, *encode("<img 2>"), *[0] * ROOM, *encode("<img 3>"), *[0] * ROOM, *encode("what? ASSISTANT:")]
    assert made.ids_T.tolist() == ids
    assert [len(span.places) for span in made.spans] == [2, 4, 13]
    (number, slot) = (
        docowl2.layout(docowl2.SIZES["docowl2"]).media["image"].arrange(Cut((1, 1), ((504, 504),), "first"))
    )
    assert (number.text, slot.tokens) == ("<img {}>", 325)


@pytest.fixture(scope="module")
def tiny() -> torch.nn.Module:
    return randomise(docowl2.build(TINY))


@settings(max_examples=60, deadline=None)
@given(height=side, width=side)
@torch.no_grad()
def test_promised_tokens_are_made(tiny: torch.nn.Module, height: int, width: int) -> None:
    assert pieces.promise_is_kept(tiny, docowl2.layout(TINY), (height, width))


@pytest.mark.parametrize("size", pieces.ODD)
def test_pages_of_odd_shapes_are_prepared(size: tuple[int, int]) -> None:
    assert pieces.is_prepared(docowl2.layout(TINY), size)


@pytest.mark.parametrize("name", pieces.BROKEN)
def test_a_broken_picture_is_named(name: str) -> None:
    with pytest.raises(MediaError, match="row 7"):
        Processor(docowl2.layout(TINY), metaspace())(pieces.asked(pieces.BROKEN[name], name="row 7"), reply=True)


@torch.no_grad()
def test_the_connector_is_the_parts_one_after_the_other() -> None:
    system, batch = randomise(docowl2.build(TINY)), batch_of(*rows().values())
    connector, features = system.image.connector, system.encode(batch)["image"]
    tokens = connector.reducer(features)
    made = [connector.compressor(one, tiles) for one, tiles in by_page(tokens, batch.tiles["image"])]
    assert close(system.connect(batch)["image"], torch.cat(made))


def by_page(tokens: torch.Tensor, tiles: Tiles) -> list:
    places = tiles.place_I2.split(tiles.count_M)
    return [
        (one, Tiles.of([[tuple(at) for at in place.tolist()]]))
        for one, place in zip(tokens.split(tiles.count_M), places, strict=True)
    ]


@torch.no_grad()
def test_a_ragged_batch_and_a_packed_one_equal_each_row_alone() -> None:
    system, made = randomise(docowl2.build(TINY)), rows()
    assert rows_stand_alone(system, made)
    assert documents_stand_alone(system, made, capacity=200)


@torch.no_grad()
@pytest.mark.parametrize("kind", pieces.SESSIONS)
def test_cached_session_equals_recompute(kind: str) -> None:
    assert pieces.equals_recompute(randomise(docowl2.build(TINY)), list(rows().values()), kind)


def test_a_compressor_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="16 wide and the language model 24"):
        docowl2.build(replace(TINY, compressor=CompressorSpec(dim=16, heads=2)))
