"""What each stage of a recipe trains, part by part, as a table with a flame, a snowflake or an adapter for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from scops.core.glob import covered
from scops.core.stage import Stage
from scops.lab.figure.boxes import INK, LINE, PAPER, SOFT
from scops.lab.figure.modules import counted
from scops.lab.figure.svg import Font, Page

FLAME, ICE, ADAPTER = "#e4572e", "#4a90c2", "#8e5bd0"
HEAD, CELL, SMALL = Font(10.5, bold=True, colour=SOFT), Font(10.5, colour=INK), Font(9, mono=True, colour=SOFT)
ROW, GAP, MARK = 28, 22, 18
LONGEST = 60
"""Letters of what a stage trains of a part."""


@dataclass(frozen=True)
class Learnt:
    """What a stage does with one part.

    Args:
        named: globs that cover some of it and not all, as seen from the part.
    """

    parameters: int
    trained: int
    adapters: int
    named: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        if not self.parameters:
            return "none"
        if not self.trained:
            return "lora" if self.adapters else "frozen"
        return "trains" if self.trained == self.parameters else "part"

    @property
    def words(self) -> str:
        if self.state == "none":
            return "no parameters"
        adapters = f"LoRA {counted(self.adapters)}" if self.adapters else ""
        if self.state == "part":
            trained = f"{counted(self.trained)} of {counted(self.parameters)}"
        else:
            trained = counted(self.trained) if self.trained else ""
        return ", ".join(filter(None, (trained, adapters))) or "frozen"


def learnt(module: nn.Module, stage: Stage, parts: Sequence[str]) -> dict[str, Learnt]:
    """By path of the part. Nothing of the module is changed.

    Raises:
        ValueError: a glob of the stage that covers nothing.
    """
    sizes = {path: parameter.numel() for path, parameter in module.named_parameters()}
    trained = set(covered(stage.train, sizes, f"stage {stage.name!r} trains"))
    linear = {path: m for path, m in module.named_modules() if isinstance(m, nn.Linear)}
    wrapped = covered(stage.lora.targets, linear, "LoRA targets") if stage.lora else []
    rank = stage.lora.rank if stage.lora else 0
    found = {}
    for part in parts:
        own = [path for path in sizes if path.startswith(part + ".")]
        adapted = [linear[path] for path in wrapped if path.startswith(part + ".")]
        named = tuple(_seen_from(part, glob) for glob in stage.train if glob.startswith(part + "."))
        found[part] = Learnt(
            sum(sizes[path] for path in own), sum(sizes[path] for path in own if path in trained),
            sum(rank * (one.in_features + one.out_features) for one in adapted), named,
        )  # fmt: skip
    return found


def symbol(page: Page, state: str, x: float, y: float) -> None:
    """A flame, an outlined flame for a part that learns in part, a snowflake, or two thin matrices for adapters; about 12 x 12."""
    if state in ("trains", "part"):
        page.path(
            f"M{x:.1f} {y - 7:.1f} c 1.6 3 4.6 4.4 4.6 8 a 4.6 4.6 0 0 1 -9.2 0 c 0 -2.2 1.2 -3.2 2 -4.6 c 0.6 1.2 1.2 1.4 1.6 1.8 "
            f"c 0.6 -1.4 0.9 -3 1 -5.2 z",
            fill=FLAME if state == "trains" else PAPER, stroke=FLAME, thick=1.3,
        )  # fmt: skip
    elif state in ("frozen", "none"):
        for a, b in ((0, 5.4), (4.7, 2.7), (4.7, -2.7)):
            page.line((x - a, y - b), (x + a, y + b), colour=ICE, thick=1.5)
    else:
        for left in (-5, 1):
            page.rect(x + left, y - 5.5, 4, 11, fill=ADAPTER, radius=1)


@dataclass(frozen=True)
class Training:
    """The table of all recipes; draws like a box.

    Args:
        parts: paths of the parts, in the figure's order.
        lanes: whose token each expert of a Routed module takes.
    """

    module: nn.Module
    recipes: Mapping[str, Sequence[Stage]]
    parts: tuple[str, ...]
    lanes: tuple[str, ...] = ("text",)

    def rows(self) -> list[tuple[str, Stage, dict[str, Learnt]]]:
        """(recipe, or "" where it is the one above; stage; by part)."""
        return [
            ("" if number else recipe, stage, learnt(self.module, stage, self.parts))
            for recipe, stages in self.recipes.items()
            for number, stage in enumerate(stages)
        ]

    def states(self, stages: Sequence[Stage]) -> list[dict[str, Learnt]]:
        """By part, for every stage."""
        return [learnt(self.module, stage, self.parts) for stage in stages]

    def _cells(self) -> list[list[tuple[str, str, str]]]:
        """(state or "", words, small words) per row and column; the first row is the head."""
        head = [("", word, "") for word in ("recipe", "stage", *self.parts, "steps × batch", "learning rate")]
        made = [head]
        for recipe, stage, by_part in self.rows():
            parts = [
                (one.state, one.words, self._names(one) if one.state == "part" else "") for one in by_part.values()
            ]
            budget = f"{stage.steps:,} × {stage.batch:,}"
            made.append(
                [
                    ("", recipe, ""),
                    ("", stage.name, ""),
                    *parts,
                    ("", budget, ""),
                    ("", f"{_short(stage.lr)} {stage.schedule}", ""),
                ]
            )
        return made

    def _names(self, one: Learnt) -> str:
        """As far as there is room: attn.norm image, attn.k image …"""
        names = [self._lane(name.replace(".body.", ".")) for name in one.named]
        shown = ", ".join(names)
        while len(shown) > LONGEST and len(names) > 1:
            names.pop()
            shown = ", ".join(names) + " …"
        return shown

    def _lane(self, name: str) -> str:
        """Experts by whose tokens they take."""
        for number, lane in enumerate(self.lanes):
            name = name.replace(f".experts.{number}", f" {lane}")
        return name

    def _widths(self, cells: list[list[tuple[str, str, str]]]) -> list[float]:
        columns = zip(*cells, strict=True)
        return [
            max(max(HEAD.width(words), SMALL.width(small)) + (MARK if state else 0) for state, words, small in column)
            + GAP
            for column in columns
        ]

    @property
    def width(self) -> float:
        if not self.recipes:
            return 0
        return max(sum(self._widths(self._cells())), _LEGEND_WIDTH)

    @property
    def height(self) -> float:
        return 24 + ROW * len(self.rows()) + 34 if self.recipes else 0

    def draw(self, page: Page, left: float, top: float) -> None:
        if not self.recipes:
            return
        cells = self._cells()
        widths, total = self._widths(cells), self.width
        for number, row in enumerate(cells):
            x = left
            for (state, words, small), wide in zip(row, widths, strict=True):
                y = top + (ROW - 24 if number else 0) / 2
                if state:
                    symbol(page, state, x + 6, top + ROW / 2 - 1)
                shift = MARK if state else 0
                page.text(x + shift, y + (-3 if small else 2), words, CELL if number else HEAD)
                if small:
                    page.text(x + shift, y + 11, small, SMALL)
                x += wide
            top += ROW if number else 24
            if number < len(cells) - 1 and (number == 0 or cells[number + 1][0][1]):
                page.line((left, top - 1), (left + total, top - 1), colour="#d5dbe1", thick=1 if number == 0 else 0.7)
        _legend(page, left, top + 12)


_SYMBOLS = (("trains", "learns"), ("part", "learns in part"), ("lora", "adapters learn"), ("frozen", "frozen"))
_LEGEND_WIDTH = sum(MARK + CELL.width(words) + GAP for _, words in _SYMBOLS)


def _legend(page: Page, left: float, top: float) -> None:
    page.line((left, top - 6), (left + _LEGEND_WIDTH, top - 6), colour=LINE, thick=0.5)
    for state, words in _SYMBOLS:
        symbol(page, state, left + 6, top + 8)
        page.text(left + MARK, top + 1, words, CELL)
        left += MARK + CELL.width(words) + GAP


def _short(rate: float) -> str:
    """0.0002 -> 2e-4"""
    digits, _, power = f"{rate:e}".partition("e")
    return f"{float(digits):g}e{int(power)}"


def _seen_from(part: str, glob: str) -> str:
    """language.blocks.*.attn.body.q -> attn.body.q"""
    return glob.removeprefix(part + ".").removeprefix("blocks.*.")
