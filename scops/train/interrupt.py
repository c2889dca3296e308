"""An interrupt (Ctrl-C, or a scheduler's SIGTERM) is a wish to stop after this step; a second one stops at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

EXIT = 130


class Interrupted(Exception):
    """Training stopped when asked to, and is saved; a command exits with EXIT."""


class Interrupts:
    """While entered, `asked` says whether somebody wants to stop. Only the main thread can hear."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self._hear) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
