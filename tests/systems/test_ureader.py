"""UReader against goldens of LukeForeverYoung/UReader."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import scops
from scops.core.batch import Batch
from scops.core.layout import WHOLE, Cut
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.collate import pad
from scops.data.errors import MediaError
from scops.data.processor import Processor
from scops.systems import mplug_owl, ureader
from tests import tiny
from tests.conftest import Golden, batch_of, close, example, randomise
from tests.data.vocabularies import metaspace
from tests.systems import pieces
from tests.systems.test_mplug_owl import TINY as OWL
from tests.twins import come_back_bitwise, published, rows_stand_alone

TINY = ureader.Spec(OWL.vision, OWL.abstractor, OWL.language)
ROOM = 4  # tokens of one piece in TINY
side = st.integers(1, 5000)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("ureader")


@pytest.fixture(scope="module")
def spec(golden: Golden) -> ureader.Spec:
    return ureader.spec_of(golden.config | {"model_type": "mplug-owl"})


@pytest.fixture(scope="module")
def system(golden: Golden, spec: ureader.Spec) -> torch.nn.Module:
    return published(ureader, spec, golden.weights)


@pytest.fixture(scope="module")
def batch(golden: Golden, spec: ureader.Spec) -> Batch:
    """The golden's ids, where a piece is a run of -1, as the processor would have given them."""
    pictures = iter(zip(golden.inputs["pixel_values"], golden.inputs["patch_positions"].tolist(), strict=True))
    rows, room = [], spec.abstractor.queries + 1
    for ids in golden.inputs["input_ids"]:
        starts = (ids < 0).nonzero().flatten()[::room].tolist()
        taken = [next(pictures) for _ in starts]
        places = [WHOLE if place == [11, 11] else tuple(place) for _, place in taken]
        spans = tuple((start, room, (place,)) for start, place in zip(starts, places, strict=True))
        rows.append(example(ids.clamp(min=0).tolist(), spans, [pixels for pixels, _ in taken]))
    assert next(pictures, None) is None
    return pad(rows, pad_id=0)


@torch.no_grad()
def test_every_probe_equals_the_reference(golden: Golden, system: torch.nn.Module, batch: Batch) -> None:
    out = golden.outputs
    assert close(system.image.encoder(golden.inputs["pixel_values"]), out["vision_last_hidden_state"])
    assert close(system.connect(batch)["image"], out["abstractor_last_hidden_state"])
    assert close(system.read(batch)[0], out["inputs_embeds"])
    assert close(system(batch), out["logits"])


@torch.no_grad()
def test_loss_over_the_golden_s_masks_equals_the_reference(
    golden: Golden, system: torch.nn.Module, batch: Batch
) -> None:
    told = [golden.inputs[f"{name}_mask"].bool() for name in ("non_padding", "non_media", "prompt")]
    counted = torch.stack(told).all(0)
    targets = torch.where(counted, golden.inputs["input_ids"][:, 1:], -100)
    predicted = system(batch)[:, :-1]
    loss = torch.nn.functional.cross_entropy(predicted.flatten(0, 1), targets.flatten(), ignore_index=-100)
    assert close(loss[None], golden.outputs["loss"])


def test_keys_round_trip_bitwise(golden: Golden, spec: ureader.Spec) -> None:
    assert come_back_bitwise(ureader.KEYS["authors"](spec), golden.weights, but="inv_freq")


def test_full_size_has_the_published_count_and_names() -> None:
    spec = ureader.SIZES["ureader-7b"]
    with torch.device("meta"):
        system = ureader.build(spec)
    assert sum(p.numel() for p in system.parameters()) == 7_123_099_648
    published = ureader.KEYS["authors"](spec).save(system.state_dict())
    owl = mplug_owl.SIZES["mplug-owl-llama-7b"]
    with torch.device("meta"):
        plain = mplug_owl.KEYS["authors"](owl).save(mplug_owl.build(owl).state_dict())
    tables = {"abstractor.cut_patch_embedding_h.weight", "abstractor.cut_patch_embedding_w.weight"}
    assert published.keys() == plain.keys() | tables
    assert all(tuple(published[name].shape) == (15, 1024) for name in tables)
    assert all(published[name].shape == tensor.shape for name, tensor in plain.items())


def test_its_config_is_told_from_mplug_owls(spec: ureader.Spec) -> None:
    config = ureader.CONFIGS["authors"](spec)
    assert ureader.CONFIGS["authors"](ureader.spec_of(config)) == config
    assert mplug_owl.spec_of(config) is None
    with pytest.raises(ValueError, match="'pre'"):
        ureader.spec_of(config | {"patch_pos_embed_type": "pre"})


