"""Equal blocks of a stack: which they are, and how their numbers are written."""

from collections.abc import Callable, Sequence

from torch import nn

MOST_KINDS, MOST_RUNS = 3, 5
"""Kinds that are told apart by their sizes too; stretches of numbers that are written out."""


def kinds_of(blocks: Sequence[nn.Module]) -> list[list[int]]:
    """Numbers of equal blocks together, kinds by their first; sizes count unless they make too many kinds."""
    exact = _grouped([_make(block, sizes=True) for block in blocks])
    return exact if len(exact) <= MOST_KINDS else _grouped([_make(block, sizes=False) for block in blocks])


def _make(module: nn.Module, *, sizes: bool) -> str:
    shapes = [(n, tuple(p.shape) if sizes else "") for n, p in module.named_parameters(recurse=False)]
    below = [(name, _make(child, sizes=sizes)) for name, child in module.named_children()]
    return f"{type(module).__qualname__}{shapes}{below}"


def _grouped(keys: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def kind_of_each(kinds: Sequence[Sequence[int]], count: int) -> list[int]:
    found = {number: kind for kind, numbers in enumerate(kinds) for number in numbers}
    return [found[number] for number in range(count)]


def runs_of(numbers: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


def numbers_of(numbers: Sequence[int]) -> str:
    """Counted from 1, as papers count: "1, 9, 17, 25", "2–4"."""
    runs = [(a + 1, b + 1) for a, b in runs_of(numbers)]
    shown = [str(a) if a == b else f"{a}–{b}" for a, b in runs]
    return ", ".join(shown if len(shown) <= MOST_RUNS else [*shown[:2], "…", shown[-1]])


def lighter(colour: str) -> str:
    """Half way to white."""
    channel: Callable[[int], int] = lambda at: (int(colour[at : at + 2], 16) + 2 * 255) // 3
    return "#" + "".join(f"{channel(at):02x}" for at in (1, 3, 5))
