"""A data set of pages with small letters: forms and prose in real fonts, and questions about what is written.

python -m bench.pages FOLDER --rows 3000: JSONL in the `messages` form, as `scops train` and `scops eval` read it. Letters are
too small to be read when the whole page becomes one small view, and large enough in its tiles.
"""

import argparse
import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from bench.page_cells import cells, centres
from bench.page_text import QUESTIONS, SPLITS, VALUES, Content, bare, content, followers, sentences
from scops.checkpoints.write import save_json, save_text
from scops.demo.album import Album, dice_of
from scops.demo.pictures import faces, font
from scops.demo.row import picture, text

FORMAT = 2
"""Counted up whenever the same plan would make other rows or pictures."""
MANIFEST = "manifest.yaml"
TASKS = ("field", "next", "read", "cells")
SPACING = 1.45
"""Of lines of prose, and of a line's height, by the size of letters."""
PALE, DEEP = (236, 256), (0, 70)

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Plan:
    """Args:
    rows: training questions; held: held-out ones.
    height, width: of every page, in pixels.
    smallest, largest: size of letters, in pixels.
    fewest, most: fields of a form.
    asked: questions per page, one of each task in turn.
    tasks: of TASKS, joined by commas: a field's value, the word after a word, all that is written, what each cell holds.
    lower, aside: how far down and to the right what is written may stand at most, in pixels; raster: by whole multiples of
        how many pixels it may stand still further down, 0 for none.
    margin, title, spacing: of the page, letters of the title (0 for none), and from line to line of a form, by the size of letters.
    unseen: 1 where held-out pages have values that no training page has, 0 where the pages alone are new.
    part, cell: sides in pixels of the part of a page that "cells" shows, from anywhere on it, and of its cells.
    """

    rows: int = 3000
    held: int = 300
    seed: int = 0
    height: int = 448
    width: int = 336
    smallest: int = 12
    largest: int = 15
    fonts: int = 0
    fewest: int = 3
    most: int = 5
    kinds: str = ",".join(VALUES)
    prose: int = 4
    lower: int = 10_000
    aside: int = 0
    raster: int = 0
    margin: float = 1.0
    title: float = 1.5
    spacing: float = SPACING
    asked: int = 2
    tasks: str = "field,next"
    unseen: int = 1
    part: int = 48
    cell: int = 8


@dataclass(frozen=True)
class Word:
    """One that is drawn, with its place."""

    text: str
    box: Box
    face: str
    size: int


@dataclass(frozen=True)
class Page:
    """A page that is laid out.

    Args:
        fields: by key, the words of its value.
        passage: the words of the prose that found room.
        lines: all that is written, line by line.
    """

    content: Content
    title: tuple[Word, ...]
    keys: tuple[Word, ...]
    fields: dict[str, tuple[Word, ...]]
    passage: tuple[Word, ...]

    @property
    def words(self) -> tuple[Word, ...]:
        return (*self.title, *self.keys, *(word for value in self.fields.values() for word in value), *self.passage)

    @property
    def lines(self) -> list[str]:
        prose: dict[int, list[str]] = {}
        for word in self.passage:
            prose.setdefault(word.box[1], []).append(word.text)
        fields = [f"{key}: {value}" for key, value in self.content.fields]
        return [self.content.title, *fields, *(" ".join(line) for line in prose.values())]


@dataclass(frozen=True)
class Asked:
    """Args:
    answer: in the letters of the page; box: where it stands; part: what is shown instead of the whole page.
    """

    task: str
    question: str
    answer: str
    box: Box
    part: Box | None = None


