"""Pages of text: the same from the same plan, answers stand where they are said to, splits share no content."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.page_text import FORMS, QUESTIONS, VALUES, bare, sentences, split_of
from bench.pages import MANIFEST, Page, Plan, laid_out, painted, prepare, questions
from scops.core.sample import Media
from scops.data.readers import open_dataset
from scops.demo.album import dice_of
from scops.lab.evaluation import questions as exam
from scops.systems import SYSTEMS

PLAN = Plan(rows=30, held=12, asked=3, tasks="field,next,read")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("pages") / "data", PLAN)


def rows_of(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}_pages.jsonl").read_text("utf-8").splitlines()]


def page(number: int, split: str = "train", plan: Plan = PLAN) -> Page:
    return laid_out(plan, split, dice_of("test", number))


def answer_of(row: dict) -> str:
    return row["messages"][1]["content"][0]["text"]


def test_the_same_plan_makes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = prepare(tmp_path / "again", PLAN)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((folder / path).read_bytes() == (again / path).read_bytes() for path in files)
    other = prepare(tmp_path / "other", replace(PLAN, seed=1))
    assert rows_of(other, "train") != rows_of(folder, "train")


def test_a_folder_of_another_plan_is_left_alone(folder: Path) -> None:
    assert prepare(folder, PLAN) == folder
    with pytest.raises(ValueError, match="name another folder"):
        prepare(folder, replace(PLAN, seed=7))
    assert json.loads((folder / MANIFEST).read_text("utf-8"))["rows"] == {"train": 30, "heldout": 12}


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_answers_are_drawn_where_their_boxes_say(folder: Path, split: str) -> None:
    rows = rows_of(folder, split)
    assert {row["task"] for row in rows} == {"field", "next", "read"}
    for row in rows:
        with Image.open(folder / row["messages"][0]["content"][0]["image"]) as image:
            assert image.size == (PLAN.width, PLAN.height)
            left, top, right, bottom = row["box"]
            assert 0 <= left < right <= PLAN.width
            assert 0 <= top < bottom <= PLAN.height
            grey = np.asarray(image.convert("L"))
        assert (grey[top:bottom, left:right] < 120).sum() > 10 * len(answer_of(row)) ** 0.5


@pytest.mark.parametrize("number", range(20))
def test_words_stand_inside_the_page_and_apart(number: int) -> None:
    words = page(number).words
    for word in words:
        assert 0 <= word.box[0] < word.box[2] <= PLAN.width
        assert 0 <= word.box[1] < word.box[3] <= PLAN.height
    for at, a in enumerate(words):
        for b in words[at + 1 :]:
            across = a.box[0] < b.box[2] and b.box[0] < a.box[2]
            assert not (across and a.box[1] < b.box[3] and b.box[1] < a.box[3]), f"{a} lies on {b}"


def test_only_the_box_of_an_answer_changes_with_it() -> None:
    """What is painted in the box is the answer: without the word, that part of the page alone is bare."""
    full = page(3)
    key, value = next(iter(full.fields.items()))
    less = replace(full, fields={**full.fields, key: ()})
    one, other = (np.asarray(painted(p, PLAN, dice_of("ink"))).astype(int) for p in (full, less))
    rows, columns = np.nonzero(np.abs(one - other).sum(2))
    assert len(rows)
    assert min(columns) >= min(word.box[0] for word in value) - 1
    assert max(columns) <= max(word.box[2] for word in value) + 1
    assert min(rows) >= value[0].box[1]
    assert max(rows) <= value[0].box[3]


@pytest.mark.parametrize("number", range(20))
def test_a_question_has_one_answer_on_its_page(number: int) -> None:
    one = page(number)
    written = [bare(word.text) for word in one.words]
    for asked in questions(one, PLAN, dice_of("ask", number)):
        if asked.task == "next":
            word = asked.question.split('"')[1]
            assert written.count(bare(word)) == 1
            at = [bare(w.text) for w in one.passage].index(bare(word))
            assert bare(one.passage[at + 1].text) == asked.answer
        elif asked.task == "field":
            (key,) = [key for key in one.fields if QUESTIONS[key] == asked.question]
            assert " ".join(word.text for word in one.fields[key]) == asked.answer
        else:
            assert asked.answer.split() == " ".join(one.lines).split()


def test_splits_share_no_sentence_and_no_value(folder: Path) -> None:
    train, held = (set(sentences()[split]) for split in ("train", "heldout"))
    assert train
    assert held
    assert not train & held
    answers = {
        split: {answer_of(r) for r in rows_of(folder, split) if r["task"] == "field"} for split in ("train", "heldout")
    }
    assert not answers["train"] & answers["heldout"]
    assert {split_of(value) for value in answers["heldout"]} == {"heldout"}


def test_every_kind_of_value_has_some_of_both_splits() -> None:
    for kind, make in VALUES.items():
        dice = dice_of(kind)
        assert {split_of(make(dice)) for _ in range(2000)} == {"train", "heldout"}, kind
    assert {key for form in FORMS.values() for key in form} == set(QUESTIONS)
    assert {kind for form in FORMS.values() for kind in form.values()} == set(VALUES)


def test_rows_are_read_as_samples_and_as_an_examination(folder: Path) -> None:
    data = open_dataset(folder / "heldout_pages.jsonl")
    assert (len(data), data.form) == (12, "messages")
    (media,) = data[0].media
    assert isinstance(media, Media)
    asked = exam(data[0])[0]
    assert asked.task == "field"
    assert asked.truths == asked.answers


def test_letters_are_lost_in_one_small_view_and_kept_in_tiles() -> None:
    """Neighbouring digits differ clearly in a tile of the page and hardly in a view of a quarter of its size."""

    def differs(by: int) -> float:
        one, other = (_digit(digit, by) for digit in "38")
        return float(np.abs(one - other).max())

    assert differs(1) > 3 * differs(5)


def _digit(digit: str, by: int) -> np.ndarray:
    """A page with one value, made smaller, between 0 and 1."""
    one = page(5)
    key, value = next(iter(one.fields.items()))
    shown = replace(one, fields={**one.fields, key: (replace(value[0], text=digit),)})
    image = painted(shown, PLAN, dice_of("ink")).convert("L")
    small = image.resize((PLAN.width // by, PLAN.height // by), Image.Resampling.BICUBIC)
    return np.asarray(small, np.float32) / 255


def test_a_page_without_room_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ask for a larger page"):
        prepare(tmp_path / "small", replace(PLAN, width=60))
    with pytest.raises(ValueError, match="are not among field, next, read"):
        prepare(tmp_path / "odd", replace(PLAN, tasks="field,sing"))


@pytest.mark.skipif("docowl1.5" not in SYSTEMS, reason="reads with DocOwl 1.5")
def test_variants_of_document_reading_differ_in_the_cut_alone(tmp_path: Path) -> None:
    from bench.document_reading import PAGES, VARIANTS, characters, run_of
    from scops.model.training import build

    characters(tmp_path / "tokenizer")
    plan = replace(PLAN, **PAGES)
    media, models = {}, {}
    for variant in VARIANTS:
        run = run_of(variant, tmp_path, 8, 2)
        models[variant] = build(run)
        media[variant] = models[variant].layout.media["image"]
    shapes = [[(path, p.shape) for path, p in model.module.named_parameters()] for model in models.values()]
    assert shapes[0] == shapes[1]
    pictures = {variant: len(one.cut_of(plan.height, plan.width)) for variant, one in media.items()}
    assert pictures == {"tiles": 13, "one view": 1}
    tokenizer = models["tiles"].tokenizer
    assert tokenizer.decode(tokenizer.encode_text("B2.07 é"), skip_special=True) == "B2.07 é"
