"""Scores and retrieval over every system that compares, against the system asked pair by pair."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import scops
from scops.core.sample import Media, Sample, Text, Turn
from scops.lab import retrieval
from scops.model import Model
from scops.systems import COMPARING, blip2_qformer, mplug
from tests import tiny
from tests.conftest import batch_of, close

COLOURS = ("red", "green", "blue", "white", "black", "orange", "purple", "gray", "pink", "brown", "cyan")
TEXTS = ("an owl", "the user asks", "what is this? a branch on the owl", "on")
COMPARERS = {name: tiny.MODELS[name] for name in ("skip", "blip2_pairs")}


@pytest.fixture(scope="module", params=COMPARERS)
def model(request: pytest.FixtureRequest) -> Model:
    torch.manual_seed(4)
    return COMPARERS[request.param]()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures in a folder and below it; the cache stands beside."""
    monkeypatch.setenv("SCOPS_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "pictures"
    (made / "below").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        picture = Image.new("RGB", (40 + number, 50), colour)
        picture.paste(COLOURS[-number - 1], (0, 0, 20, 20 + number))
        picture.save((made / "below" if number % 2 else made) / f"{colour}.png")
    return made


def pair(model: Model, picture: Media, text: str) -> tuple[float, torch.Tensor]:
    """Cosine and verdict of one pair, by a batch of its own."""
    turns = Turn("user", (picture,)), Turn("assistant", (Text(text),), learn=True)
    batch = batch_of(model.processor(Sample(turns)))
    system = model.module
    with torch.no_grad():
        said = system.verdicts(system.connect(batch)["image"], system.texts(*system.captions(batch)))[0]
    return float(system.similarities(batch)), said


def test_scores_are_those_of_each_pair_alone(model: Model, folder: Path) -> None:
    paths = [folder / "red.png", folder / "below" / "green.png", folder / "blue.png"]
    found = model.score(paths, TEXTS)
    assert found.pictures == tuple(map(str, paths))
    for row, path in enumerate(paths):
        for column, text in enumerate(TEXTS):
            alike, said = pair(model, Media("image", path), text)
            assert found.likeness_NK[row, column] == pytest.approx(alike, abs=5e-5)
            assert close(found.match_NK[row, column], said.softmax(-1)[1])
            rank = said[1] + model.module.pairing.likeness * alike
            assert close(found.rank_NK[row, column], rank)
    pictures = [Image.open(path) for path in paths]
    assert close(model.score(pictures, TEXTS).match_NK, found.match_NK)


@pytest.mark.parametrize("judged", [0, 1, 4, 50])
def test_pictures_are_ranked_as_pair_by_pair(model: Model, folder: Path, judged: int) -> None:
    paths = sorted(folder.rglob("*.png"))
    alone = {str(path): pair(model, Media("image", path), TEXTS[2]) for path in paths}
    alike = sorted(alone, key=lambda name: -alone[name][0])
    rank = lambda name: float(alone[name][1][1]) + model.module.pairing.likeness * alone[name][0]
    wanted = [*sorted(alike[:judged], key=rank, reverse=True), *alike[judged:]]
    told: list[tuple[int, int]] = []
    found = model.retrieve(folder, text=TEXTS[2], judged=judged, told=lambda *numbers: told.append(numbers)).found
    assert [one.name for one in found] == wanted
    assert [one.match is not None for one in found] == [at < judged for at in range(len(paths))]
    for one in found:
        assert one.likeness == pytest.approx(alone[one.name][0], abs=5e-5)
        assert str(paths[one.number]) == one.name
        if one.match is not None:
            assert one.match == pytest.approx(float(alone[one.name][1].softmax(-1)[1]), abs=5e-5)
            assert one.rank == pytest.approx(rank(one.name), abs=5e-5)
    assert told == [(8, 11), (11, 11)]


@pytest.mark.parametrize("judged", [0, 2, 9])
def test_texts_are_ranked_as_pair_by_pair(model: Model, folder: Path, tmp_path: Path, judged: int) -> None:
    path, many = folder / "red.png", [f"{text} {number}" for number in range(3) for text in TEXTS]
    (tmp_path / "lines.txt").write_text("\n\n".join(many) + "\n", "utf-8")
    found = model.retrieve(tmp_path / "lines.txt", image=path, judged=judged)
    assert found == model.retrieve(many, image=path, judged=judged)
    alone = {text: pair(model, Media("image", path), text) for text in many}
    alike = sorted(alone, key=lambda name: -alone[name][0])
    rank = lambda name: float(alone[name][1][1]) + model.module.pairing.likeness * alone[name][0]
    assert [one.name for one in found.found] == [*sorted(alike[:judged], key=rank, reverse=True), *alike[judged:]]


def test_vectors_are_read_again_by_content_and_never_of_other_weights(
    model: Model, folder: Path, tmp_path: Path
) -> None:
    looked: list[int] = []
    hook = model.module.image.encoder.register_forward_hook(lambda _, given, __: looked.append(len(given[0])))
    first = model.retrieve(folder, text=TEXTS[0], judged=0)
    assert sum(looked) >= len(COLOURS)
    looked.clear()
    (folder / "red.png").rename(folder / "moved.png")
    again = model.retrieve(folder, text=TEXTS[0], judged=0)
    assert not looked
    assert [one.likeness for one in again.found] == [one.likeness for one in first.found]
    assert model.retrieve(folder, text=TEXTS[1], judged=0, keep=False).found
    assert looked
    looked.clear()
    Image.new("RGB", (9, 9), "yellow").save(folder / "blue.png")
    changed = model.retrieve(folder, text=TEXTS[0], judged=0)
    assert 1 <= sum(looked) <= retrieval.GROUP
    assert [one.likeness for one in changed.found] != [one.likeness for one in first.found]
    with torch.no_grad():
        weight = model.module.pairs.picture.weight
        kept = weight.clone()
        weight.mul_(-1)
    other = model.retrieve(folder, text=TEXTS[0], judged=0)
    with torch.no_grad():
        weight.copy_(kept)
    hook.remove()
    assert {one.name: one.likeness for one in other.found} != {one.name: one.likeness for one in changed.found}
    assert len(list((tmp_path / "cache" / "vectors").iterdir())) == 2


def test_what_is_no_picture_is_left_out_and_named(model: Model, folder: Path) -> None:
    (folder / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 30)
    (folder / "notes.txt").write_text("no picture")
    found = model.retrieve(folder, text=TEXTS[0], judged=3)
    assert len(found.found) == len(COLOURS)
    assert len(found.unread) == 1
    assert "torn.png" in found.unread[0]
    only = folder / "only"
    only.mkdir()
    (folder / "torn.png").rename(only / "torn.png")
    with pytest.raises(ValueError, match=r"none of 1 pictures can be read: .*torn\.png"):
        model.retrieve(only, text=TEXTS[0])


def test_questions_that_cannot_be_asked_are_named(model: Model, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a text to find pictures by, or an image to find texts by: one of them"):
        model.retrieve(folder)
    with pytest.raises(ValueError, match="one of them"):
        model.retrieve(folder, text="an owl", image=folder / "red.png")
    with pytest.raises(ValueError, match="is no folder"):
        model.retrieve(folder / "nowhere", text="an owl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        model.retrieve(tmp_path / "empty", text="an owl")
    with pytest.raises(ValueError, match="is no file"):
        model.retrieve(tmp_path, image=folder / "red.png")
    with pytest.raises(ValueError, match="judged is 0 or more, not -1"):
        model.retrieve(folder, text="an owl", judged=-1)
    with pytest.raises(ValueError, match="text 1 has no words"):
        model.score([folder / "red.png"], ["an owl", " "])
    with pytest.raises(ValueError, match="1 pictures and 0 texts"):
        model.score([folder / "red.png"], [])
    (folder / "red.png").write_bytes(b"hm")
    with pytest.raises(ValueError, match=r"red\.png"):
        model.score([folder / "red.png"], ["an owl"])


@pytest.mark.parametrize("name", tiny.MODELS)
def test_systems_that_write_alone_say_which_compare(name: str, folder: Path) -> None:
    made = tiny.MODELS[name]()
    compares = name in COMPARERS
    assert (made.system in COMPARING) == compares
    if not compares:
        with pytest.raises(
            ValueError, match=f"writes text, it does not compare .* these systems do: {', '.join(COMPARING)}"
        ):
            made.score([folder / "red.png"], ["an owl"])


def test_an_mplug_without_heads_says_so(folder: Path) -> None:
    model = tiny.skip()
    model.spec = replace(model.spec, pairing=None)
    model.module = mplug.build(model.spec)
    with pytest.raises(ValueError, match="without heads for pairs"):
        model.score([folder / "red.png"], ["an owl"])


def test_a_folder_of_transformers_compares_and_does_not_write(folder: Path, tmp_path: Path) -> None:
    model = tiny.blip2_pairs()
    spec = replace(model.spec, writes=False, eps=model.spec.vision.eps)
    compares = blip2_qformer.build(spec)
    compares.load_state_dict(model.module.state_dict(), strict=False)
    model.spec, model.module = spec, compares.eval()
    loaded = scops.load(model.save(tmp_path / "m", "transformers"))
    assert loaded.spec == spec
    paths = [folder / "red.png", folder / "blue.png"]
    assert close(loaded.score(paths, TEXTS).match_NK, model.score(paths, TEXTS).match_NK)
    with pytest.raises(ValueError, match="has no head that writes"):
        loaded.chat("an owl", [paths[0]])
