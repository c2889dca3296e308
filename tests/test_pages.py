"""Pages of text: the same from the same plan, answers stand where they are said to, splits share no content."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scops
from bench.document_reading import CELL, LONGER, PAGE, SETS, SIDE, SIZES, TILE, WAYS, characters, structure, tasks
from bench.page_cells import BLANK, cells
from bench.page_text import FORMS, QUESTIONS, VALUES, bare, sentences, split_of
from bench.pages import MANIFEST, Page, Plan, laid_out, letters, painted, prepare, questions
from scops.core.sample import Media
from scops.data.readers import open_dataset
from scops.data.tokenizer import Tokenizer
from scops.demo.album import dice_of
from scops.lab.evaluation import questions as exam
from scops.model.training import build

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
    with pytest.raises(ValueError, match="are not among field, next, read, cells"):
        prepare(tmp_path / "odd", replace(PLAN, tasks="field,sing"))


def test_a_cell_says_the_letter_that_is_drawn_in_it() -> None:
    plan = replace(PLAN, **PAGE, fewest=3, most=3)
    for number in range(20):
        one = page(number, plan=plan)
        grey = np.asarray(painted(one, plan, dice_of("ink")).convert("L"))
        said = cells(letters(one), (0, 0, plan.width, plan.height), plan.cell)
        rows, columns = plan.height // plan.cell, plan.width // plan.cell
        assert len(said) == rows * columns
        for at, letter in enumerate(said):
            top, left = at // columns * plan.cell, at % columns * plan.cell
            if letter != BLANK:
                assert grey[top - 4 : top + plan.cell + 4, left : left + plan.cell].min() < 160, (number, letter)
        lines = [said[row * columns : (row + 1) * columns].replace(BLANK, "") for row in range(rows)]
        for value in one.fields.values():
            digits = value[0].text if Path(value[0].face).name else ""  # Pillow's own digits are narrower than a cell
            assert any(line.endswith(digits) for line in lines)


def test_no_border_of_tiles_runs_along_a_line_of_a_receipt() -> None:
    places = set()
    for name in ("one", "three"):
        plan = replace(PLAN, **PAGE, **SETS[name])
        for number in range(20):
            one = page(number, plan=plan)
            rows = [row for row in range(SIDE) if (np.asarray(painted(one, plan, dice_of("ink")))[row].min() < 120)]
            assert len({row // TILE for row in rows}) == len(one.fields)
            assert not {row for row in rows if row % TILE == 0} & {row + 1 for row in rows}
            places |= {word.box[1] // TILE for word in one.words if name == "one"}
    assert places == {0, 1, 2}


def test_the_nearest_of_two_letters_in_a_cell_is_kept() -> None:
    there = [("a", 1.0, 4.0), ("b", 5.0, 4.0), ("c", 15.9, 12.0), ("d", 20.0, 4.0), ("e", -1.0, 4.0)]
    assert cells(there, (0, 0, 16, 16), 8) == "b  c"
    assert cells(there, (8, 8, 16, 16), 8) == "c"


def test_parts_of_pages_are_pictures_of_their_own(tmp_path: Path) -> None:
    made = prepare(tmp_path / "parts", replace(PLAN, **PAGE, **SETS["parts"], rows=8, held=2))
    for row in rows_of(made, "train"):
        left, top, right, bottom = row["box"]
        with Image.open(made / row["messages"][0]["content"][0]["image"]) as image:
            assert image.size == (right - left, bottom - top) == (TILE, TILE)
        assert len(answer_of(row)) == (TILE // CELL) ** 2
    with pytest.raises(ValueError, match="whole cells"):
        prepare(tmp_path / "odd", replace(PLAN, tasks="cells", part=30))


def test_ways_of_document_reading_differ_in_the_cut_alone(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(characters(tmp_path / "tokenizer"))
    scops.create("docowl1.5-chat", SIZES, tokenizer=tokenizer, pretrained=False).save(tmp_path / "begun")
    models = {way: build(tasks(way, tmp_path, 9, tmp_path / "begun")) for way in (*WAYS, LONGER)}
    states = [model.module.state_dict() for model in models.values()]
    assert all(torch.equal(value, state[path]) for state in states for path, value in states[0].items())
    pictures = {way: len(model.layout.media["image"].cut_of(SIDE, SIDE)) for way, model in models.items()}
    assert pictures == {"nine tiles": 9, "one view": 1, LONGER: 1}
    assert [stage.max_steps for stage in tasks(LONGER, tmp_path, 9, tmp_path).staged()] == [2, 7]
    assert tokenizer.decode(tokenizer.encode_text("B2.07 é"), skip_special=True) == "B2.07 é"


def test_a_part_of_a_page_has_a_token_for_each_of_its_cells(tmp_path: Path) -> None:
    characters(tmp_path / "data" / "tokenizer")
    made = prepare(tmp_path / "data" / "parts", Plan(rows=4, held=2, **PAGE, **SETS["parts"]))
    model = build(structure(tmp_path, 1))
    for sample in open_dataset(made / "train_pages.jsonl"):
        example = model.processor(sample)
        (span,) = example.spans
        learnt = model.tokenizer.decode(example.ids_T[example.learn_T].tolist(), skip_special=False)
        assert span.length == int(example.learn_T.sum()) == (TILE // CELL) ** 2 + 1
        assert learnt == f"{sample.turns[-1].parts[0].text}</s>"
