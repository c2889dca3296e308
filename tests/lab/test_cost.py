"""What is told of a conversation's cost is what is then measured: tokens, bytes and FLOPs exactly, activations nearly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import scops
from scops.core.batch import Batch, Example
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.collate import pad
from scops.lab.cost import Cost, counted
from scops.lab.memory import peak_bytes
from scops.model import Model
from scops.systems import SYSTEMS, module_of
from tests import tiny
from tests.films import film
from tests.test_parts import spread

WORDS = "what?"
SIZES = ((90, 40), (30, 77))  # width, height
REPLY = 7
NEARLY = 0.02
"""How far activations may lie beside what is measured: kernels differ in what they keep for a moment."""


@pytest.fixture(scope="module", params=tiny.MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    made = tiny.MODELS[request.param]()
    made.module.requires_grad_(False)
    return made


def sizes(model: Model) -> list[tuple[int, int]]:
    return [*SIZES] if "image" in model.layout.media else []


def asked(model: Model, words: str = WORDS) -> Example:
    """The question with real pictures, as the processor makes it."""
    pictures = [Media("image", tiny.picture(size=size)) for size in sizes(model)]
    return model.processor(Sample((Turn("user", (*pictures, Text(words))),)), reply=True)


def told(model: Model, **other: Any) -> Cost:
    return scops.cost(model, **{"images": sizes(model), "text": WORDS, "max_tokens": REPLY} | other)


def batch_of(model: Model, example: Example) -> Batch:
    return pad([example], pad_id=model.tokenizer.pad_id or 0)


def test_tokens_are_the_processor_s_and_the_connector_s(model: Model) -> None:
    cost, example = told(model), asked(model)
    prompt = cost.prompt
    assert prompt.exact
    assert cost.fits
    assert prompt.tokens == len(example)
    assert prompt.tokens == prompt.template + prompt.text + sum(medium.tokens for medium in prompt.media)
    assert len(prompt.media) == len(sizes(model))
    in_sequence = sum(one.items * one.tokens for medium in prompt.media for one in medium.stretches)
    assert in_sequence == sum(span.length for span in example.spans)
    with torch.no_grad():
        made = model.module.connect(batch_of(model, example))
    connected = sum(len(item) for items in made.values() for item in items)
    assert in_sequence + sum(medium.beside for medium in prompt.media) == connected
    pictures = sum(one.items * one.pictures for medium in prompt.media for one in medium.stretches)
    assert pictures == sum(map(len, example.media.values()))


def test_words_may_be_a_number(model: Model) -> None:
    by_words, nothing = told(model), told(model, text=0)
    count = len(asked(model)) - nothing.prompt.tokens
    by_number = told(model, text=count)
    assert by_number.prompt.tokens == by_words.prompt.tokens
    assert by_number.prompt.text == count
    assert (by_number.flops, by_number.bytes) == (by_words.flops, by_words.bytes)


def test_bytes_are_what_model_and_session_hold(model: Model) -> None:
    cost, example = told(model), asked(model)
    batch = batch_of(model, example)
    with torch.no_grad():
        session = model.module.session(batch, len(example) + REPLY)
    module = model.module
    assert cost.bytes.weights == sum(x.nbytes for x in [*module.parameters(), *module.buffers()])
    assert cost.bytes.cache == session.cache.nbytes
    assert cost.bytes.per_token == module.token_bytes()
    assert cost.bytes.media == sum(pictures.nbytes for pictures in batch.media.values())
    assert [part.parameters for part in cost.parts if "." not in part.role] == [
        sum(x.numel() for x in child.parameters())
        for name, child in module.named_children()
        if any(part.role == name for part in cost.parts)
    ]
    assert sum(part.parameters for part in cost.parts) == sum(x.numel() for x in module.parameters())


def test_flops_are_those_of_the_real_run(model: Model) -> None:
    """By torch.utils.flop_counter, which does not see inside a CPU's kernels: so with attention as plain products."""
    cost, example = told(model), asked(model)
    batch, module = batch_of(model, example), model.module
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        encode, _ = counted(lambda: module.encode(batch))
        connect, _ = counted(lambda: module.connect(batch))
        prefill, session = counted(lambda: module.session(batch, len(example) + REPLY))
        steps = [counted(lambda: session.step(torch.zeros(1, dtype=torch.long)))[0] for _ in range(REPLY - 1)]
    assert cost.flops.encode == encode
    assert cost.flops.encode + cost.flops.connect == connect
    assert cost.flops.prefill == prefill
    assert cost.flops.step == steps[0]
    assert [cost.flops.reply(count + 1) for count in range(REPLY)] == [sum(steps[:count]) for count in range(REPLY)]