@pytest.mark.parametrize(("made", "system"), [(tiny.ureader, "ureader"), (tiny.mplug, "mplug-owl")])
def test_of_the_same_published_config_the_weights_say_whose_it_is_and_how_wide(
    made, system: str, tmp_path: Path
) -> None:
    model = made()
    config = model.save(tmp_path / "published", "authors") / "config.json"
    words = json.loads(config.read_text())
    words.pop("patch_pos_embed_type", None)  # as the authors' own files are
    words["visual_abstractor_config"]["intermediate_size"] = 4096  # the class's default, whatever the weights have
    config.write_text(json.dumps(words))
    loaded = scops.load(tmp_path / "published")
    assert loaded.system == system
    assert loaded.spec.abstractor == model.spec.abstractor
    for path, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, loaded.module.state_dict()[path]), path


@torch.no_grad()
def test_the_whole_view_has_the_longest_side_of_its_grids() -> None:
    for name, side in (("grid_20", 11), ("grid_2x2", 2)):
        connector = randomise(ureader.build(replace(TINY, grids=name))).image.connector
        assert connector.whole == side
    with pytest.raises(ValueError, match="row and column 11, but there are 9 places"):
        ureader.build(replace(TINY, places=9))


def processor(spec: ureader.Spec) -> Processor:
    return Processor(ureader.layout(spec), metaspace())


def test_prompts_are_the_evaluation_s_and_pieces_stand_side_by_side() -> None:
    make = processor(TINY)
    picture = Media("image", Image.new("RGB", (30, 14)))
    sample = Sample((Turn("user", (picture, Text("what?"))),))
    ids, encode = make(sample, reply=True), make.tokenizer.encode_text
    count = len(Cut((1, 2), ((1, 1),), "first"))
    assert [span.places for span in ids.spans] == [(WHOLE,), ((0, 0),), ((0, 1),)]
    expected = [make.tokenizer.bos_id, *encode("Human: "), *[0] * ROOM * count, *encode("\nHuman: what?\nAI: ")]
    assert ids.ids_T.tolist() == expected


def test_turns_follow_each_other_on_lines_of_their_own() -> None:
    make = processor(TINY)
    said = [Turn("user", (Text("a"),)), Turn("assistant", (Text("b"),), learn=True), Turn("user", (Text("c"),))]
    example, encode = make.outline(Sample(tuple(said)), reply=True), make.tokenizer.encode_text
    end = make.tokenizer.id_of("</s>")
    before = [make.tokenizer.bos_id, *encode("Human: a\nAI: "), *encode("b"), end]
    assert example.ids_T.tolist() == [*before, *encode("\nHuman: c\nAI: ")]


@pytest.fixture(scope="module")
def tiny() -> torch.nn.Module:
    return randomise(ureader.build(TINY))


@settings(max_examples=60, deadline=None)
@given(height=side, width=side)
@torch.no_grad()
def test_promised_tokens_are_made(tiny: torch.nn.Module, height: int, width: int) -> None:
    assert pieces.promise_is_kept(tiny, ureader.layout(TINY), (height, width))


@pytest.mark.parametrize("size", pieces.ODD)
def test_pages_of_odd_shapes_are_prepared(size: tuple[int, int]) -> None:
    assert pieces.is_prepared(ureader.layout(TINY), size)


@pytest.mark.parametrize("name", pieces.BROKEN)
def test_a_broken_picture_is_named(name: str) -> None:
    with pytest.raises(MediaError, match="row 7"):
        processor(TINY)(pieces.asked(pieces.BROKEN[name], name="row 7"), reply=True)


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone() -> None:
    assert rows_stand_alone(randomise(ureader.build(TINY)), pieces.side_by_side(ROOM))


@torch.no_grad()
@pytest.mark.parametrize("kind", pieces.SESSIONS)
def test_cached_session_equals_recompute(kind: str) -> None:
    system, made = randomise(ureader.build(TINY)), list(pieces.side_by_side(ROOM).values())
    assert pieces.equals_recompute(system, made, kind)


@torch.no_grad()
def test_the_same_pixels_at_another_place_are_another_piece() -> None:
    system, one = randomise(ureader.build(TINY)), pieces.side_by_side(ROOM)["cut"]
    before = system(batch_of(one))[0, -1]
    spans = tuple(replace(span, places=((4, 4),)) if span.places == ((0, 0),) else span for span in one.spans)
    assert (system(batch_of(replace(one, spans=spans)))[0, -1] - before).abs().max() > 1e-3
