"""Reading pages in tiles against reading one small view of them: the same small DocOwl 1.5, rows, steps, held-out questions.

python -m bench.document_reading --steps 6000: draws pages (bench.pages), trains each variant from scratch to read whole pages,
then to answer questions about them, and marks held-out answers as `scops eval` does. The gain of cutting is what the view loses.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from bench.pages import Plan, prepare
from bench.pair import HOME, Settings, beginning, head, keep
from scops.cli.evaluate import evaluate
from scops.data.tokenizer import Tokenizer
from scops.model.training import start
from scops.train.run import Run

WHAT = "document_reading"
PAGES = {
    "height": 96, "width": 128, "smallest": 10, "largest": 10, "fonts": 1, "fewest": 2, "most": 2,
    "kinds": "number,room,count", "prose": 0, "lower": 0,
}  # fmt: skip
"""Small pages that 12 tiles of 32 pixels hold exactly; letters of 10 pixels are about 3 in one view of 32."""
LANGUAGE = {"dim": 128, "hidden": 384, "layers": 3, "heads": 4, "kv_heads": 4, "vocab": 260, "context": 256}
SIZES: dict[str, Any] = {
    "vision": {"dim": 128, "hidden": 384, "layers": 3, "heads": 4, "image": 32, "patch": 8},
    "reducer": {"dim": 128},
    "language": LANGUAGE,
    "announced": ["*", "{row}{column}"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "tiles": {"grids": "grid_12"},
    "one view": {"grids": "grid_1", "whole": ""},
}
"""What the variants differ in; all else is the same."""
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


def run_of(variant: str, folder: Path, steps: int, batch: int) -> Run:
    """Three quarters of the steps read whole pages, the rest also answers questions."""
    everything = {
        "train": ["image", "language"],
        "batch": batch,
        "learning_rate": 1e-3,
        "warmup_steps": min(100, steps // 8),
    }
    words = {
        "system": "docowl1.5-chat", "recipe": "docowl1.5", "pretrained": False, "tokenizer": str(folder / "tokenizer"),
        "system_overrides": SIZES | VARIANTS[variant],
        "stages": [
            {"name": "structure", "max_steps": steps * 3 // 4, "data": ["read"], **everything},
            {"name": "tasks", "max_steps": steps - steps * 3 // 4, "data": ["read", "ask"], **everything},
        ],
        "data": {
            "read": {"path": str(folder / "read" / "train_pages.jsonl"), "weight": 1},
            "ask": {"path": str(folder / "ask" / "train_pages.jsonl"), "weight": 2},
        },
        "output_dir": str(folder / variant.replace(" ", "-")), "logging_steps": 50, "save_steps": 1_000_000, "seed": 0,
        "resize": "torch",
    }  # fmt: skip
    return Run.check(words, f"{WHAT}, {variant}")


def measure(variant: str, folder: Path, steps: int, batch: int) -> dict[str, Any]:
    """Losses, seconds and scores of one variant."""
    begun = time.perf_counter()
    result = start(run_of(variant, folder, steps, batch))
    trained = time.perf_counter() - begun
    answers = folder / f"{variant.replace(' ', '-')}.json"
    for data, out in (("ask", answers), ("read", None)):
        evaluate(
            str(result.final), folder / data / "heldout_pages.jsonl", limit=None, batch=16, max_tokens=48, out=out,
            dtype="float32", device="auto", quantise=None, json=False,
        )  # fmt: skip
    scores = json.loads(answers.read_text("utf-8"))["scores"]["field"]
    return {"losses": dict(result.losses), "seconds": round(trained, 1), "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m bench.{WHAT}")
    parser.add_argument("--folder", type=Path, default=Path("runs") / WHAT, help="pages and models (%(default)s)")
    parser.add_argument("--steps", type=int, default=6000, help="of each variant (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="rows per step (%(default)s)")
    parser.add_argument("--rows", type=int, default=40_000, help="training rows of each sort (%(default)s)")
    parser.add_argument("--results", type=Path, default=HOME / "results", help="folder that keeps them (%(default)s)")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(rows=asked.rows, held=300, **PAGES)
    prepare(asked.folder / "read", Plan(**(asdict(plan) | {"tasks": "read", "asked": 1})))
    prepare(asked.folder / "ask", Plan(**(asdict(plan) | {"tasks": "field", "asked": 2, "seed": 1})))
    characters(asked.folder / "tokenizer")
    found = {variant: measure(variant, asked.folder, asked.steps, asked.batch) for variant in VARIANTS}
    command = f"python -m bench.{WHAT} --steps {asked.steps} --batch {asked.batch} --rows {asked.rows}"
    about = {"command": command, "steps": asked.steps, "batch": asked.batch, "variants": found}
    result = head(WHAT, Settings(rounds=1, threads=torch.get_num_threads())) | about
    print(markdown(result))
    print(f"kept in {keep(asked.results, result, markdown(result))}.json and .md")


def markdown(result: dict[str, Any]) -> str:
    """The same for readers."""
    metrics = ("exact", "right", "anls")
    lines = [
        *beginning(result),
        f"A DocOwl 1.5 of 128 channels from scratch, {result['steps']} steps of {result['batch']} rows each; "
        "held-out forms with values that no training page has.", "",
        "| | " + " | ".join(metrics) + " | last loss | training, s |", "|---|" + "--:|" * (len(metrics) + 2),
    ]  # fmt: skip
    for variant, found in result["variants"].items():
        shown = " | ".join(f"{found['scores'][metric]:.3f}" for metric in metrics if metric in found["scores"])
        lines.append(f"| {variant} | {shown} | {[*found['losses'].values()][-1]:.3f} | {found['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
