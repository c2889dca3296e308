"""A conversation with a system that grows by tokens: all that generation and serving see."""

# B rows, V vocabulary
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from scops.core.batch import Example


class Session(Protocol):
    logits_BV: Tensor
    """For each row, the scores of its next token."""

    def step(self, ids_B: Tensor) -> Tensor:
        """Give each row one more token; returns the new logits_BV."""
        ...

    def select(self, rows_R: Tensor) -> None:
        """Keep, drop, repeat or reorder rows."""
        ...


class OutOfPages(Exception):
    """No page is left for what was to be read or written; nothing of it was, so that it may be tried again with room."""


class SharedRow(Protocol):
    """One of many conversations; only the session that opened it looks inside."""

    @property
    def left(self) -> int:
        """Tokens of it that stand in no page yet."""
        ...


class SharedSession(Protocol):
    """Conversations over one bounded memory of pages, shared where they begin alike; rows come and go between forwards.

    Args:
        page: tokens per page.
        pages: of them all; no more tokens than page * pages are ever kept.
    """

    page: int
    pages: int

    @property
    def free(self) -> int:
        """Pages that no row holds."""
        ...

    def open(self, example: Example) -> SharedRow:
        """A row that holds no page and has read nothing."""
        ...

    def needs(self, row: SharedRow) -> int:
        """How many of the free pages it takes to read what is left of the row and to write one token behind it."""
        ...

    def read(self, row: SharedRow, most: int) -> Tensor | None:
        """Read on, at most so many tokens; the scores (V,) of the next one when all is read. OutOfPages: nothing was read."""
        ...

    def step(self, rows: Sequence[SharedRow], ids_B: Tensor) -> Tensor:
        """Give each of these rows, read to their ends, one more token; returns (B, V). OutOfPages: none was given."""
        ...

    def release(self, row: SharedRow) -> None:
        """Give its pages back. It keeps its tokens and may be read again from the beginning."""
        ...
