"""Which rows a stage sees, in which order: a weighted mixture of shuffled epochs that any machine can repeat.

The order depends on seed, stage and rows alone, never on the number of workers or processes; where it stands is a few
plain integers, so that a run goes on exactly where it was.
"""

import signal
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from scops.core.batch import Example
from scops.core.sample import Sample
from scops.data.errors import BadSample, TooLong

HOPELESS = 100
"""So many draws of a data set without a usable row among them end the run, however large the set."""


class Maker(Protocol):
    """What makes examples: scops.data.processor.Processor. `overflow` says whether too long a row is an error."""

    overflow: str

    def __call__(self, sample: Sample) -> Example: ...

    def writing(self, template: str) -> "Maker":
        """One that writes rows by another template of the system."""
        ...


@dataclass
class Position:
    """Where the stream stands.

    Args:
        drawn: rows drawn so far, by data set, over all processes.
        bad: distinct rows that could not be used, by data set; dropped: those that were left out for their length.
    """

    drawn: dict[str, int] = field(default_factory=dict)
    bad: dict[str, list[int]] = field(default_factory=dict)
    dropped: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Draw:
    """One row of one data set; `after` is what has been drawn then, in the order of the data sets."""

    name: str
    index: int
    after: tuple[int, ...]
    known: bool = False


@dataclass(frozen=True)
class Unusable:
    """Why a row gives no example."""

    kind: str
    reason: str


class Mixture:
    """An endless sequence of draws: at any moment each data set has its share, each in shuffled epochs.

    Args:
        weights: relative, by data set; None means its number of rows.
    """

    def __init__(
        self, sizes: Mapping[str, int], weights: Mapping[str, float | None], *, seed: int, salt: str = ""
    ) -> None:
        empty = [name for name, size in sizes.items() if size == 0]
        if empty or not sizes:
            raise ValueError(f"data set {empty[0]!r} has no rows" if empty else "there is no data set to learn from")
        self.sizes, self.seed, self.salt = dict(sizes), seed, salt
        wanted = [float(size if (weight := weights.get(name)) is None else weight) for name, size in sizes.items()]
        self.shares = np.array(wanted) / sum(wanted)
        self._orders: dict[str, tuple[int, np.ndarray]] = {}

    def draws(self, drawn: Mapping[str, int]) -> Iterator[Draw]:
        names = list(self.sizes)
        counts = np.array([drawn.get(name, 0) for name in names])
        while True:
            chosen = int(np.argmax(self.shares * (counts.sum() + 1) - counts))
            index = self._index(names[chosen], int(counts[chosen]))
            counts[chosen] += 1
            yield Draw(names[chosen], index, tuple(counts.tolist()))

    def _index(self, name: str, number: int) -> int:
        epoch, place = divmod(number, self.sizes[name])
        if self._orders.get(name, (-1,))[0] != epoch:
            seed = [self.seed, zlib.crc32(f"{self.salt}/{name}".encode()), epoch]
            self._orders[name] = (epoch, np.random.default_rng(seed).permutation(self.sizes[name]))
        return int(self._orders[name][1][place])


