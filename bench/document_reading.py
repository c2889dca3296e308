"""Reading pages in tiles against reading one small view of them: the same small DocOwl 1.5, rows, steps, held-out questions.

python -m bench.document_reading: draws pages (bench.pages) and trains by DocOwl 1.5's stages. `structure`, once for all: parts of
pages, each as large as a tile, are read letter by letter with their layout kept (`word_reading`). `tasks`, once for each way:
questions about whole pages. Held-out answers are marked as `scops eval` marks them. A view costs less than tiles; the last way
is the view with as much of the processor's time as the tiles took.
"""

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from bench.pages import Plan, laid_out, painted, prepare
from bench.pair import HOME, Settings, beginning, head, keep
from scops.checkpoints.write import save_json
from scops.cli.evaluate import evaluate
from scops.data.tokenizer import Tokenizer
from scops.demo.album import dice_of
from scops.model.training import start
from scops.train.run import Run

WHAT = "document_reading"
SIDE, CELL, TILE = 96, 8, 32
"""Pixels of a page, of a patch, and of a tile: nine tiles of sixteen patches hold a page."""
PAGE: dict[str, Any] = {
    "height": SIDE, "width": SIDE, "smallest": 14, "largest": 14, "fonts": 4, "kinds": "cents", "prose": 0, "title": 0.0,
    "margin": 0.5, "spacing": TILE / 14, "lower": 6, "aside": SIDE, "raster": TILE, "part": TILE, "cell": CELL,
}  # fmt: skip
"""Letters of 14 pixels, of which one view of 32 pixels leaves less than 5, and 3 of a digit. Lines stand as far apart as tiles, so
that borders of tiles run through words, as on any page, but not along lines, as they would through every third of so large letters."""
SETS: dict[str, dict[str, Any]] = {
    "parts": {"tasks": "cells", "asked": 8, "fewest": 3, "most": 3, "seed": 0},
    "one": {"tasks": "field", "asked": 1, "fewest": 1, "most": 1, "seed": 1},
    "three": {"tasks": "field", "asked": 2, "fewest": 3, "most": 3, "seed": 2},
}
"""Parts of receipts; receipts of one line; of three lines, two of them asked for."""
WEIGHTS = {"parts": 1, "one": 1, "three": 3}
"""Where a stage learns from several sets, how often from each."""
SIZES: dict[str, Any] = {
    "vision": {"dim": 128, "hidden": 384, "layers": 3, "heads": 4, "image": TILE, "patch": CELL},
    "reducer": {"dim": 128, "kernel": [1, 1]},
    "language": {"dim": 96, "hidden": 256, "layers": 2, "heads": 4, "kv_heads": 4, "vocab": 260, "context": 256, "tied": True},
    "grids": "grid_9", "whole": "", "announced": ["", ""],
}  # fmt: skip
"""A feature holds about one letter, so that the H-Reducer joins none."""
WAYS: dict[str, dict[str, Any]] = {"nine tiles": {}, "one view": {"grids": "grid_1"}}
"""What the ways differ in; all else is the same."""
LONGER = "one view for longer"
ASKED = ("one", "three")
"""Sets whose held-out questions are asked."""
SPECIALS = ("<s>", "</s>", "<unk>", "<pad>")


