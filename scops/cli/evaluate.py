"""`scops eval MODEL DATA`: every answer of the data set is asked again and compared; the result can be replayed."""

import hashlib
import json as text_json
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from scops.checkpoints.write import save_json
from scops.cli.env import versions
from scops.cli.show import as_json, table
from scops.core.sample import Text
from scops.data.errors import BadSample
from scops.data.readers import open_dataset
from scops.demo import score
from scops.generate.sampler import Sampling
from scops.generate.talk import Answer, answers, prompts
from scops.lab.evaluation import Marked, Question, mark, questions, summary
from scops.model.folder import processor_config
from scops.model.model import Model
from scops.model.opening import load

SHOWN = 5


def evaluate(
    name: str,
    data: Path,
    *,
    limit: int | None,
    batch: int,
    max_tokens: int,
    out: Path | None,
    dtype: str,
    device: str,
    quantise: str | None,
    json: bool,
) -> None:
    dataset = open_dataset(data)
    model = load(name, dtype=dtype, device=device, quantise=quantise)
    started = time.perf_counter()
    asked, dropped = _asked(model, dataset[:limit] if limit else dataset)
    said = _answered(model, [(q, example) for q, example in asked], batch, max_tokens)
    result = {
        "model": {"name": name, "origin": model.origin, "system": model.system, "spec": asdict(model.spec)},
        "data": {"path": str(data), "sha256": digest(data), "rows": len(dataset), "limit": limit, "form": dataset.form},
        "scores": summary(marked for marked, _ in said),
        "dropped": dropped,
        "seconds": round(time.perf_counter() - started, 2),
        "sampling": {**vars(Sampling()), "max_tokens": max_tokens, "batch": batch},
        "preprocessing": processor_config(model.layout),
        "numbers": {"dtype": str(model.dtype).removeprefix("torch."), "device": str(model.device)}
        | ({"quantised": model.quantised} if model.quantised else {}),
        "versions": versions(),
        "prompts_sha256": _prompts_digest([answer for _, answer in said]),
    }
    if out is not None:
        rows = [_row(question, *one) for (question, _), one in zip(asked, said, strict=True)]
        save_json(out, {**result, "replies": rows})
    if json:
        as_json(result)
    else:
        _print(result, out)


def digest(path: Path) -> str | None:
    """Of a data set that is one file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _asked(model: Model, dataset: Any) -> tuple[list[tuple[Question, Any]], dict[str, Any]]:
    """Questions with their prompts; rows that cannot be asked are counted by reason."""
    asked: list[tuple[Question, Any]] = []
    reasons: Counter[str] = Counter()
    first: list[str] = []
    for at in range(len(dataset)):
        try:
            row = questions(dataset[at])
            asked += zip(row, [model.processor.outline(q.sample, reply=True) for q in row], strict=True)
        except (BadSample, ValueError) as error:
            reasons[type(error).__name__ if isinstance(error, BadSample) else "NoAnswer"] += 1
            first += [str(error)] if len(first) < SHOWN else []
    if not asked:
        raise ValueError(f"none of {len(dataset)} rows can be asked: {'; '.join(first)}")
    return asked, {"rows": reasons.total(), "by": dict(reasons), "first": first}


def _answered(
    model: Model, asked: list[tuple[Question, Any]], batch: int, max_tokens: int
) -> list[tuple[Marked, Answer]]:
    """Questions of like length together; the order of the data set is kept."""
    from rich.progress import track

    order = np.argsort([-len(outline) for _, outline in asked], kind="stable").tolist()
    said: dict[int, Answer] = {}
    for start in track(range(0, len(order), batch), "answering", transient=True, console=_stderr()):
        some = order[start : start + batch]
        examples = prompts(model.processor, [asked[at][0].sample for at in some])
        found = answers(model.module, model.processor, examples, sampling=Sampling(), limit=max_tokens)
        said.update(zip(some, found, strict=True))
    return [(_marked(question, said[at].text), said[at]) for at, (question, _) in enumerate(asked)]


def _marked(question: Question, reply: str) -> Marked:
    """The demo's tasks have readers of their own, since their truths are codes."""
    marked = mark(question, reply)
    if question.task in score.READERS and question.truths:
        return replace(marked, right=any(score.right(question.task, truth, reply) for truth in question.truths))
    return marked


def _row(question: Question, marked: Marked, answer: Answer) -> dict[str, Any]:
    asked = "".join(part.text for part in question.sample.turns[-1].parts if isinstance(part, Text))
    return {
        "name": question.sample.name,
        "asked": asked,
        "pictures": [media.name for media in question.sample.media],
        "truth": list(question.truths),
        **asdict(marked),
        "ended": answer.ended,
        "tokens": answer.tokens,
        "prompt_sha256": _prompts_digest([answer]),
    }


def _prompts_digest(said: list[Answer]) -> str:
    return hashlib.sha256(text_json.dumps([answer.prompt for answer in said]).encode()).hexdigest()


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _print(result: dict[str, Any], out: Path | None) -> None:
    metrics = [name for name in next(iter(result["scores"].values())) if name != "questions"]
    rows = [(task, s["questions"], *(f"{s[m]:.3f}" for m in metrics)) for task, s in result["scores"].items()]
    table(("task", "questions", *metrics), rows, right=("questions", *metrics))
    dropped = result["dropped"]
    if dropped["rows"]:
        print(f"{dropped['rows']} rows could not be asked {dropped['by']}; first: {dropped['first'][0]}")
    print(f"{result['seconds']} s" + (f"; everything is in {out}" if out else ""))
