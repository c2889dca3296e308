"""How every verb prints: tables for people, JSON for programs, sizes and counts in short."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDEST = 10_000


def as_json(value: Any) -> None:
    """One JSON document on standard output; paths and other odd values as text."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", right: Sequence[str] = ()) -> None:
    """A table on standard output; `right` names the columns of numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:  # in a pipe a table is as wide as it needs
        console = Console(width=WIDEST)
    console.print(made)


def pairs(values: Mapping[str, Any], *, title: str = "", indent: int = 2) -> None:
    """Names and values, one per line."""
    if title:
        print(f"\n{title}")
    width = max(map(len, values), default=0)
    for name, value in values.items():
        print(f"{'':<{indent}}{name:<{width}}  {value}")


def short(number: float) -> str:
    """1234567 -> 1.23 M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:g}"
