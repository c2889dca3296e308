"""Boxes that know their size and draw themselves: chips, plates, cells, columns, rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from scops.lab.figure.svg import Font, Page

INK, SOFT, LINE, PAPER = "#1f2933", "#5b6875", "#7b8794", "#ffffff"
TEXT_LANE, MEDIA_LANE = "#dbe7fb", "#c9ece4"
LANES = (TEXT_LANE, MEDIA_LANE, "#f6e3c5", "#e9dcf7")
TITLE, NAME = Font(12, bold=True), Font(9.5, mono=True, colour=SOFT)
NOTE, CHIP = Font(10.5, colour=SOFT), Font(9.5, mono=True)
CHIP_HEIGHT, PAD, STEP = 17, 8, 12
"""Pixels: of a chip, inside a plate, between boxes that follow each other."""


class Box(Protocol):
    """Something with a size that draws itself with its upper left corner at (left, top)."""

    @property
    def width(self) -> float: ...
    @property
    def height(self) -> float: ...
    def draw(self, page: Page, left: float, top: float) -> None: ...


@runtime_checkable
class Wide(Protocol):
    """A box that can be wider than it needs to be, so that those of a column are equally wide."""

    def draw_in(self, page: Page, left: float, top: float, width: float) -> None: ...


def draw_wide(box: Box, page: Page, left: float, top: float, width: float) -> None:
    """As wide as the place that it has, or in its middle."""
    if isinstance(box, Wide):
        box.draw_in(page, left, top, width)
    else:
        box.draw(page, left + (width - box.width) / 2, top)


@dataclass(frozen=True)
class Chip:
    """A small named part; `lanes` are the experts that a token may take."""

    name: str
    lanes: tuple[str, ...] = ()

    @property
    def cells(self) -> list[tuple[str, str]]:
        """(words, colour)."""
        if not self.lanes:
            return [(self.name, PAPER)]
        return [(f"{self.name} {lane}", LANES[at % len(LANES)]) for at, lane in enumerate(self.lanes)]

    @property
    def width(self) -> float:
        return sum(CHIP.width(words) + 10 for words, _ in self.cells)

    def draw(self, page: Page, left: float, top: float) -> None:
        for words, colour in self.cells:
            wide = CHIP.width(words) + 10
            page.rect(left, top, wide, CHIP_HEIGHT, fill=colour, stroke=LINE, radius=3, thick=0.8)
            page.text(left, top + 1.5, words, CHIP, width=wide)
            left += wide


@dataclass(frozen=True)
class Plate:
    """A part that is not opened: what it is, its name in paths, its sizes, small parts.

    Args:
        mark: makes its place known to arrows.
    """

    title: str
    name: str = ""
    notes: tuple[str, ...] = ()
    chips: tuple[Chip, ...] = ()
    fill: str = PAPER
    most: float = 214
    mark: str = ""
    dashed: bool = False

    @property
    def _head(self) -> float:
        return TITLE.width(self.title) + (10 + NAME.width(self.name) if self.name else 0) if self.title else 0

    @property
    def _rows(self) -> list[list[Chip]]:
        rows: list[list[Chip]] = [[]]
        for chip in self.chips:
            taken = sum(one.width + 5 for one in rows[-1])
            if rows[-1] and taken + chip.width > self.most:
                rows.append([])
            rows[-1].append(chip)
        return [row for row in rows if row]

    @property
    def _notes(self) -> list[str]:
        room = max(self.most, self._head)
        return [line for note in self.notes for line in NOTE.lines(note, room)]

    @property
    def width(self) -> float:
        widths = [self._head, *(NOTE.width(note) for note in self._notes)]
        widths += [sum(chip.width + 5 for chip in row) - 5 for row in self._rows]
        return max(widths) + 2 * PAD

    @property
    def height(self) -> float:
        chips = len(self._rows) * (CHIP_HEIGHT + 4) + (2 if self._rows else 0)
        title = TITLE.line + 1 if self.title else 2
        return title + len(self._notes) * NOTE.line + chips + 9

    def draw(self, page: Page, left: float, top: float) -> None:
        self.draw_in(page, left, top, self.width)

    def draw_in(self, page: Page, left: float, top: float, width: float) -> None:
        page.rect(left, top, width, self.height, fill=self.fill, stroke=LINE, dashed=self.dashed)
        if self.mark:
            page.marks.setdefault(self.mark, (left, top, width, self.height))
        y = top + 4
        if self.title:
            x = left + (width - self._head) / 2
            page.text(x, y, self.title, TITLE)
            if self.name:
                page.text(x + TITLE.width(self.title) + 10, y + 1.5, self.name, NAME)
        y += TITLE.line + 1 if self.title else 2
        for note in self._notes:
            page.text(left, y, note, NOTE, width=width)
            y += NOTE.line
        y += 2
        for row in self._rows:
            x = left + (width - sum(chip.width + 5 for chip in row) + 5) / 2
            for chip in row:
                chip.draw(page, x, y)
                x += chip.width + 5
            y += CHIP_HEIGHT + 4


@dataclass(frozen=True)
class Column:
    """One under the other, with an arrow from each to the next.

    Args:
        heads: whether arrows have any; boxes that begin with an arrow of their own need none.
        loose: numbers of boxes that no arrow leads to.
    """

    boxes: tuple[Box, ...]
    step: float = STEP
    arrows: bool = True
    heads: bool = True
    loose: frozenset[int] = frozenset()

    @property
    def width(self) -> float:
        return max((box.width for box in self.boxes), default=0)

    @property
    def height(self) -> float:
        return sum(box.height for box in self.boxes) + self.step * max(len(self.boxes) - 1, 0)

    def draw(self, page: Page, left: float, top: float) -> None:
        self.draw_in(page, left, top, self.width)

    def draw_in(self, page: Page, left: float, top: float, width: float) -> None:
        middle = left + width / 2
        for number, box in enumerate(self.boxes):
            if number and self.arrows and number not in self.loose:
                page.line((middle, top - self.step), (middle, top), colour=LINE, arrow=self.heads)
            draw_wide(box, page, left, top, width)
            top += box.height + self.step


@dataclass(frozen=True)
class Row:
    """Side by side, equally high at the top."""

    boxes: tuple[Box, ...]
    step: float = STEP

    @property
    def width(self) -> float:
        return sum(box.width for box in self.boxes) + self.step * max(len(self.boxes) - 1, 0)

    @property
    def height(self) -> float:
        return max((box.height for box in self.boxes), default=0)

    def draw(self, page: Page, left: float, top: float) -> None:
        for box in self.boxes:
            box.draw(page, left, top)
            left += box.width + self.step


@dataclass(frozen=True)
class Cells:
    """Small squares in a line, coloured by what they are: blocks of a stack, tokens of a sequence.

    Args:
        kinds: the colour of each.
    """

    colours: Sequence[str]
    side: float = 11
    gap: float = 2.5
    most: int = 40

    @property
    def _columns(self) -> int:
        return min(len(self.colours), self.most)

    @property
    def width(self) -> float:
        return self._columns * (self.side + self.gap) - self.gap

    @property
    def height(self) -> float:
        rows = -(-len(self.colours) // self.most)
        return rows * (self.side + self.gap) - self.gap

    def draw(self, page: Page, left: float, top: float) -> None:
        for number, colour in enumerate(self.colours):
            row, column = divmod(number, self.most)
            page.rect(
                left + column * (self.side + self.gap), top + row * (self.side + self.gap), self.side, self.side,
                fill=colour, stroke=LINE, radius=2, thick=0.7,
            )  # fmt: skip
