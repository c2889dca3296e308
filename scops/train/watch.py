"""Who wants to know where a step's time goes: nobody, or a profile (scops.train.profile)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Watch(Protocol):
    """Told of every step and, within it, of its phases."""

    def begin(self) -> None:
        """A step begins: its rows are not there yet."""
        ...

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A part of a step; phases may stand within each other, and time counts to the innermost."""
        ...

    def end(self, *, tokens: int, samples: int) -> None: ...

    def close(self) -> None:
        """There are no more steps."""
        ...


class Unwatched:
    def begin(self) -> None:
        pass

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def end(self, *, tokens: int, samples: int) -> None:
        pass

    def close(self) -> None:
        pass


UNWATCHED = Unwatched()
