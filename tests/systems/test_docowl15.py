"""DocOwl 1.5 against goldens of X-PLUG/mPLUG-DocOwl."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from scops.core.batch import Batch
from scops.core.layout import WHOLE
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.collate import pad
from scops.data.errors import MediaError
from scops.data.processor import Processor
from scops.systems import docowl2, docowl15
from tests.conftest import GOLDENS, Golden, close, example, randomise
from tests.data.vocabularies import metaspace
from tests.systems import pieces
from tests.twins import come_back_bitwise, published, rows_stand_alone

TINY = docowl15.Spec(
    docowl15.VitSpec(dim=24, hidden=40, layers=2, heads=3, image=14, patch=3, eps=1e-6),
    docowl15.HReducerSpec(dim=24),
    docowl15.LlamaSpec(dim=24, hidden=36, layers=2, heads=4, kv_heads=2, vocab=53, eps=1e-5),
)
ROOM = 5  # tokens of one piece in TINY
PIECE = -200  # in published ids
side = st.integers(1, 5000)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("docowl15")


@pytest.fixture(scope="module")
def spec(golden: Golden) -> docowl15.Spec:
    return docowl15.spec_of(golden.config | {"model_type": "mplug_docowl"})


@pytest.fixture(scope="module")
def system(golden: Golden, spec: docowl15.Spec) -> torch.nn.Module:
    return published(docowl15, spec, golden.weights)


def expanded(ids: Sequence[int], at: Sequence[int], value: int) -> list[int]:
    """What the reference makes of a row: five values in place of each piece."""
    return [one for t, there in enumerate(ids) for one in ([value] * ROOM if t in at else [there])]


def batch_and_labels(golden: Golden, case: str) -> tuple[Batch, list[torch.Tensor]]:
    """A case's ids as the processor would have given them, and its labels by row."""
    inputs, rows, labels = golden.inputs, [], []
    pictures = iter(zip(inputs[f"{case}_images"], inputs[f"{case}_patch_positions"].tolist(), strict=True))
    masks = inputs[f"{case}_attention_mask"]
    for ids, answer, mask in zip(inputs[f"{case}_input_ids"], inputs[f"{case}_labels"], masks, strict=True):
        at = (ids == PIECE).nonzero().flatten().tolist()
        taken = [next(pictures) for _ in at]
        places = [WHOLE if place == [9, 9] else tuple(place) for _, place in taken]
        spans = tuple((t + n * (ROOM - 1), ROOM, (place,)) for n, (t, place) in enumerate(zip(at, places, strict=True)))
        rows.append(example(expanded(ids[mask].tolist(), at, 0), spans, [pixels for pixels, _ in taken]))
        labels.append(torch.tensor(expanded(answer[mask].tolist(), at, -100)))
    assert next(pictures, None) is None
    return pad(rows, pad_id=0), labels


@torch.no_grad()
def test_every_probe_equals_the_reference(golden: Golden, system: torch.nn.Module) -> None:
    out, pixels = golden.outputs, golden.inputs["A_images"]
    assert close(system.image.encoder(pixels), out["A_vision_last_hidden_state"])
    for case in "AB":
        batch, labels = batch_and_labels(golden, case)
        embeds, logits = system.read(batch)[0], system(batch)
        indicators = torch.zeros_like(batch.ids_BT).flatten().index_fill(0, batch.route.index[1], 1)
        assert torch.equal(indicators.view_as(batch.ids_BT), out[f"{case}_modality_indicators"])
        for row, length in enumerate(batch.lengths):
            assert close(embeds[row, :length], out[f"{case}_inputs_embeds"][row, :length])
            assert close(logits[row, :length], out[f"{case}_logits"][row, :length])
        told = torch.cat([row[: len(answer) - 1] for row, answer in zip(logits, labels, strict=True)])
        loss = torch.nn.functional.cross_entropy(told, torch.cat([answer[1:] for answer in labels]), ignore_index=-100)
        assert close(loss[None], out[f"{case}_loss"])
    assert close(system.connect(batch_and_labels(golden, "A")[0])["image"], out["A_hreducer_output"])


def test_keys_round_trip_bitwise(golden: Golden, spec: docowl15.Spec) -> None:
    assert come_back_bitwise(docowl15.KEYS["authors"](spec), golden.weights, but="inv_freq")


