"""Tokens as text while they come: whole characters only, nothing shown that a stop string may still take back."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from scops.core.session import Session
from scops.generate.engine import tokens
from scops.generate.sampler import Sampler


class Decoding(Protocol):
    """A tokenizer's stream: text that is certain so far."""

    def step(self, token: int) -> str: ...

    def finish(self) -> str: ...


@dataclass(frozen=True)
class Piece:
    """New text of one row; `ended` as in Token, `tokens` counts the row's tokens so far."""

    row: int
    text: str
    ended: str | None = None
    tokens: int = 0


class Words:
    """One row's text. A stop string may span tokens: its possible beginning is held back until it is decided."""

    def __init__(self, decoding: Decoding, *, stops: Sequence[str] = ()) -> None:
        if "" in stops:
            raise ValueError("generate: a stop string is empty; it would end every reply before its first letter")
        self.decoding, self.stops = decoding, tuple(stops)
        self.text, self.stopped, self._shown = "", False, 0

    def push(self, token: int) -> bool:
        """Take a token; True when a stop string is complete."""
        return self._grow(self.decoding.step(token))

    def new(self) -> str:
        """Text that is certain and was not given out before."""
        return self._give(len(self.text) - (0 if self.stopped else self._held()))

    def close(self) -> str:
        """The rest: the row has ended."""
        if not self.stopped:
            self._grow(self.decoding.finish())
        return self._give(len(self.text))

    def _grow(self, text: str) -> bool:
        self.text += text
        places = [at for at in (self.text.find(stop, self._shown) for stop in self.stops) if at >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True
        return self.stopped

    def _held(self) -> int:
        """Letters at the end that may be the beginning of a stop string."""
        return max((n for stop in self.stops for n in range(1, len(stop)) if self.text.endswith(stop[:n])), default=0)

    def _give(self, end: int) -> str:
        text, self._shown = self.text[self._shown : end], max(end, self._shown)
        return text


def stream(
    session: Session, *, words: Sequence[Words], stops: Collection[int], limit: int | Sequence[int], sampler: Sampler
) -> Iterator[Piece]:
    """New text of the rows as it becomes certain; each row's last piece says why it ended. One Words per row."""
    counts = [0] * len(words)

    def halt(row: int, token: int) -> bool:
        return words[row].push(token)

    for step in tokens(session, stops=stops, limit=limit, sampler=sampler, halt=halt):
        for token in step:
            counts[token.row] += 1
            row = words[token.row]
            text = row.new() if token.ended is None else row.new() + row.close()
            if text or token.ended:
                yield Piece(token.row, text, token.ended, counts[token.row])