def characters(folder: Path) -> Path:
    """A tokenizer of single bytes: who reads letters is to write letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*SPECIALS, *alphabet))}
    backend = Backend(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIALS))
    Tokenizer(backend, bos="<s>", eos="</s>", pad="<pad>").save(folder)
    return folder


def drawn(folder: Path, rows: int) -> Path:
    """The data sets by name, and the tokenizer.

    Args:
        rows: of parts; of pages half as many.
    """
    for name, words in SETS.items():
        prepare(folder / name, Plan(rows=rows if name == "parts" else rows // 2, held=300, **PAGE, **words))
    characters(folder / "tokenizer")
    return folder


def run_of(name: str, folder: Path, stages: list[dict[str, Any]], changes: dict[str, Any]) -> Run:
    return Run.check({
        "system": "docowl1.5-chat", "recipe": "docowl1.5", "stages": stages, "output_dir": str(folder / name.replace(" ", "-")),
        "data": {
            name: {"path": str(folder / "data" / name / "train_pages.jsonl"), "weight": WEIGHTS[name]} for name in SETS
        },
        "resize": "torch", "feature_cache": "off", "logging_steps": 50, "save_steps": 1_000_000, "seed": 0, **changes,
    }, f"{WHAT}, {name}")  # fmt: skip


def structure(folder: Path, steps: int) -> Run:
    """The tower and the embeddings learn, the language model waits."""
    stage = {
        "name": "structure", "data": ["parts"], "objective": "word_reading", "train": ["image", "language.embed"],
        "max_steps": steps, "batch": 64, "learning_rate": 1.5e-3, "warmup_steps": 30,
    }  # fmt: skip
    fresh = {"pretrained": False, "tokenizer": str(folder / "data" / "tokenizer"), "system_overrides": SIZES}
    return run_of("structure", folder, [stage], fresh)


def tasks(way: str, folder: Path, steps: int, begun: Path) -> Run:
    """From the model that reads parts. A quarter of the steps, the language model alone learns to find the number on receipts of one
    line; then everything learns to answer about several.

    Args:
        way: what the run is called; those of WAYS differ in how a page is cut.
    """
    stages = [
        {
            "name": "tasks", "data": ["one"], "train": ["language"], "max_steps": steps // 4, "batch": 32,
            "learning_rate": 2e-3, "lr_scheduler_type": "constant", "warmup_steps": 30,
        },
        {
            "name": "tasks", "data": ["one", "three"], "train": ["image", "language"], "max_steps": steps - steps // 4, "batch": 32,
            "learning_rate": 2e-3, "lr_of": {"image": 5e-4}, "warmup_steps": 30,
        },
    ]  # fmt: skip
    return run_of(way, folder, stages, {"init": str(begun), "system_overrides": WAYS.get(way, WAYS["one view"])})


def seen() -> tuple[Image.Image, Image.Image]:
    """A held-out page, and the one view of it."""
    plan, dice = Plan(**PAGE, **SETS["three"]), dice_of(WHAT)
    page = painted(laid_out(plan, "heldout", dice), plan, dice)
    return page, page.resize((TILE, TILE), Image.Resampling.BICUBIC)


def measured(folder: Path, run: Run, held: tuple[str, ...]) -> dict[str, Any]:
    """What a run came to; kept in its folder, so that a bench that was interrupted goes on.

    Args:
        held: sets whose held-out questions are asked in the end.
    """
    out = Path(run.output_dir)
    kept = out / "measured.json"
    if kept.is_file():
        return json.loads(kept.read_text("utf-8"))
    begun, worked = time.perf_counter(), time.process_time()
    result = start(run)
    found: dict[str, Any] = {
        "steps": result.steps, "seconds": round(time.perf_counter() - begun, 1),
        "worked": round(time.process_time() - worked, 1), "curve": curve(out), "scores": {},
    }  # fmt: skip
    for name in held:
        answers = out / f"{name}.json"
        evaluate(
            str(result.final), folder / "data" / name / "heldout_pages.jsonl", limit=None, batch=25, max_tokens=8, out=answers,
            dtype="float32", device="auto", quantise=None, json=False,
        )  # fmt: skip
        found["scores"][name] = json.loads(answers.read_text("utf-8"))["scores"]["field"]
    save_json(kept, found)
    return found


def curve(out: Path) -> list[dict[str, float]]:
    """Of a run's training: step and loss, and of `word_reading` the share of letters read."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [
        {name: line[name] for name in ("step", "loss", "accuracy") if name in line} for line in lines if "loss" in line
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m bench.{WHAT}")
    parser.add_argument("--folder", type=Path, default=Path("runs") / WHAT, help="pages and models (%(default)s)")
    parser.add_argument("--reading", type=int, default=1200, help="steps of the stage structure (%(default)s)")
    parser.add_argument("--steps", type=int, default=1200, help="of the stages tasks, each way (%(default)s)")
    parser.add_argument(
        "--rows", type=int, default=48_000, help="training rows of parts; of pages half as many (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s)")
    parser.add_argument("--results", type=Path, default=HOME / "results", help="folder that keeps them (%(default)s)")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    about = head(WHAT, Settings(rounds=1, threads=asked.threads))
    about["command"] = f"python -m bench.{WHAT} --reading {asked.reading} --steps {asked.steps} --rows {asked.rows}"
    drawn(asked.folder / "data", asked.rows)
    read = structure(asked.folder, asked.reading)
    result = about | {"structure": measured(asked.folder, read, ()), "ways": {}}
    begun = Path(read.output_dir) / "final"

    def learn(way: str, steps: int) -> None:
        result["ways"][way] = measured(asked.folder, tasks(way, asked.folder, steps, begun), ASKED)

    for way in WAYS:
        learn(way, asked.steps)
    tiles, view = (result["ways"][way] for way in WAYS)
    learn(LONGER, round(asked.steps * tiles["worked"] / view["worked"]))
    print(markdown(result))
    print(f"kept in {keep(asked.results, result, markdown(result))}.json and .md")


def markdown(result: dict[str, Any]) -> str:
    """The same for readers."""
    read = result["structure"]
    share = f"{100 * read['curve'][-1]['accuracy']:.1f} %"
    lines = [
        *beginning(result),
        "A DocOwl 1.5 of 1 million parameters from scratch; 300 held-out questions of each sort, about numbers of three digits "
        f"that no training page has. Stage `structure`: {read['steps']} steps of 64 parts, {share} of cells read. Stages `tasks`: "
        "batches of 32.", "",
        "| | steps | processor, s | last loss | one line: exact | ANLS | three lines: exact | ANLS |", "|---|" + "--:|" * 7,
    ]  # fmt: skip
    for way, found in result["ways"].items():
        lines.append(
            _line((way, found["steps"], f"{found['worked']:.0f}", f"{found['curve'][-1]['loss']:.3f}", *shown(found)))
        )
    return "\n".join(lines) + "\n"


def shown(found: Mapping[str, Any]) -> list[str]:
    """Exact match and ANLS of receipts of one line and of three."""
    return [f"{found['scores'][name][metric]:.3f}" for name in ASKED for metric in ("exact", "anls")]


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