def test_activations_are_nearly_those_of_the_real_run(model: Model) -> None:
    short = told(model)
    room = min(short.context - short.prompt.tokens - REPLY, 48)
    words = WORDS * max(room // 6, 1)  # of few tokens kernels' own room is a share
    cost, example = told(model, text=words), asked(model, words)
    batch = batch_of(model, example)
    with torch.no_grad():
        most = peak_bytes(lambda: model.module.session(batch, len(example) + REPLY))
    assert cost.bytes.activations + cost.bytes.cache == pytest.approx(most, rel=NEARLY)
    assert cost.bytes.peak == cost.bytes.weights + cost.bytes.media + cost.bytes.activations + cost.bytes.cache


def test_a_video_is_told_by_its_length(model: Model, tmp_path: Path) -> None:
    if "video" not in model.layout.media:
        with pytest.raises(ValueError, match="this system takes no 'video'"):
            told(model, videos=["2"])
        return
    film(tmp_path / "a.mp4", 24, fps=8)
    by_length, by_file = (told(model, videos=[given]) for given in ((3, 8), str(tmp_path / "a.mp4")))
    assert by_length.prompt.tokens == by_file.prompt.tokens
    assert by_length.bytes == by_file.bytes
    assert (
        told(model, videos=["3@8"])
        == told(model, videos=["3.0s@8"])
        == replace(by_length, prompt=told(model, videos=["3@8"]).prompt)
    )
    assert by_length.prompt.media[-1].name == "video 1 3 s at 8 a second"


# What may be asked ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.ureader().save(tmp_path_factory.mktemp("cost") / "reader")


def test_a_folder_costs_what_its_model_does(reader: Path) -> None:
    assert told(scops.load(reader)) == scops.cost(reader, images=SIZES, text=WORDS, max_tokens=REPLY)


def test_an_authors_folder_costs_the_same(tmp_path: Path) -> None:
    made = tiny.ureader()
    assert told(made) == scops.cost(
        made.save(tmp_path / "theirs", "authors"), images=SIZES, text=WORDS, max_tokens=REPLY
    )


def test_a_folder_that_names_parts_costs_what_its_model_does(tmp_path: Path) -> None:
    made = spread(tmp_path)
    assert told(made) == scops.cost(tmp_path / "owl", images=SIZES, text=WORDS, max_tokens=REPLY)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_weights_cost_their_bytes(reader: Path, kind: str) -> None:
    loaded = scops.load(reader, quantise=kind)
    cost = scops.cost(reader, quantise=kind)
    assert cost.bytes.weights == sum(x.nbytes for x in [*loaded.module.parameters(), *loaded.module.buffers()])
    assert cost == scops.cost(loaded)
    assert cost.bytes.weights < scops.cost(reader).bytes.weights
    assert cost.flops == scops.cost(reader).flops
    language = {part.role: part.parameters for part in cost.parts}["language"]
    assert language == {part.role: part.parameters for part in scops.cost(reader).parts}["language"]


def test_a_dtype_is_kept_or_asked_for(reader: Path, tmp_path: Path) -> None:
    half = scops.cost(reader, images=["90x40"], dtype="bfloat16")
    whole = scops.cost(reader, images=["90x40"])
    for name in ("weights", "media", "cache", "per_token"):
        assert getattr(half.bytes, name) * 2 == getattr(whole.bytes, name)
    made = tiny.ureader()
    made.module.to(torch.bfloat16)
    assert scops.cost(made.save(tmp_path / "half"), images=["90x40"]) == half
    with pytest.raises(ValueError, match="there is no dtype 'float8'"):
        scops.cost(reader, dtype="float8")


def test_a_config_alone_is_enough_and_words_are_estimated(reader: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((reader / "config.json").read_text())
    cost, exact = (scops.cost(where, images=["90x40"], text=9) for where in (tmp_path, reader))
    assert not cost.prompt.exact
    assert [medium.tokens for medium in cost.prompt.media] == [medium.tokens for medium in exact.prompt.media]
    assert cost.parts == exact.parts
    assert scops.cost(tmp_path, images=["90x40"], text=9, tokenizer=reader) == exact


def test_what_does_not_fit_is_counted_all_the_same(reader: Path) -> None:
    cost = scops.cost(reader, text=500)
    assert not cost.fits
    assert cost.prompt.tokens > 500 > cost.context
    assert cost.reply == 0
    nearly = scops.cost(reader, text=cost.context - (cost.prompt.tokens - 500) - 2)
    assert nearly.fits
    assert nearly.reply == 2


def test_numbers_of_a_system_may_be_changed(reader: Path) -> None:
    cost, other = (scops.cost(reader, images=["90x40"], changes=c) for c in ({}, {"abstractor": {"queries": 7}}))
    (medium,), (wider,) = cost.prompt.media, other.prompt.media
    assert wider.tokens == medium.tokens // 4 * 8
    with pytest.raises(ValueError, match="no field 'querys'; did you mean 'queries'"):
        scops.cost(reader, changes={"abstractor": {"querys": 7}})


def test_pages_are_pictures_of_a4(reader: Path) -> None:
    pages, pictures = scops.cost(reader, pages=2), scops.cost(reader, images=["1191x1684"] * 2)
    assert pages == pictures


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"images": ["0x4"]}, "the picture is 4x0, so it has no pixels"),
        ({"images": ["99999x99999"]}, "over the limit of"),
        ({"images": ["1344"]}, "'1344' is neither a size"),
        ({"videos": ["soon"]}, "'soon' is neither a length"),
        ({"videos": [(0, 25)]}, "not 0 at 25"),
        ({"quantise": "int3"}, "cannot be quantised to 'int3'"),
    ],
)
def test_what_cannot_be_counted_is_told(reader: Path, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        scops.cost(reader, **given)


def test_names_that_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'owl-tiny'"):
        scops.cost("owl-tyni")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="is a file, but costs are told of a size"):
        scops.cost(tmp_path / "a.gguf")


def test_a_published_size_costs_about_twice_its_parameters_a_token() -> None:
    cost = scops.cost("mplug-owl-llama-7b", images=["336x336"], text=200, dtype="bfloat16")
    parameters = {part.role: part.parameters for part in cost.parts}
    layers = parameters["language"] - 2 * 32000 * 4096
    assert parameters["language"] == 6_738_415_616
    assert cost.flops.read == pytest.approx(
        2 * layers * cost.prompt.tokens, rel=0.03
    )  # scores of attention come on top
    assert cost.bytes.per_token == 2 * 2 * 32 * 4096  # keys and values, two bytes, layers, width
    assert cost.bytes.weights == 2 * sum(parameters.values())
    assert SYSTEMS["mplug-owl"].sizes[0] in module_of("mplug-owl").SIZES
