"""`scops score MODEL PICTURES --text ...` and `scops retrieve MODEL AMONG --text ... or --image ...`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scops.cli.show import as_json, table
from scops.data.documents import file_of
from scops.lab.retrieval import Found, Ranking
from scops.model.model import Model
from scops.model.opening import load


def score(name: str, pictures: Sequence[Path], texts: Sequence[str], *, dtype: str, device: str, json: bool) -> None:
    for path in pictures:
        _there(path)
    found = load(name, dtype=dtype, device=device).score(pictures, texts)
    pairs = [
        {"picture": picture, "text": text, "likeness": alike, "match": match}
        for picture, alikes, matches in zip(
            found.pictures, found.likeness_NK.tolist(), found.match_NK.tolist(), strict=True
        )
        for text, alike, match in zip(texts, alikes, matches, strict=True)
    ]
    if json:
        as_json({"model": name, "pairs": pairs})
        return
    rows = [(p["picture"], p["text"], f"{p['likeness']:.3f}", f"{p['match']:.1%}") for p in pairs]
    table(("picture", "text", "likeness", "match"), rows, right=("likeness", "match"))


def retrieve(
    name: str,
    among: Path,
    *,
    text: str | None,
    image: Path | None,
    top: int,
    judged: int,
    keep: bool,
    dtype: str,
    device: str,
    json: bool,
) -> None:
    if (text is None) == (image is None):
        raise ValueError("give --text to find pictures by it, or --image to find texts by it: one of them")
    if image is not None:
        _there(image)
    model = load(name, dtype=dtype, device=device)
    ranking = _ranking(model, among, text, image, judged, keep)
    for line in ranking.unread:
        print(f"left out: {line}", file=sys.stderr)
    found = ranking.found[:top]
    if json:
        asked = {"text": text} if text is not None else {"image": str(image)}
        shown = [asdict(one) for one in found]
        as_json({"model": name, **asked, "of": len(ranking.found), "found": shown, "unread": ranking.unread})
    else:
        what = "text" if image is not None else "picture"
        rows = [(str(at + 1), one.name, *_numbers(one)) for at, one in enumerate(found)]
        table(("", what, "likeness", "match"), rows, right=("", "likeness", "match"))


def _ranking(model: Model, among: Path, text: str | None, image: Path | None, judged: int, keep: bool) -> Ranking:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("looking", total=None)
        told: Any = lambda done, total: bar.update(task, completed=done, total=total)
        return model.retrieve(among, text=text, image=image, judged=judged, keep=keep, told=told)


def _numbers(one: Found) -> tuple[str, str]:
    return f"{one.likeness:.3f}", "" if one.match is None else f"{one.match:.1%}"


def _there(path: Path) -> None:
    if not file_of(str(path)).is_file():
        raise ValueError(f"{path}: there is no such file")
