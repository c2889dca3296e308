"""Small members of the mPLUG family, each trained by its own published stages on the demo's pictures: do they learn to see?

The question is of what sort a thing is, one of six; sorts are as frequent as each other, so that words alone are right by one in six.
"""

import argparse
import json
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import scops
from bench.pair import HOME, Settings, beginning, head, keep
from scops.checkpoints.write import save_text
from scops.demo.dataset import rows_in
from scops.model.training import start
from scops.systems.composed import SIZES, STAGES
from scops.train.run import Run

ASKED = "What sort of thing is this?"
SORTS = ("animal", "face", "food", "person", "place", "transport")
MOST, HELD = 120, 14
"""Rows of each sort: to learn from, and held out in each group."""
GROUPS = {"new pictures": "heldout_picture.jsonl", "a style never trained on": "heldout_style.jsonl"}
PACKING, BATCH = 512, 16
SMOOTH = 3
"""Log lines whose mean loss stands for the beginning and for the end of a stage."""

Row = Mapping[str, Any]


def rows_of(data: Path, file: str, most: int) -> list[Row]:
    """So many of each sort, the same ones each time."""
    by_sort: dict[str, list[Row]] = defaultdict(list)
    pictures = set()
    for row in rows_in(data / file):
        sort = row["truth"].get("kind", "").split("-")[0]
        (picture,) = (part["image"] for part in row["messages"][0]["content"] if part["type"] == "image")
        if sort in SORTS and picture not in pictures:
            pictures.add(picture)
            by_sort[sort].append({"picture": picture, "sort": sort})
    dice = random.Random(0)
    return [row for sort in SORTS for row in dice.sample(by_sort[sort], min(most, len(by_sort[sort])))]


def written(rows: Sequence[Row], path: Path) -> Path:
    """In the `messages` form."""

    def lines() -> Iterator[str]:
        for row in rows:
            asked = {
                "role": "user",
                "content": [{"type": "image", "image": row["picture"]}, {"type": "text", "text": ASKED}],
            }
            answer = {"role": "assistant", "content": [{"type": "text", "text": row["sort"]}]}
            yield json.dumps({"messages": [asked, answer]}) + "\n"

    path.parent.mkdir(parents=True, exist_ok=True)
    save_text(path, "".join(lines()))
    return path


def run_of(size: str, rows: Path, data: Path, folder: Path) -> Run:
    source = {"path": str(rows), "images": str(data)}
    return Run.check({
        "system": size, "seed": 0, "stages": [{"name": stage.name, "packing": PACKING} for stage in STAGES[size]],
        "data": {"names": source}, "output_dir": str(folder / size), "bf16": True, "feature_cache": "disk",
        "feature_cache_dir": str(folder / "features"), "save_steps": 10_000, "logging_steps": 5,
    })  # fmt: skip


def trained(size: str, rows: Path, data: Path, folder: Path, held: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """The member's curve and what it answers in the end."""
    shutil.rmtree(folder / size, ignore_errors=True)
    done = start(run_of(size, rows, data, folder))
    lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    losses = {}
    for stage in STAGES[size]:
        curve = [line["loss"] for line in lines if line.get("stage") == stage.name and "loss" in line]
        losses[stage.name] = [sum(some) / len(some) for some in (curve[:SMOOTH], curve[-SMOOTH:])]
    model = scops.load(done.final, dtype="bfloat16", merge=True)
    right = {}
    for group, asked in held.items():
        asks = [[data / row["picture"], ASKED] for row in asked]
        said = model.generate(asks, max_tokens=4, batch=BATCH)
        right[group] = sum(a.strip() == row["sort"] for a, row in zip(said, asked, strict=True)) / len(asked)
    shutil.rmtree(done.folder)
    tokens = model.layout.media["image"].tokens
    return {"losses": losses, "seconds": done.seconds, "steps": done.steps, "tokens": tokens, "right": right}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.family")
    parser.add_argument("--data", type=Path, default=Path("runs/demo/data"), help="drawn by scops demo (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/family"), help="where they are trained (%(default)s)")
    parser.add_argument("--only", default="", help="sizes that contain this; the others stay as kept")
    parser.add_argument("--results", type=Path, default=HOME / "results", help="folder that keeps them (%(default)s)")
    asked = parser.parse_args()
    learnt = rows_of(asked.data, "train_names.jsonl", MOST)
    rows = written(learnt, asked.folder / "sorts.jsonl")
    held = {group: rows_of(asked.data, file, HELD) for group, file in GROUPS.items()}
    most = Counter(row["sort"] for row in learnt).most_common(1)[0][0]
    prior = {group: sum(row["sort"] == most for row in some) / len(some) for group, some in held.items()}
    about = {"command": "python -m bench.family", "asked": {group: len(some) for group, some in held.items()}}
    result = (
        head("family", Settings(rounds=1, threads=torch.get_num_threads())) | about | {"prior": prior, "members": {}}
    )
    result["members"] = before(asked.results, result) if asked.only else {}
    for size in (size for size in SIZES if asked.only in size):
        member = trained(size, rows, asked.data, asked.folder, held)
        result["members"][size] = member
        print(size, {task: round(share, 2) for task, share in member["right"].items()}, flush=True)
        keep(asked.results, result, markdown(result))  # so that a member that is trained is not lost with a later one
    print(markdown(result))


def before(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Members that a former run kept, which a run of some goes on with: of this machine, learnt from as many rows."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("family_*.json"))]
    alike = [one for one in found if one["hardware"] == result["hardware"] and one["asked"] == result["asked"]]
    return dict(alike[-1]["members"]) if alike else {}


def markdown(result: dict[str, Any]) -> str:
    """The same for readers."""
    tasks = list(result["prior"])
    lines = [
        *beginning(result),
        "EfficientNet-Lite0 (frozen) and SmolLM2-135M behind each family's connector and fusion; "
        f"{' and '.join(map(str, result['asked'].values()))} held-out questions; words alone always say the most frequent sort.", "",
        "| member | tokens of a picture | loss by stage | seconds | " + " | ".join(tasks) + " |",
        "|---|--:|---|--:|" + "--:|" * len(tasks),
        "| words alone | | | | " + " | ".join(f"{100 * share:.0f} %" for share in result["prior"].values()) + " |",
    ]  # fmt: skip
    for size, one in result["members"].items():
        curve = "; ".join(f"{name} {first:.2f} to {last:.2f}" for name, (first, last) in one["losses"].items())
        shares = " | ".join(f"{100 * one['right'][task]:.0f} %" for task in tasks)
        lines.append(f"| {size} | {one['tokens']} | {curve} | {one['seconds']:.0f} | {shares} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
