"""A conversation as people write it: turns of text and media, in order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Text:
    """Words of a person or of the model. Never markup: whatever stands in it stays text."""

    text: str


@dataclass(frozen=True)
class Media:
    """One picture or video. `source` is a path, encoded bytes, a PIL image, or a document's page; decoded only when needed.

    Args:
        kind: "image" or "video", as in Layout.media.
    """

    kind: str
    source: Path | bytes | Any
    name: str = ""


@dataclass(frozen=True)
class Turn:
    """What one role says. `learn` is whether training predicts it; only an assistant's turn can be learnt."""

    role: str
    parts: tuple[Text | Media, ...]
    learn: bool = False

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"a turn's role is one of {', '.join(ROLES)}, not {self.role!r}")
        if self.learn and self.role != "assistant":
            raise ValueError(f"only an assistant's turn can be learnt, not a {self.role}'s")


@dataclass(frozen=True)
class Sample:
    """One conversation.

    Args:
        name: where it comes from, for errors and reports ("train.jsonl row 17").
        dataset: the data set's name, for counts and losses per source.
        extra: the row's other fields, untouched (truth, task, split ...).
    """

    turns: tuple[Turn, ...]
    name: str = ""
    dataset: str = ""
    extra: Any = None

    @property
    def media(self) -> tuple[Media, ...]:
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, Media))