def laid_out(plan: Plan, split: str, dice: random.Random) -> Page:
    """Title, form and as much of the prose as the page has room for."""
    made = content(split, plan.kinds.split(","), (plan.fewest, plan.most), plan.prose, dice, unseen=bool(plan.unseen))
    size = dice.randint(plan.smallest, plan.largest)
    face, margin, step = (
        dice.choice(faces()[: plan.fonts or None]),
        round(size * plan.margin),
        round(size * plan.spacing),
    )
    title, top = [], margin
    if plan.title:
        title = _line(made.title, margin, margin, face, round(size * plan.title))
        top += round(size * plan.title * SPACING) + size // 2
    column = margin + max(_wide(f"{key}:", face, size) for key, _ in made.fields) + size
    keys, fields = [], {}
    for key, value in made.fields:
        keys += _line(f"{key}:", margin, top, face, size)
        fields[key] = tuple(_line(value, column, top, face, size))
        top += step
    passage = _paragraph(made.passage, margin, top + step, plan, face, size)
    shown = dataclasses.replace(
        made, title=made.title if plan.title else "", passage=tuple(word.text for word in passage)
    )
    page = Page(shown, tuple(title), tuple(keys), fields, tuple(passage))
    low = max(word.box[3] for word in page.words)
    right = max(word.box[2] for word in page.words)
    if low > plan.height or right > plan.width:
        raise ValueError(
            f"a form of {len(made.fields)} fields in letters of {size} needs {right} x {low} pixels, but the page has "
            f"{plan.width} x {plan.height}; ask for a larger page, fewer fields or smaller letters"
        )
    by = dice.randint(0, min(plan.width - right, plan.aside)), dice.randint(0, min(plan.height - low, plan.lower))
    if plan.raster:
        by = by[0], by[1] + plan.raster * dice.randint(0, (plan.height - low - by[1]) // plan.raster)
    return dataclasses.replace(
        page, title=_moved(page.title, by), keys=_moved(page.keys, by), passage=_moved(page.passage, by),
        fields={key: _moved(words, by) for key, words in page.fields.items()},
    )  # fmt: skip


def _moved(words: tuple[Word, ...], by: tuple[int, int]) -> tuple[Word, ...]:
    """What is written stands so many pixels further right and further down."""
    x, y = by
    return tuple(
        dataclasses.replace(word, box=(word.box[0] + x, word.box[1] + y, word.box[2] + x, word.box[3] + y))
        for word in words
    )


def _line(words: str, left: int, top: int, face: str, size: int) -> list[Word]:
    made = []
    for word in words.split():
        right = left + _wide(word, face, size)
        made.append(Word(word, (left, top, right, top + round(size * SPACING)), face, size))
        left = right + _wide(" ", face, size)
    return made


def _paragraph(words: tuple[str, ...], left: int, top: int, plan: Plan, face: str, size: int) -> list[Word]:
    made, x, step = [], left, round(size * SPACING)
    for word in words:
        wide = _wide(word, face, size)
        if x > left and x + wide > plan.width - left:
            x, top = left, top + step
        if top + step > plan.height - left // 2:
            break
        made.append(Word(word, (x, top, x + wide, top + step), face, size))
        x += wide + _wide(" ", face, size)
    return made


def _wide(words: str, face: str, size: int) -> int:
    return round(font(face, size).getlength(words))


def painted(page: Page, plan: Plan, dice: random.Random) -> Image.Image:
    """Dark letters on pale paper."""
    paper, ink = (tuple(dice.randrange(*span) for _ in "rgb") for span in (PALE, DEEP))
    image = Image.new("RGB", (plan.width, plan.height), paper)
    pen = ImageDraw.Draw(image)
    for word in page.words:
        pen.text(word.box[:2], word.text, fill=ink, font=font(word.face, word.size))
    return image


def questions(page: Page, plan: Plan, dice: random.Random) -> Iterator[Asked]:
    """As many as are asked of a page, no two alike."""
    tasks = [task for task in plan.tasks.split(",") if task != "next" or followers(page.content)]
    open_keys, open_words, written = [*page.fields], followers(page.content), [*letters(page)]
    for number in range(plan.asked):
        task = tasks[number % len(tasks)]
        if task == "cells":
            left, top = dice.randint(0, plan.width - plan.part), dice.randint(0, plan.height - plan.part)
            part = left, top, left + plan.part, top + plan.part
            yield Asked(task, "Read the cells.", cells(written, part, plan.cell), part, part)
        elif task == "read" and number < len(tasks):
            yield Asked(task, "Read the page.", "\n".join(page.lines), (0, 0, plan.width, plan.height))
        elif task == "field" and open_keys:
            key = open_keys.pop(dice.randrange(len(open_keys)))
            yield Asked(task, QUESTIONS[key], dict(page.content.fields)[key], _around(page.fields[key]))
        elif task == "next" and open_words:
            at = open_words.pop(dice.randrange(len(open_words)))
            word, after = page.passage[at], page.passage[at + 1]
            yield Asked(task, f'Which word follows "{word.text}"?', bare(after.text), after.box)


def letters(page: Page) -> Iterator[tuple[str, float, float]]:
    return (one for word in page.words for one in centres(word.text, *word.box[:2], word.face, word.size))


def _around(words: tuple[Word, ...]) -> Box:
    boxes = [*zip(*(word.box for word in words), strict=True)]
    return min(boxes[0]), min(boxes[1]), max(boxes[2]), max(boxes[3])


def rows(album: Album, plan: Plan, split: str) -> Iterator[dict[str, Any]]:
    wanted, made, number = plan.rows if split == "train" else plan.held, 0, 0
    while made < wanted:
        name, dice = f"{split}/{number}", dice_of(plan.seed, "page", split, number)
        page = laid_out(plan, split, dice)
        asked = [*questions(page, plan, dice)][: wanted - made]
        whole = cache(lambda page=page, name=name: painted(page, plan, dice_of(plan.seed, name)))
        for at, one in enumerate(asked):
            called = f"{name}-{at}" if one.part else name
            path = album.add(called, lambda _, whole=whole, part=one.part: whole().crop(part))
            question = {"role": "user", "content": [picture(path), text(one.question)]}
            answer = {"role": "assistant", "content": [text(one.answer)]}
            yield {
                "id": f"page/{name}/{at}", "split": split, "task": one.task, "truth": {one.task: one.answer},
                "box": one.box, "messages": [question, answer],
            }  # fmt: skip
        made += len(asked)
        number += 1


def prepare(folder: Path, plan: Plan = Plan()) -> Path:
    """The data set's folder; made once.

    Raises:
        ValueError: the folder holds something else, or the plan has no room on a page.
    """
    for asked, known in ((plan.tasks, TASKS), (plan.kinds, VALUES)):
        if unknown := set(asked.split(",")) - set(known):
            raise ValueError(f"{sorted(unknown)} are not among {', '.join(known)}")
    if "cells" in plan.tasks.split(",") and (plan.part % plan.cell or plan.part > min(plan.height, plan.width)):
        raise ValueError(
            f"a part of {plan.part} pixels of a page of {plan.width} x {plan.height} is to be of whole cells of {plan.cell}"
        )
    words = hashlib.sha256(json.dumps(sentences()).encode()).hexdigest()[:16]
    recipe = {
        "format": FORMAT,
        "plan": dataclasses.asdict(plan),
        "text": words,
        "fonts": [Path(f).name for f in faces()],
    }
    if folder.exists():
        held = folder / MANIFEST
        if not held.is_file() or json.loads(held.read_text("utf-8"))["recipe"] != recipe:
            raise ValueError(f"{folder} holds something else than pages of this plan; name another folder")
        return folder
    making = folder.with_name(f"{folder.name}.making")
    making.mkdir(parents=True, exist_ok=True)
    album, counts = Album(making, seed=plan.seed, side=plan.height), {}
    for split in SPLITS:
        found = [*rows(album, plan, split)]
        save_text(making / f"{split}_pages.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
        counts[split] = len(found)
    save_json(making / MANIFEST, {"recipe": recipe, "rows": counts})
    return making.rename(folder)


if __name__ == "__main__":
    words = argparse.ArgumentParser(prog="python -m bench.pages")
    words.add_argument("folder", type=Path)
    for one in dataclasses.fields(Plan):
        words.add_argument(f"--{one.name}", type=type(one.default), default=one.default)
    chosen = vars(words.parse_args())
    print(prepare(chosen.pop("folder"), Plan(**chosen)))
