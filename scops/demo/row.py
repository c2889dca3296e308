"""One line of a data set in the `messages` form, with the truth beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scops.demo.concepts import concept_split

Part = dict[str, str]
SPLITS = ("train", "heldout_picture", "heldout_style", "heldout_concept", "heldout_layout", "heldout_word")


@dataclass(frozen=True)
class Row:
    """Questions and answers about pictures.

    Args:
        task: a task of scops.demo.score, or several joined by "+" when the turns ask different things.
        truth: task -> the answer in its shortest form ("owl", "animal-bird", "3", "at the top left", "yes").
        turns: (question, answer); the first question carries the pictures.
        pictures: paths relative to the data set's folder.
        about: codes of the concepts that are shown or spoken of.
    """

    id: str
    split: str
    task: str
    truth: Mapping[str, str]
    turns: Sequence[tuple[str, str]]
    pictures: Sequence[str] = ()
    about: Sequence[str] = ()
    style: str = ""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"row {self.id!r} has the split {self.split!r}; expected one of {', '.join(SPLITS)}")
        held = [code for code in self.about if concept_split(code) != "train"]
        if self.split == "train" and held:
            raise ValueError(f"row {self.id!r} would train on {held[0]}, which is held out")

    def as_json(self) -> dict[str, Any]:
        """The row as it is written; pictures stand before the first question."""
        messages = []
        for number, (question, answer) in enumerate(self.turns):
            shown = [picture(path) for path in self.pictures] if number == 0 else []
            messages.append({"role": "user", "content": [*shown, text(question)]})
            messages.append({"role": "assistant", "content": [text(answer)]})
        return {
            "id": self.id,
            "split": self.split,
            "task": self.task,
            "truth": dict(self.truth),
            "about": list(self.about),
            "style": self.style,
            "messages": messages,
        }


def text(words: str) -> Part:
    return {"type": "text", "text": words}


def picture(path: str) -> Part:
    return {"type": "image", "image": path}
