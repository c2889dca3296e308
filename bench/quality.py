"""What smaller weights cost: perplexity of SmolLM2-135M-Instruct and owl-tiny's answers, in bfloat16, int8 and int4."""

# T tokens
import argparse
import math
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch.nn.functional import cross_entropy

import scops
from bench.pair import HOME, Settings, beginning, head, keep
from bench.peers import batch_of
from scops.demo import exam
from scops.model import Model

FORMS = (None, "int8", "int4")
WINDOW = 512
TEXT = ("LICENSE", "docs/concepts.md", "docs/train-your-own.md", "docs/LOG.md")
"""English that lies beside the code; SmolLM2 may have seen the first."""


@torch.no_grad()
def perplexity(model: Model, text: str) -> tuple[float, int]:
    """Over windows of 512 tokens, each read alone; and how many tokens were predicted."""
    ids, losses, count = model.tokenizer.encode_text(text), 0.0, 0
    for start in range(0, len(ids) - 1, WINDOW):
        some = ids[start : start + WINDOW]
        logits_TV = model.module(batch_of(some))[0, :-1].float()
        losses += cross_entropy(logits_TV, torch.tensor(some[1:]), reduction="sum").item()
        count += len(some) - 1
    return math.exp(losses / count), count


def answers_right(model: Model, folder: Path, each: int) -> dict[str, float]:
    """Share of the demo's held-out questions, by group and task."""
    papers = exam.papers(folder, each=each)
    return {f"{p.group.name}, {p.task}": exam.share(p, exam.answers_of(model, folder, p)) for p in papers}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quality")
    parser.add_argument("--data", type=Path, default=Path("runs/demo/data"), help="drawn by scops demo (%(default)s)")
    parser.add_argument("--each", type=int, default=48, help="questions per group and task (%(default)s)")
    parser.add_argument("--results", type=Path, default=HOME / "results", help="folder that keeps them (%(default)s)")
    asked = parser.parse_args()
    text = "\n".join((HOME.parent / name).read_text("utf-8") for name in TEXT)
    found: dict[str, Any] = {}
    for form in track(FORMS, "measuring"):
        language = scops.load("smollm2-135m-instruct", dtype=torch.bfloat16, quantise=form)
        value, tokens = perplexity(language, text)
        owl = scops.load("owl-tiny", dtype=torch.bfloat16, merge=True, quantise=form)
        shares = answers_right(owl, asked.data, asked.each)
        mean = sum(shares.values()) / len(shares)
        found[form or "bfloat16"] = {"perplexity": value, "tokens": tokens, "right": mean, "by task": shares}
        print(f"{form or 'bfloat16'}: perplexity {value:.3f} over {tokens} tokens, {100 * mean:.1f} % of answers right")
    about = {"command": f"python -m bench.quality --each {asked.each}", "each": asked.each, "text": TEXT}
    result = head("quality", Settings(rounds=1, threads=torch.get_num_threads())) | about | {"forms": found}
    print(f"kept in {keep(asked.results, result, markdown(result))}.json and .md")


def markdown(result: dict[str, Any]) -> str:
    """The same for readers."""
    forms = result["forms"]
    lines = [
        *beginning(result),
        f"Perplexity over {', '.join(result['text'])} in windows of {WINDOW} tokens; {result['each']} held-out questions of the "
        "demo per group and task.", "",
        "| | " + " | ".join(forms) + " |", "|---|" + "--:|" * len(forms),
        "| perplexity | " + " | ".join(f"{one['perplexity']:.3f}" for one in forms.values()) + " |",
        "| answers right, mean of all tasks | " + " | ".join(f"{100 * one['right']:.1f} %" for one in forms.values()) + " |",
    ]  # fmt: skip
    for task in next(iter(forms.values()))["by task"]:
        lines.append(
            f"| {task} | " + " | ".join(f"{100 * one['by task'][task]:.0f} %" for one in forms.values()) + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
