"""Rows about one thing, and about which of several pictures shows it."""

import random
from collections.abc import Iterator, Sequence

from PIL import Image

from scops.demo import wording
from scops.demo.album import Album, dice_of
from scops.demo.concepts import Concept, Gallery
from scops.demo.pictures import single
from scops.demo.row import Row

Shown = tuple[str, Concept]
"""A picture's path and what it shows."""


def training_names(gallery: Gallery, album: Album, *, variants: int, chinese: float) -> Iterator[Row]:
    """Every trained concept in every trained style, in several pictures: its name, its kind, or both in two turns."""
    for concept in gallery.trained:
        for style in gallery.styles_of(concept):
            for variant in range(variants):
                path = single_picture(gallery, album, concept, style, folder="train", variant=variant)
                dice = dice_of(album.seed, "ask", path)
                turns = {task: asked(task, concept, dice) for task in picked_tasks(dice, chinese, concept)}
                yield name_row(path, concept, style, split="train", turns=turns)


def picked_tasks(dice: random.Random, chinese: float, concept: Concept) -> tuple[str, ...]:
    """Kind first about as often as name first, so that neither is only learnt from the other's words."""
    if concept.chinese and dice.random() < chinese:
        return ("chinese",)
    return dice.choice((("name",), ("kind",), ("name", "kind"), ("kind", "name")))


def held_names(gallery: Gallery, album: Album, shown: Sequence[tuple[Concept, str]], *, split: str) -> Iterator[Row]:
    """One picture of each, asked for its name and for its kind in rows of their own."""
    for concept, style in shown:
        path = single_picture(gallery, album, concept, style, folder=split, variant=0)
        dice = dice_of(album.seed, "ask", path)
        for task in ("name", "kind"):
            yield name_row(path, concept, style, split=split, turns={task: asked(task, concept, dice)})


def single_picture(gallery: Gallery, album: Album, concept: Concept, style: str, *, folder: str, variant: int) -> str:
    name = f"{folder}/{concept.code}-{style}-{variant}"

    def draw(dice: random.Random) -> Image.Image:
        return single(album.drawing(gallery, concept, style), dice, flips=concept.flips)

    return album.add(name, draw)


def asked(task: str, concept: Concept, dice: random.Random) -> tuple[str, str]:
    """A question about one thing and its answer."""
    if task == "name":
        return dice.choice(wording.NAME_QUESTIONS), wording.name_answer(concept.name)
    if task == "kind":
        return dice.choice(wording.KIND_QUESTIONS), wording.kind_answer(concept.kind)
    return dice.choice(wording.CHINESE_QUESTIONS), wording.chinese_answer(concept.chinese)


def name_row(path: str, concept: Concept, style: str, *, split: str, turns: dict[str, tuple[str, str]]) -> Row:
    truth = {"name": concept.name, "kind": concept.kind} | ({"chinese": concept.chinese} if "chinese" in turns else {})
    task = "+".join(turns)
    name = path.removeprefix("images/").removesuffix(".png")
    return Row(f"{task}/{name}", split, task, truth, tuple(turns.values()), (path,), (concept.code,), style)


def which_rows(shown: Sequence[Shown], *, count: int, seed: int, split: str) -> Iterator[Row]:
    """Two to four pictures of different things, and one name."""
    by_code = {concept.code: concept for _, concept in shown}
    if len(by_code) < len(wording.ORDINALS):
        return
    for number in range(count):
        dice = dice_of(seed, "which", split, number)
        several = dice.randint(2, len(wording.ORDINALS))
        choice = different(shown, several, dice)
        index = dice.randrange(several)
        concept = choice[index][1]
        question = dice.choice(wording.WHICH_QUESTIONS).format(name=concept.name, is_are=wording.is_are(concept.name))
        yield Row(
            id=f"which/{split}/{number}",
            split=split,
            task="which",
            truth={"which": str(index + 1)},
            turns=((question, wording.which_answer(index)),),
            pictures=tuple(path for path, _ in choice),
            about=tuple(c.code for _, c in choice),
        )


def different(shown: Sequence[Shown], several: int, dice: random.Random) -> list[Shown]:
    chosen: dict[str, Shown] = {}
    while len(chosen) < several:
        path, concept = dice.choice(shown)
        chosen.setdefault(concept.code, (path, concept))
    return list(chosen.values())
