"""`scops data check|show PATH`: a data set as a system will read it; no weights are loaded."""

from pathlib import Path

from scops.cli.show import as_json
from scops.data import check as checking
from scops.data.errors import BadSample
from scops.data.processor import Processor
from scops.data.readers import open_dataset
from scops.model.opening import reading


def check(path: Path, *, model: str, limit: int | None, json: bool) -> None:
    dataset, processor = open_dataset(path), Processor(*reading(model))
    report = checking.check(dataset, processor, limit=limit)
    if json:
        found = {**vars(report), "tokens": report.tokens, "histogram": report.histogram(), "form": dataset.form}
        as_json({"path": str(path), "model": model, **{k: v for k, v in found.items() if k != "lengths"}})
    else:
        _print(report.render())
    if report.checked == sum(report.drops.values()):
        raise ValueError(f"none of {report.checked} rows of {path} can be used: {dict(report.drops)}")


def show(path: Path, *, model: str, limit: int) -> None:
    """The first rows; one that cannot be used says why."""
    dataset, processor = open_dataset(path), Processor(*reading(model))
    for at in range(min(limit, len(dataset))):
        try:
            sample = dataset[at]
            example = processor.outline(sample)
        except BadSample as error:
            print(f"dropped ({type(error).__name__}): {error}\n")
            continue
        print(f"{sample.name}: {len(example)} tokens, {int(example.learn_T.sum())} learnt")
        _print(checking.show(example, processor.tokenizer))
        print()


def _print(text: object) -> None:
    from rich.console import Console

    Console(soft_wrap=True).print(text)
