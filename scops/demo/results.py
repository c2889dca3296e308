"""What the demo saw, and the table of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from scops.demo.exam import Paper
from scops.train.loop import Result

COLUMNS = ("text-only prior", "nearest neighbour", "owl-nano", "owl-tiny")


@dataclass
class Story:
    """What was seen so far.

    Args:
        shares: by who answered, one share per paper of the examination.
        answers: by who answered, one list per paper.
        notes: what could not be had, in words.
    """

    folder: Path
    papers: Sequence[Paper] = ()
    shares: dict[str, list[float]] = field(default_factory=dict)
    answers: dict[str, list[list[str]]] = field(default_factory=dict)
    own: list[tuple[Path, str]] = field(default_factory=list)
    trained: Result | None = None
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def shares_table(story: Story) -> Table:
    table = Table(title="right answers, in %")
    table.add_column("what is asked")
    table.add_column("task")
    table.add_column("questions", justify="right")
    for name in columns_of(story):
        table.add_column(name, justify="right")
    for row in table_rows(story):
        table.add_row(*row)
    return table


def columns_of(story: Story) -> list[str]:
    return [name for name in COLUMNS if name in story.shares]


def table_rows(story: Story) -> list[tuple[str, ...]]:
    """Group, task, number of questions, then a percentage per column; a baseline that cannot answer shows a dash."""
    rows: list[tuple[str, ...]] = []
    for at, paper in enumerate(story.papers):
        cells = []
        for name in columns_of(story):
            several = all(len(q.pictures) != 1 for q in paper.questions)
            blind = name == "nearest neighbour" and (paper.group.trained or several)
            value = story.shares[name][at]
            cells.append("-" if blind else f"{100 * value:.0f}")
        rows.append((paper.group.name, paper.task, str(len(paper.questions)), *cells))
    return rows
