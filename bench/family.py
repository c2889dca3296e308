"""Small members of the mPLUG family, each trained by its own published stages on the demo's pictures: do they learn to see?

The question is that of bench.sorts.
"""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import scops
from bench.learning import before, curve, losses_of, parser, percent
from bench.pair import Settings, beginning, head, keep
from bench.sorts import ASKED, GROUPS, HELD, MOST, TRAINED, Row, rows_of, said, save_rows, share, shown
from scops.model.training import start
from scops.systems.composed import SIZES, STAGES
from scops.train.run import Run

PACKING, BATCH = 512, 16


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
    losses = losses_of(done.folder, STAGES[size])
    model = scops.load(done.final, dtype="bfloat16", merge=True)
    right = {}
    for group, asked in held.items():
        asks = [[data / row["picture"], ASKED] for row in asked]
        right[group] = share(model.generate(asks, max_tokens=4, batch=BATCH), [row["sort"] for row in asked])
    shutil.rmtree(done.folder)
    tokens = model.layout.media["image"].tokens
    return {"losses": losses, "seconds": done.seconds, "steps": done.steps, "tokens": tokens, "right": right}


def main() -> None:
    asked = parser("family", Path("runs/family")).parse_args()
    learnt = rows_of(asked.data, TRAINED, MOST)
    rows = save_rows(
        (([shown(row["picture"]), said(ASKED)], row["sort"]) for row in learnt), asked.folder / "sorts.jsonl"
    )
    held = {group: rows_of(asked.data, file, HELD) for group, file in GROUPS.items()}
    most = Counter(row["sort"] for row in learnt).most_common(1)[0][0]
    prior = {group: sum(row["sort"] == most for row in some) / len(some) for group, some in held.items()}
    about = {"command": "python -m bench.family", "asked": {group: len(some) for group, some in held.items()}}
    result = (
        head("family", Settings(rounds=1, threads=torch.get_num_threads())) | about | {"prior": prior, "members": {}}
    )
    result["members"] = before(asked.results, result, "members") if asked.only else {}
    for size in (size for size in SIZES if asked.only in size):
        member = trained(size, rows, asked.data, asked.folder, held)
        result["members"][size] = member
        print(size, {task: round(share, 2) for task, share in member["right"].items()}, flush=True)
        keep(asked.results, result, markdown(result))  # so that a member that is trained is not lost with a later one
    print(markdown(result))


def markdown(result: dict[str, Any]) -> str:
    """The same for readers."""
    tasks = list(result["prior"])
    lines = [
        *beginning(result),
        "EfficientNet-Lite0 (frozen) and SmolLM2-135M behind each family's connector and fusion; "
        f"{' and '.join(map(str, result['asked'].values()))} held-out questions; words alone always say the most frequent sort.", "",
        "| member | tokens of a picture | loss by stage | seconds | " + " | ".join(tasks) + " |",
        "|---|--:|---|--:|" + "--:|" * len(tasks),
        "| words alone | | | | " + " | ".join(percent(result["prior"], tasks)) + " |",
    ]  # fmt: skip
    for size, one in result["members"].items():
        shares = " | ".join(percent(one["right"], tasks))
        lines.append(f"| {size} | {one['tokens']} | {curve(one['losses'])} | {one['seconds']:.0f} | {shares} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
