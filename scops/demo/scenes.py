"""Rows about scenes: how many things, where is one, what is there, is it there at all."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from scops.demo import wording
from scops.demo.album import Album, dice_of
from scops.demo.concepts import Concept, Gallery
from scops.demo.pictures import GRIDS, Grid, scene
from scops.demo.row import Row

MOST = 5
HELD_SHARE = 0.2
TASKS = ("count", "where", "at", "present")
TRAINING_TURNS = 3


@dataclass(frozen=True)
class Scene:
    """What is to be drawn where."""

    grid: Grid
    cells: tuple[int, ...]
    things: tuple[tuple[Concept, str], ...]

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(self.grid.places[cell] for cell in self.cells)


def scene_rows(gallery: Gallery, album: Album, *, count: int, split: str) -> Iterator[Row]:
    """`count` scenes of trained concepts; in training several questions in one row, held out one question per row."""
    known = gallery.trained
    for name, composed, dice in scenes(gallery, count=count, seed=album.seed, split=split):
        path = album.add(name, lambda dice, composed=composed: drawn(gallery, composed, album, dice))
        tasks = dice.sample(TASKS, len(TASKS))
        order = dice.sample(range(len(composed.cells)), len(composed.cells))
        for some in [tasks[:TRAINING_TURNS]] if split == "train" else [[task] for task in tasks]:
            asked = {task: ask(task, composed, order, known, dice) for task in some}
            yield scene_row(f"{'+'.join(some)}/{name}", split, asked, composed, path)


def scenes(gallery: Gallery, *, count: int, seed: int, split: str) -> Iterator[tuple[str, Scene, random.Random]]:
    """What each scene of a split shows, by its name in the album, with the dice that go on to ask about it."""
    for number in range(count):
        dice = dice_of(seed, "scene", split, number)
        yield f"{split}/scene-{number}", compose(gallery, gallery.trained, dice, split=split), dice


def compose(gallery: Gallery, known: Sequence[Concept], dice: random.Random, *, split: str) -> Scene:
    """A layout of the split, and different things in it."""
    wanted = "heldout" if split == "heldout_layout" else "train"
    several = dice.randint(1, MOST)
    while True:
        grid = dice.choice([grid for grid in GRIDS if len(grid.places) >= several])
        cells = tuple(sorted(dice.sample(range(len(grid.places)), several)))
        if layout_split(grid, cells) == wanted:
            break
    things = dice.sample(known, several)
    return Scene(grid, cells, tuple((thing, dice.choice(gallery.styles_of(thing))) for thing in things))


def layout_split(grid: Grid, cells: Sequence[int]) -> str:
    """ "train" or "heldout": a fixed fifth of the ways to fill a grid."""
    number = int.from_bytes(hashlib.sha256(f"scops {grid.across} {tuple(cells)}".encode()).digest()[:8], "big")
    return "heldout" if number < HELD_SHARE * 2**64 else "train"


def drawn(gallery: Gallery, composed: Scene, album: Album, dice: random.Random) -> Image.Image:
    drawings = [album.small_drawing(gallery, concept, style) for concept, style in composed.things]
    return scene(drawings, composed.cells, composed.grid, album.side, dice)


def ask(
    task: str, composed: Scene, order: Sequence[int], known: Sequence[Concept], dice: random.Random
) -> tuple[str, str, str, str]:
    """Question, answer, truth, and the code of the concept that is spoken of ("" where it is any).

    `order` spreads the tasks over the things, so that one turn does not give away the next.
    """
    index = order[TASKS.index(task) % len(order)]
    concept, place = composed.things[index][0], composed.places[index]
    name = concept.name
    if task == "count":
        several = len(composed.cells)
        return dice.choice(wording.COUNT_QUESTIONS), wording.count_answer(several), str(several), ""
    if task == "where":
        question = dice.choice(wording.WHERE_QUESTIONS).format(name=name, is_are=wording.is_are(name))
        return question, wording.where_answer(name, place), place, concept.code
    if task == "at":
        return dice.choice(wording.AT_QUESTIONS).format(place=place), wording.at_answer(name), name, concept.code
    present = dice.random() < 0.5
    if not present:
        shown = {thing.code for thing, _ in composed.things}
        concept = dice.choice([other for other in dice.sample(known, MOST + 1) if other.code not in shown])
    question = dice.choice(wording.PRESENT_QUESTIONS).format(a_name=wording.noun(concept.name))
    return question, wording.present_answer(concept.name, present), "yes" if present else "no", concept.code


def scene_row(name: str, split: str, asked: dict[str, tuple[str, str, str, str]], composed: Scene, path: str) -> Row:
    codes = {thing.code: None for thing, _ in composed.things} | {code: None for *_, code in asked.values() if code}
    return Row(
        id=name,
        split=split,
        task="+".join(asked),
        truth={task: truth for task, (_, _, truth, _) in asked.items()},
        turns=tuple((question, answer) for question, answer, _, _ in asked.values()),
        pictures=(path,),
        about=tuple(codes),
        style="+".join(dict.fromkeys(style for _, style in composed.things)),
    )
