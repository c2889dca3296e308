"""Small members of the mPLUG family, each trained by its own published stages on the demo's pictures: do they learn to see?"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

import scops
from bench.pair import HOME, Settings, beginning, head, keep
from scops.demo import exam
from scops.model.training import start
from scops.systems.composed import SIZES, STAGES
from scops.train.run import Run

GROUPS = ("a new picture of a trained thing", "a drawing style never trained on")
PACKING = 512
SMOOTH = 3
"""Log lines whose mean loss stands for the beginning and for the end of a stage."""


def run_of(size: str, data: Path, folder: Path) -> Run:
    stages = [{"name": stage.name, "packing": PACKING} for stage in STAGES[size]]
    return Run.check({
        "system": size, "seed": 0, "stages": stages, "data": {"names": {"path": str(data / "train_names.jsonl")}},
        "output_dir": str(folder / size), "bf16": True, "feature_cache": "disk", "save_steps": 10_000,
        "feature_cache_dir": str(folder / "features"), "logging_steps": 5,
    })  # fmt: skip


def trained(size: str, data: Path, folder: Path, papers: list[exam.Paper]) -> dict[str, Any]:
    """The member's curve and what it answers in the end."""
    shutil.rmtree(folder / size, ignore_errors=True)
    done = start(run_of(size, data, folder))
    lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    losses = {}
    for stage in STAGES[size]:
        curve = [line["loss"] for line in lines if line.get("stage") == stage.name and "loss" in line]
        losses[stage.name] = [sum(some) / len(some) for some in (curve[:SMOOTH], curve[-SMOOTH:])]
    model = scops.load(done.final, dtype="bfloat16", merge=True)
    shares = {f"{p.group.name}, {p.task}": exam.share(p, exam.answers_of(model, data, p)) for p in papers}
    shutil.rmtree(done.folder)
    tokens = model.layout.media["image"].tokens
    return {"losses": losses, "seconds": done.seconds, "steps": done.steps, "tokens": tokens, "right": shares}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.family")
    parser.add_argument("--data", type=Path, default=Path("runs/demo/data"), help="drawn by scops demo (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/family"), help="where they are trained (%(default)s)")
    parser.add_argument("--each", type=int, default=100, help="questions per group and task (%(default)s)")
    parser.add_argument("--only", default="", help="sizes that contain this")
    parser.add_argument("--results", type=Path, default=HOME / "results", help="folder that keeps them (%(default)s)")
    asked = parser.parse_args()
    papers = [p for p in exam.papers(asked.data, each=asked.each) if p.group.name in GROUPS]
    prior = dict(zip((f"{p.group.name}, {p.task}" for p in papers), exam.prior_shares(asked.data, papers), strict=True))
    about = {"command": f"python -m bench.family --each {asked.each}", "each": asked.each}
    result = (
        head("family", Settings(rounds=1, threads=torch.get_num_threads())) | about | {"prior": prior, "members": {}}
    )
    for size in (size for size in SIZES if asked.only in size):
        member = trained(size, asked.data, asked.folder, papers)
        result["members"][size] = member
        print(size, {task: round(share, 2) for task, share in member["right"].items()}, flush=True)
        keep(asked.results, result, markdown(result))  # so that a member that is trained is not lost with a later one
    print(markdown(result))


def markdown(result: dict[str, Any]) -> str:
    """The same for readers."""
    tasks = list(result["prior"])
    lines = [
        *beginning(result),
        f"EfficientNet-Lite0 (frozen) and SmolLM2-135M behind each family's connector and fusion; {result['each']} held-out "
        "questions per group and task; the text-only prior answers with the most frequent truth of the question.", "",
        "| member | tokens of a picture | loss by stage | seconds | " + " | ".join(tasks) + " |",
        "|---|--:|---|--:|" + "--:|" * len(tasks),
        "| text-only prior | | | | " + " | ".join(f"{100 * share:.0f} %" for share in result["prior"].values()) + " |",
    ]  # fmt: skip
    for size, one in result["members"].items():
        curve = "; ".join(f"{name} {first:.2f} to {last:.2f}" for name, (first, last) in one["losses"].items())
        shares = " | ".join(f"{100 * one['right'][task]:.0f} %" for task in tasks)
        lines.append(f"| {size} | {one['tokens']} | {curve} | {one['seconds']:.0f} | {shares} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