class Feed:
    """Endless lists of examples, one list per step of this process.

    Args:
        size: examples per list.
        position: where to go on; kept up to date with the last list that was given out.
        kept: examples that need not be made again, by (data set, row).
        rank, world: this process takes every world-th draw.
    """

    def __init__(
        self,
        datasets: Mapping[str, Sequence[Sample]],
        processor: Maker,
        *,
        mixture: Mixture,
        size: int,
        position: Position,
        max_bad_share: float,
        workers: int = 0,
        kept: Mapping[tuple[str, int], Example] | None = None,
        rank: int = 0,
        world: int = 1,
        report: Callable[[str], None] = print,
    ) -> None:
        self.datasets, self.processor, self.mixture, self.size = datasets, processor, mixture, size
        self.position, self.max_bad_share, self.workers = position, max_bad_share, workers
        self.kept: Mapping[tuple[str, int], Example] = {} if kept is None else kept
        self.rank, self.world, self.report = rank, world, report
        self.good: Counter[str] = Counter()

    def __iter__(self) -> Iterator[list[tuple[tuple[str, int], Example]]]:
        """Lists of ((data set, row), example)."""
        found: list[tuple[tuple[str, int], Example]] = []
        for draw, made in self._made():
            place = (draw.name, draw.index)
            if isinstance(made, Unusable):
                self._note(draw, made)
                continue
            self.good[draw.name] += 1
            found.append((place, made))
            if len(found) == self.size:
                self.position.drawn = dict(zip(self.mixture.sizes, draw.after, strict=True))
                yield found
                found = []

    def _made(self) -> Iterator[tuple[Draw, Example | Unusable]]:
        rows = _Rows(self.datasets, self.processor)
        if not self.workers:
            made: Iterable[Any] = map(rows.__getitem__, self._draws())
        else:
            made = DataLoader(
                rows, batch_size=None, sampler=self._draws(), num_workers=self.workers, collate_fn=_same,
                worker_init_fn=_deaf, generator=torch.Generator(), prefetch_factor=min(64, 2 * self.size),
            )  # fmt: skip
        for draw, example in made:
            yield draw, self.kept[draw.name, draw.index] if example is None else example

    def _draws(self) -> Iterator[Draw]:
        for draw in self.mixture.draws(self.position.drawn):
            if (sum(draw.after) - 1) % self.world == self.rank:
                yield replace(draw, known=(draw.name, draw.index) in self.kept)

    def _note(self, draw: Draw, found: Unusable) -> None:
        book = self.position.dropped if found.kind == "dropped" else self.position.bad
        rows = book.setdefault(draw.name, [])
        if draw.index in rows:
            return
        rows.append(draw.index)
        total, bad = len(self.datasets[draw.name]), len(self.position.bad.get(draw.name, ()))
        if len(rows) <= 3:
            self.report(f"{found.kind} row of {draw.name!r}: {found.reason}")
        unused = bad + len(self.position.dropped.get(draw.name, ()))
        if bad > self.max_bad_share * total:
            raise ValueError(
                f"{bad} of {total} rows of data set {draw.name!r} cannot be used, more than max_bad_share "
                f"{self.max_bad_share:g} allows; the last: {found.reason}"
            )
        if unused >= min(total, HOPELESS) and not self.good[draw.name]:
            raise ValueError(
                f"none of the first {unused} rows of data set {draw.name!r} can be used; the last: {found.reason}"
            )


class _Rows(Dataset):
    """Draw -> (draw, its example, None when it is known, or why there is none)."""

    def __init__(self, datasets: Mapping[str, Sequence[Sample]], processor: Maker) -> None:
        self.datasets, self.processor = datasets, processor

    def __getitem__(self, index: Draw) -> tuple[Draw, Example | Unusable | None]:
        rows = self.datasets[index.name]
        return index, None if index.known else make(rows, index.index, self.processor, name=index.name)


def make(rows: Sequence[Sample], index: int, processor: Maker, *, name: str) -> Example | Unusable:
    """One row as an example of data set `name`; any error that is not about the row is a bug and goes on."""
    try:
        return replace(processor(rows[index]), dataset=name)
    except TooLong as error:
        if processor.overflow == "error":
            raise
        return Unusable("dropped", f"row {index}: {error}")
    except BadSample as error:
        return Unusable("bad", f"row {index}: {type(error).__name__}: {error}")


def spread(rows: Sequence[Sample], count: int) -> list[int]:
    """At most `count` places, evenly over all rows."""
    return sorted(set(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int).tolist()))


def _same(item: Any) -> Any:
    return item


def _deaf(worker: int) -> None:
    """An interrupt goes to the whole process group; only the main process answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
