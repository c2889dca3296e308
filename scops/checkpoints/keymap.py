"""Published parameter names on the left, ours on the right: a table that reads both ways and forgets nothing."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from scops.checkpoints.op import (
    Concat,
    Copies,
    FirstRows,
    Inverse,
    LeadingAxes,
    Op,
    Repeated,
    Split,
    SplitPerHead,
    TrailingAxes,
    Transpose,
    Unpermute,
    WithTables,
)  # fmt: skip
from scops.core.names import nearest

__all__ = [
    "Concat", "Copies", "FirstRows", "Inverse", "KeyMap", "KeyMismatch", "LeadingAxes", "Move", "Op", "Repeated",
    "Rule", "Split", "SplitPerHead", "TrailingAxes", "Transpose", "Unpermute", "WithTables",
    "dropped", "rule", "same", "split", "unchanged",
]  # fmt: skip

HOLE = re.compile(r"\{(\w+)\}")
NUMBERS = "ijk"
PLAIN = Op()
SHOWN = 5


class KeyMismatch(ValueError):
    """The names of a checkpoint and the table do not fit."""


@dataclass(frozen=True)
class Rule:
    """Templates on both sides; a hole means the same everywhere.

    {i}, {j}, {k} are numbers, any other {name} is one dotted piece.

    Args:
        read_only: another spelling of what a later or earlier rule writes.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    op: Op = PLAIN
    why: str = ""
    read_only: bool = False

    def __post_init__(self) -> None:
        for template in self.theirs + self.ours:
            if set(HOLE.findall(template)) != set(HOLE.findall(self.theirs[0])):
                raise ValueError(f"{template!r} and {self.theirs[0]!r} of one rule have different holes")

    def __str__(self) -> str:
        return f"{' + '.join(self.theirs)} -> {' + '.join(self.ours) or 'dropped'}"


def same(theirs: str, ours: str, op: Op | None = None) -> Rule:
    """One tensor on both sides, changed by `op` if given."""
    return Rule((theirs,), (ours,), op or PLAIN)


def split(theirs: str, ours: Sequence[str], op: Op | None = None) -> Rule:
    """One tensor of theirs is several of ours."""
    return Rule((theirs,), tuple(ours), op or Split(len(ours)))


def rule(theirs: Sequence[str], ours: Sequence[str], op: Op) -> Rule:
    """Any number on both sides."""
    return Rule(tuple(theirs), tuple(ours), op)


def dropped(theirs: str, why: str) -> Rule:
    """A key of theirs that we rebuild or never read. `why` is for the reader."""
    return Rule((theirs,), (), why=why)


def unchanged(names: Iterable[str]) -> "KeyMap":
    """These names and no others, the same on both sides: for files in our own layout."""
    return KeyMap(same(name, name) for name in names)


