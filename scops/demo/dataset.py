"""The demo's data set: JSONL files in the `messages` form and the pictures they name, like any user's data."""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scops.checkpoints.packages import Unreachable
from scops.checkpoints.write import save_text
from scops.core.folders import cache_folder
from scops.demo.album import Album, dice_of, relative_path
from scops.demo.concepts import Concept, Gallery
from scops.demo.emoji import emoji
from scops.demo.facts import fact_rows
from scops.demo.labels import label_rows
from scops.demo.row import Row
from scops.demo.scenes import scene_rows, scenes
from scops.demo.shapes import shapes
from scops.demo.singles import held_names, training_names, which_rows
from scops.demo.words import word_rows

FORMAT = 3
"""Counted up whenever the same plan would make other rows or pictures."""
MANIFEST = "manifest.yaml"
"""JSON, which is YAML too; not called .json, because every .json of a folder counts as data."""

UNDRAWN = ("train_which.jsonl", "train_labels.jsonl", "train_text.jsonl", "heldout_which.jsonl")
"""Files that show pictures of others or none."""
PROCESSES = min(len(os.sched_getaffinity(0)), 8) if sys.platform == "linux" else 1
"""That draw, unless the caller says otherwise; elsewhere than on Linux a process cannot be split in two safely."""

Rows = Callable[[], Iterator[Row]]


@dataclass(frozen=True)
class Plan:
    """How much of what; equal plans make equal data sets.

    Args:
        side: pixels of every picture's side.
        variants: pictures of each trained concept in each trained style.
        concepts: at most this many trained concepts, taken evenly; 0 takes all.
        scenes, which, words, texts: training rows of each sort.
        held: pictures of each held-out file about single things, and scenes and words of theirs.
        chinese: share of the single pictures whose name is asked for in Chinese.
    """

    seed: int = 0
    side: int = 160
    variants: int = 3
    concepts: int = 0
    scenes: int = 1500
    which: int = 1500
    words: int = 900
    texts: int = 1500
    held: int = 300
    chinese: float = 0.0


def gallery_at_hand() -> Gallery:
    """Emoji, or drawn shapes where npm's registry cannot be reached; says which and why."""
    try:
        return emoji()
    except Unreachable as error:
        print(f"{error}\nThe demo goes on with drawn shapes, letters and words instead of emoji.", file=sys.stderr)
        return shapes()


def prepare(
    folder: Path | None = None, *, plan: Plan = Plan(), gallery: Gallery | None = None, processes: int = PROCESSES
) -> Path:
    """The data set's folder, made once; an interrupted run is taken up where it stopped.

    Args:
        folder: where it is to stand; by default in the cache, named after the plan.
        processes: that draw, this one included; the same bytes come out of any number.

    Raises:
        ValueError: the folder holds something else.
    """
    gallery = thinned(gallery or gallery_at_hand(), plan.concepts)
    recipe = {"format": FORMAT, "gallery": gallery.source, "plan": dataclasses.asdict(plan)}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    folder = folder or cache_folder() / "datasets" / f"demo-{digest}"
    if folder.exists():
        check_same(folder, digest)
        return folder
    making = folder.with_name(f"{folder.name}.making-{digest}")
    making.mkdir(parents=True, exist_ok=True)
    draw(gallery, making, plan, processes)
    counts = {}
    album = Album(making, seed=plan.seed, side=plan.side)  # draws what is not there yet: after a kill, or an error
    for name, rows in files(gallery, album, plan).items():
        counts[name] = write_rows(making / name, rows())
    manifest = recipe | {"digest": digest, "files": counts}
    save_text(making / MANIFEST, json.dumps(manifest, indent=2))
    making.rename(folder)
    return folder


def draw(gallery: Gallery, folder: Path, plan: Plan, processes: int) -> None:
    """Every picture of the data set, in several processes; each goes through all and draws its share.

    A picture depends on its name alone, so it does not matter who draws it.
    """

    def work(number: int, tick: Callable[[], None]) -> None:
        album = Album(folder, seed=plan.seed, side=plan.side, tick=tick, share=(number, processes))
        for name, rows in files(gallery, album, plan).items():
            if name not in UNDRAWN:
                for _ in rows():
                    pass

    def help_out(number: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
        work(number, lambda: None)

    def start(number: int) -> BaseProcess:
        process = multiprocessing.get_context("fork").Process(target=help_out, args=(number,), daemon=True)
        process.start()
        return process

    others = [start(number) for number in range(1, processes)]  # before the bar, which has a thread
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as progress:
        bar = progress.add_task("demo pictures", total=expected_pictures(gallery, plan))
        try:
            work(0, lambda: progress.advance(bar))
            for other in others:
                other.join()
        finally:
            for other in others:
                other.kill()  # nothing is left half drawn: pictures appear whole
        progress.update(bar, total=progress.tasks[bar].completed)


def check_same(folder: Path, digest: str) -> None:
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} exists but holds no {MANIFEST}, so it is no demo data set; name another folder")
    found = json.loads(path.read_text())["digest"]
    if found != digest:
        raise ValueError(
            f"{folder} holds a demo data set of another plan ({found}, this one is {digest}); name another folder"
        )


