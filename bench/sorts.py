"""The easy question that small systems are trained on: of what sort is the thing in the picture, one of six.

Sorts are as frequent as each other, so that words alone are right by one in six. Pictures are those that `scops demo` draws.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scops.checkpoints.write import save_text
from scops.demo.dataset import rows_in

ASKED = "What sort of thing is this?"
SORTS = ("animal", "face", "food", "person", "place", "transport")
MOST, HELD = 120, 14
"""Rows of each sort: to learn from, and held out in each group."""
TRAINED = "train_names.jsonl"
GROUPS = {"new pictures": "heldout_picture.jsonl", "a style never trained on": "heldout_style.jsonl"}

Row = Mapping[str, Any]
Part = Mapping[str, str]
"""One of a message's contents."""


def rows_of(data: Path, file: str, most: int) -> list[Row]:
    """So many of each sort, the same ones each time."""
    by_sort: dict[str, list[Row]] = defaultdict(list)
    pictures = set()
    for row in rows_in(data / file):
        sort = row["truth"].get("kind", "").split("-")[0]
        (picture,) = (part["image"] for part in row["messages"][0]["content"] if part["type"] == "image")
        if sort in SORTS and picture not in pictures:
            pictures.add(picture)
            by_sort[sort].append({"picture": picture, "sort": sort, "name": row["truth"].get("name", "")})
    dice = random.Random(0)
    return [row for sort in SORTS for row in dice.sample(by_sort[sort], min(most, len(by_sort[sort])))]


def shown(picture: str) -> Part:
    return {"type": "image", "image": picture}


def said(text: str) -> Part:
    return {"type": "text", "text": text}


def save_rows(exchanges: Iterable[tuple[Sequence[Part], str]], path: Path) -> Path:
    """What a user shows and says, and the reply, in the `messages` form."""
    lines = []
    for asked, reply in exchanges:
        turns = [{"role": "user", "content": [*asked]}, {"role": "assistant", "content": [said(reply)]}]
        lines.append(json.dumps({"messages": turns}) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_text(path, "".join(lines))
    return path


def share(answers: Sequence[str], wanted: Sequence[str]) -> float:
    return sum(a.strip() == b for a, b in zip(answers, wanted, strict=True)) / len(wanted)