@dataclass(frozen=True)
class Move:
    """What one rule does with the tensors of one place: names in, names out, and the change between them."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    change: Callable[[list[Tensor]], list[Tensor]]
    rule: Rule

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        try:
            made = self.change(tensors)
        except (ValueError, RuntimeError) as error:
            shapes = [tuple(tensor.shape) for tensor in tensors]
            raise KeyMismatch(f"{self.sources} of shapes {shapes}, by the rule {self.rule}: {error}") from error
        assert len(made) == len(self.targets), self.rule
        return made


class KeyMap:
    """Rules in order; the first rule that fits a key takes it. Iterating gives the rules, so maps can be parts of maps.

    Every way is checked back: a key that would not return to where it came from is an error, and so is a leftover key.
    Another spelling (`read_only`) returns as the one that is written.
    """

    def __init__(self, *rules: Rule | Iterable[Rule]) -> None:
        self.rules = tuple(r for item in rules for r in ([item] if isinstance(item, Rule) else item))

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def under(self, theirs: str = "", ours: str = "") -> "KeyMap":
        """The same rules with both sides below a prefix, for mounting a part's map inside a system's."""
        return KeyMap(
            replace(r, theirs=tuple(theirs + t for t in r.theirs), ours=tuple(ours + o for o in r.ours))
            for r in self.rules
        )

    def read_only(self) -> "KeyMap":
        """The same rules as another spelling: files with these names are read, and never written."""
        return KeyMap(replace(r, read_only=True) for r in self.rules)

    def load(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Theirs -> ours."""
        return _apply(state, self.moves_in(state))

    def save(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Ours -> theirs; save(load(x)) == x, bit for bit, but for dropped keys."""
        return _apply(state, self.moves_out(state))

    def load_names(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Our name -> the published names it is made from, without any tensor."""
        return {target: move.sources for move in self.moves_in(names) for target in move.targets}

    def save_names(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Published name -> our names it is made from."""
        return {target: move.sources for move in self.moves_out(names) for target in move.targets}

    def moves_in(self, names: Iterable[str]) -> list[Move]:
        return self._moves(names, self._inward, self._outward)

    def moves_out(self, names: Iterable[str]) -> list[Move]:
        return self._moves(names, self._outward, self._inward)

    @cached_property
    def _inward(self) -> "_Side":
        return _Side([(r, r.theirs, r.ours, r.op.load) for r in self.rules])

    @cached_property
    def _outward(self) -> "_Side":
        return _Side([(r, r.ours, r.theirs, r.op.save) for r in self.rules if not r.read_only])

    @staticmethod
    def _moves(names: Iterable[str], side: "_Side", back: "_Side") -> list[Move]:
        names, places, left, made = list(names), {}, [], {}
        for name in names:
            found = side.find(name)
            if found is None:
                left.append(name)
            else:
                places.setdefault((found[0], tuple(sorted(found[1].items()))), []).append(name)
        if left:
            raise KeyMismatch(side.leftover(left))
        moves = [side.move(number, dict(holes), present) for (number, holes), present in places.items()]
        for move in moves:
            for target in move.targets:
                if target in made:
                    raise KeyMismatch(f"two rules make {target!r}: {made[target]} and {move.rule}")
                made[target] = move.rule
                returns = back.find(target)
                if returns is None or (back.rules[returns[0]] is not move.rule and not move.rule.read_only):
                    other = "no rule" if returns is None else back.rules[returns[0]]
                    raise KeyMismatch(f"{target!r}, made by {move.rule}, would go back by {other}")
        return moves


class _Side:
    """The templates of one side, found by their number of dotted pieces."""

    def __init__(self, entries: list[tuple[Rule, tuple[str, ...], tuple[str, ...], Callable]]) -> None:
        self.entries, self.rules = entries, [r for r, *_ in entries]
        self.plain: dict[str, int] = {}
        self.by_length: dict[int, list[tuple[re.Pattern[str], int]]] = {}
        for number, (_, sources, _, _) in enumerate(entries):
            for source in sources:
                if HOLE.search(source):
                    self.by_length.setdefault(source.count("."), []).append((pattern(source), number))
                else:
                    self.plain.setdefault(source, number)

    def find(self, name: str) -> tuple[int, dict[str, str]] | None:
        """The number of the first rule that fits, and what stands in its holes."""
        plain = self.plain.get(name)
        for template, number in self.by_length.get(name.count("."), ()):
            if plain is not None and plain < number:
                break
            if match := template.fullmatch(name):
                return number, match.groupdict()
        return None if plain is None else (plain, {})

    def move(self, number: int, holes: dict[str, str], present: list[str]) -> Move:
        r, sources, targets, change = self.entries[number]
        wanted = tuple(source.format(**holes) for source in sources)
        missing = [name for name in wanted if name not in present]
        if missing:
            raise KeyMismatch(f"{present[0]!r} needs {missing} beside it, by the rule {r}")
        return Move(wanted, tuple(target.format(**holes) for target in targets), change, r)

    def leftover(self, left: list[str]) -> str:
        known = [source for _, sources, _, _ in self.entries for source in sources]
        shown = [f"{name!r}{nearest(name, known)}" for name in left[:SHOWN]]
        more = f"\n  ... and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        return f"{len(left)} keys fit no rule:\n  " + "\n  ".join(shown) + more


def _apply(state: Mapping[str, Tensor], moves: list[Move]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for move in moves:
        if move.targets:
            out.update(zip(move.targets, move([state[name] for name in move.sources]), strict=True))
    return out


def pattern(template: str) -> re.Pattern[str]:
    """The template as an expression; a hole that stands twice must hold the same twice."""
    seen: set[str] = set()
    parts = HOLE.split(template)  # literal, hole, literal, ...
    for at in range(1, len(parts), 2):
        name = parts[at]
        kind = r"\d+" if name in NUMBERS else r"[^.]+"
        parts[at] = f"(?P={name})" if name in seen else f"(?P<{name}>{kind})"
        seen.add(name)
    return re.compile("".join(part if at % 2 else re.escape(part) for at, part in enumerate(parts)))