def files(gallery: Gallery, album: Album, plan: Plan) -> dict[str, Rows]:
    """What the folder holds: file name -> its rows. Training files first."""
    dice = dice_of(plan.seed, "held")
    sampled = dice.sample(gallery.trained, len(gallery.trained))
    familiar = [(c, dice.choice(gallery.styles_of(c))) for c in sampled[: plan.held]]
    restyled = [(c, gallery.held_style) for c in sampled if gallery.held_style in c.styles][: plan.held]
    unseen = [(c, style) for c in gallery.held for style in gallery.styles_of(c)]
    unseen = dice.sample(unseen, min(plan.held, len(unseen)))
    by_code = {c.code: c for c in gallery.concepts}

    def which(source: str, count: int, split: str) -> Iterator[Row]:
        return which_rows(shown_in(album.folder / source, by_code), count=count, seed=plan.seed, split=split)

    def labels() -> Iterator[Row]:
        singles = shown_in(album.folder / "train_names.jsonl", by_code)
        composed = scenes(gallery, count=plan.scenes, seed=plan.seed, split="train")
        words = [(first_picture(row), row["truth"]["word"]) for row in rows_in(album.folder / "train_words.jsonl")]
        return label_rows(singles, [(relative_path(name), scene) for name, scene, _ in composed], words)

    return {
        "train_names.jsonl": lambda: training_names(gallery, album, variants=plan.variants, chinese=plan.chinese),
        "train_scenes.jsonl": lambda: scene_rows(gallery, album, count=plan.scenes, split="train"),
        "train_which.jsonl": lambda: which("train_names.jsonl", plan.which, "train"),
        "train_words.jsonl": lambda: word_rows(album, count=plan.words, split="train"),
        "train_labels.jsonl": labels,
        "train_text.jsonl": lambda: fact_rows(gallery, count=plan.texts, seed=plan.seed),
        "heldout_picture.jsonl": lambda: held_names(gallery, album, familiar, split="heldout_picture"),
        "heldout_style.jsonl": lambda: held_names(gallery, album, restyled, split="heldout_style"),
        "heldout_concept.jsonl": lambda: held_names(gallery, album, unseen, split="heldout_concept"),
        "heldout_layout.jsonl": lambda: scene_rows(gallery, album, count=plan.held, split="heldout_layout"),
        "heldout_which.jsonl": lambda: which("heldout_picture.jsonl", plan.held, "heldout_picture"),
        "heldout_word.jsonl": lambda: word_rows(album, count=plan.held, split="heldout_word"),
    }


def shown_in(path: Path, by_code: dict[str, Concept]) -> list[tuple[str, Concept]]:
    """The pictures of single things that a written file shows, each once."""
    shown = {first_picture(row): by_code[row["about"][0]] for row in rows_in(path)}
    return list(shown.items())


def rows_in(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a file that is already written."""
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def first_picture(row: Mapping[str, Any]) -> str:
    return row["messages"][0]["content"][0]["image"]


def expected_pictures(gallery: Gallery, plan: Plan) -> int:
    drawn = sum(len(gallery.styles_of(c)) for c in gallery.trained)
    return drawn * plan.variants + plan.scenes + plan.words + 5 * plan.held


def thinned(gallery: Gallery, concepts: int) -> Gallery:
    """The same gallery with at most so many trained concepts, spread over all kinds; held-out ones stay."""
    if not concepts or concepts >= len(gallery.trained):
        return gallery
    step = len(gallery.trained) / concepts
    kept = {gallery.trained[int(i * step)].code for i in range(concepts)} | {c.code for c in gallery.held}
    return dataclasses.replace(gallery, concepts=tuple(c for c in gallery.concepts if c.code in kept))


def write_rows(path: Path, rows: Iterator[Row]) -> Counter[str]:
    """One JSON object a line; how many rows there are, and how many questions of each task."""
    counts: Counter[str] = Counter()
    lines = []
    for row in rows:
        counts.update(["rows", *row.task.split("+")])
        lines.append(json.dumps(row.as_json(), ensure_ascii=False))
    save_text(path, "".join(f"{line}\n" for line in lines))
    return counts


if __name__ == "__main__":  # python -m scops.demo.dataset FOLDER --side 224 --variants 6
    import argparse

    words = argparse.ArgumentParser(description="Draw the demo's data set.")
    words.add_argument("folder", type=Path)
    for number in dataclasses.fields(Plan):
        words.add_argument(f"--{number.name}", type=type(number.default), default=number.default)
    chosen = vars(words.parse_args())
    print(prepare(chosen.pop("folder"), plan=Plan(**chosen)))