def test_full_size_has_the_published_count_and_names() -> None:
    spec = docowl15.SIZES["docowl1.5-chat"]
    with torch.device("meta"):
        system = docowl15.build(spec)
    assert sum(p.numel() for p in system.parameters()) == 8_141_566_976
    assert sum(p.numel() for p in system.image.encoder.parameters()) == 303_966_208
    assert sum(p.numel() for p in system.image.connector.parameters()) == 25_181_184
    published = docowl15.KEYS["authors"](spec).save(system.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    assert shapes["model.vision_model.embeddings.position_embedding"] == (1, 1025, 1024)
    assert shapes["model.vision2text.reducer_before.0.weight"] == (4096, 1024, 1, 4)
    assert shapes["model.vision2text.reducer.weight"] == (1024, 1024, 1, 4)
    assert shapes["model.vision2text.visual_fc.weight"] == (4096, 1024)
    assert shapes["model.vision2text.vit_eos"] == (1, 1, 4096)
    assert shapes["model.vision2text.ln_q.weight"] == (1024,)
    assert shapes["model.layers.31.self_attn.k_proj.multiway.1.weight"] == (4096, 4096)
    assert shapes["model.layers.0.input_layernorm.multiway.0.weight"] == (4096,)
    assert shapes["lm_head.weight"] == (32000, 4096)


def test_its_config_is_told_from_docowl2s(spec: docowl15.Spec) -> None:
    config = docowl15.CONFIGS["authors"](spec)
    assert docowl15.CONFIGS["authors"](docowl15.spec_of(config)) == config
    assert config["visual_config"]["visual_hreducer"]["conv_shape"] == "1x4"
    assert docowl2.spec_of(config) is None
    assert docowl15.spec_of({"model_type": "llama"}) is None
    config["visual_config"]["visual_hreducer"]["hidden_size"] = 7
    with pytest.raises(ValueError, match="hidden_size is 7, but"):
        docowl15.spec_of(config)


CASES = json.loads((GOLDENS / "docowl15_processor" / "config.json").read_text())["cases"]


def ours(case: dict) -> docowl15.Spec:
    """The published processor's settings as data of ours; 32 pixels are 4 x 4 patches of 8."""
    words = docowl15.Spec().announced if case["add_textual_crop_indicator"] else ("", "")
    vision = replace(TINY.vision, image=case["image_size"], patch=8)
    whole = "first" if case["add_global_img"] else ""
    return replace(TINY, vision=vision, grids=case["anchors"], whole=whole, announced=words)


@pytest.mark.parametrize("number", CASES)
def test_pieces_and_ids_are_the_published_processors(number: str) -> None:
    case, folder = CASES[number], GOLDENS / "docowl15_processor"
    pixels = load_file(folder / "inputs.safetensors")[f"image{number}"]
    expected = load_file(folder / "outputs.safetensors")
    make = Processor(docowl15.layout(ours(case)), metaspace())
    question = case["query"].removeprefix("<|image|>")
    picture = Media("image", Image.fromarray(pixels.numpy()))
    made = make(Sample((Turn("user", (picture, Text(question))),)), reply=True)
    published = expected[f"pixel_values{number}"]
    assert len(made.media["image"]) == case["num_pieces"]
    assert torch.equal(torch.stack(list(map(torch.from_numpy, made.media["image"]))), published)
    places = torch.tensor([place for span in made.spans for place in span.places])
    assert torch.equal(
        torch.where(places < 0, expected[f"patch_positions{number}"], places), expected[f"patch_positions{number}"]
    )
    prompt, ids = f"USER: {case['text']} ASSISTANT:", [make.tokenizer.bos_id]
    for count, chunk in enumerate(prompt.split("<|image|>")):  # each chunk alone, as published
        ids += [0] * (ROOM if count else 0) + (make.tokenizer.encode_text(chunk) if chunk else [])
    assert made.ids_T.tolist() == ids


def test_each_of_several_pictures_has_its_own_pieces() -> None:
    make = Processor(docowl15.layout(TINY), metaspace())
    made = make(pieces.asked(Image.new("RGB", (14, 14)), Image.new("RGB", (14, 28))), reply=True)
    assert [span.places[0] for span in made.spans] == [WHOLE, (0, 0), WHOLE, (0, 0), (1, 0)]
    encode = make.tokenizer.encode_text
    second = made.spans[2]
    mark = encode("<global_img>")
    assert made.ids_T[second.start - len(mark) : second.start].tolist() == mark


def test_an_answer_is_learnt_with_its_end() -> None:
    make = Processor(docowl15.layout(TINY), metaspace())
    turns = (Turn("user", (Text("what?"),)), Turn("assistant", (Text("an owl"),), learn=True))
    made, encode = make.outline(Sample(turns)), make.tokenizer.encode_text
    end = make.tokenizer.id_of("</s>")
    assert made.ids_T.tolist() == [make.tokenizer.bos_id, *encode("USER: what? ASSISTANT:"), *encode("an owl"), end]
    assert made.ids_T[made.learn_T].tolist() == [*encode("an owl"), end]


@pytest.fixture(scope="module")
def tiny() -> torch.nn.Module:
    return randomise(docowl15.build(TINY))


@settings(max_examples=60, deadline=None)
@given(height=side, width=side, size=st.sampled_from(["docowl1.5-chat", "docowl1.5-stage1"]))
@torch.no_grad()
def test_promised_tokens_are_made(tiny: torch.nn.Module, height: int, width: int, size: str) -> None:
    spec = replace(TINY, whole=docowl15.SIZES[size].whole)
    assert pieces.promise_is_kept(tiny, docowl15.layout(spec), (height, width))


@pytest.mark.parametrize("size", pieces.ODD)
def test_pages_of_odd_shapes_are_prepared(size: tuple[int, int]) -> None:
    assert pieces.is_prepared(docowl15.layout(TINY), size)


@pytest.mark.parametrize("name", pieces.BROKEN)
def test_a_broken_picture_is_named(name: str) -> None:
    with pytest.raises(MediaError, match="row 7"):
        Processor(docowl15.layout(TINY), metaspace())(pieces.asked(pieces.BROKEN[name], name="row 7"), reply=True)


def rows() -> dict:
    return pieces.side_by_side(ROOM)


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone() -> None:
    assert rows_stand_alone(randomise(docowl15.build(TINY)), rows())


@torch.no_grad()
@pytest.mark.parametrize("kind", pieces.SESSIONS)
def test_cached_session_equals_recompute(kind: str) -> None:
    assert pieces.equals_recompute(randomise(docowl15.build(TINY)), list(rows().values()), kind)
