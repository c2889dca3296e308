"""Continuous batching (Orca, OSDI 2022): requests join and leave between steps, in a memory that has an end.

Who comes first is let in first. Long prompts are read in parts, so that the others go on writing. When pages run out, the
youngest gives its own back and waits; what it has written is read again later, so that nothing is lost.
"""

# B rows, V vocabulary
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from scops.core.batch import Example
from scops.core.session import OutOfPages, SharedRow, SharedSession
from scops.generate.request import Request

ROWS, CHUNK = 16, 256


@dataclass(eq=False)
class _Seat:
    """A request that was let in or waits for it.

    Args:
        number: in the order of coming.
        last: its newest token, which the session has not seen yet.
    """

    number: int
    request: Request
    row: SharedRow
    last: int | None = None


class Scheduler:
    """One thread turns it, any may submit and cancel.

    Args:
        rows: the most requests that are read or written at once.
        chunk: the most tokens of prompts that are read between two steps.
    """

    def __init__(self, session: SharedSession, *, rows: int = ROWS, chunk: int = CHUNK):
        if rows < 1 or chunk < 1:
            raise ValueError(f"a scheduler has at least 1 row and reads at least 1 token, not {rows} and {chunk}")
        self.session, self.rows, self.chunk = session, rows, chunk
        self._came: deque[tuple[Request, Example]] = deque()  # appended to by any thread
        self._count = 0
        self.waiting: list[_Seat] = []
        self.reading: deque[_Seat] = deque()
        self.writing: list[_Seat] = []

    @property
    def queued(self) -> int:
        """Requests that were not let in yet."""
        return len(self._came) + len(self.waiting)

    def submit(self, request: Request, example: Example) -> None:
        """ValueError at once for one that can never have enough room."""
        most = len(example) + max(request.limit - 1, 1)  # the last token is never kept, but room is made for one
        room = self.session.pages * self.session.page
        if -(-most // self.session.page) > self.session.pages:
            raise ValueError(
                f"{request.name or 'a request'}: {len(example)} tokens of prompt and up to {request.limit} of reply need "
                f"room for {most} tokens, but the whole memory holds {room}; ask for less, or give more memory"
            )
        self._came.append((request, example))

    def tick(self) -> bool:
        """Let in, read some, write one token each. False when there was nothing to do."""
        self._arrive()
        self._leave_cancelled()
        self._admit()
        if not (self.reading or self.writing):
            return False
        self._read()
        self._write()
        return True

    def _arrive(self) -> None:
        while self._came:
            request, example = self._came.popleft()
            try:
                self.waiting.append(_Seat(self._count, request, self.session.open(example)))
            except Exception as error:  # belongs to this request, which tells it
                request.fail(error)
            self._count += 1

    def _leave_cancelled(self) -> None:
        for seat in [*self.waiting, *self.reading, *self.writing]:
            if seat.request.cancelled:
                self._remove(seat)
                seat.request.end("cancelled")

    def _admit(self) -> None:
        """In the order of coming, while there is room for a whole prompt and a page more for everyone who writes."""
        while self.waiting and len(self.reading) + len(self.writing) < self.rows:
            wanted = [self.session.needs(seat.row) for seat in (*self.reading, self.waiting[0])]
            if sum(wanted) + len(self.writing) > self.session.free:
                return
            self.reading.append(self.waiting.pop(0))

    def _read(self) -> None:
        """Parts of prompts in turn; all but a prompt's last part are whole pages, so that others may share them."""
        budget = self.chunk
        while budget > 0 and self.reading:
            seat, most = self.reading.popleft(), max(budget - budget % self.session.page, self.session.page)
            left = seat.row.left
            self.reading.append(seat)
            try:
                logits_V = self.session.read(seat.row, most)
            except OutOfPages as error:
                self._make_room(error)
                continue
            except Exception as error:
                self._fail(seat, error)
                continue
            budget -= min(left - seat.row.left, most)
            if logits_V is not None:
                self.reading.remove(seat)
                self.writing.append(seat)
                if seat.last is None:  # else it was written before its pages were given back
                    self._choose(seat, logits_V)

    def _write(self) -> None:
        while self.writing:
            try:
                scores = self._stepped(self.writing)
            except OutOfPages as error:
                self._make_room(error)
            else:
                for seat, logits_V in scores:
                    self._choose(seat, logits_V)
                return

    def _stepped(self, seats: list[_Seat]) -> list[tuple[_Seat, Tensor]]:
        """One step of all; when it fails, one by one, so that only those end whose own step fails."""
        ids_B = torch.tensor([seat.last for seat in seats])
        try:
            logits_BV = self.session.step([seat.row for seat in seats], ids_B)
        except OutOfPages:
            raise
        except Exception as error:
            if len(seats) == 1:
                self._fail(seats[0], error)
                return []
            return [one for seat in [*seats] for one in self._stepped([seat])]
        return list(zip(seats, logits_BV, strict=True))

    def _choose(self, seat: _Seat, logits_V: Tensor) -> None:
        try:
            seat.last = seat.request.choose(logits_V)
        except Exception as error:  # sampling that this vocabulary does not allow, say
            self._fail(seat, error)
            return
        if seat.request.done:
            self._remove(seat)

    def _make_room(self, error: OutOfPages) -> None:
        """The youngest gives its pages back and waits again, in its old place."""
        seats = [*self.reading, *self.writing]
        youngest = max(seats, key=lambda seat: seat.number)
        if len(seats) == 1:
            self._fail(youngest, error)
            return
        self._remove(youngest)
        self.waiting.append(youngest)
        self.waiting.sort(key=lambda seat: seat.number)

    def _fail(self, seat: _Seat, error: Exception) -> None:
        self._remove(seat)
        seat.request.fail(error)

    def _remove(self, seat: _Seat) -> None:
        for seats in (self.waiting, self.reading, self.writing):
            if seat in seats:
                seats.remove(seat)
        self.session.release(seat.row)
