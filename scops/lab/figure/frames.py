"""Boxes around others: a residual stream, and a frame with words."""

from dataclasses import dataclass

from scops.lab.figure.boxes import INK, LINE, NAME, NOTE, PAD, PAPER, STEP, Box, Column, draw_wide
from scops.lab.figure.svg import Font, Page


@dataclass(frozen=True)
class Residual:
    """x + what is made of x; the boxes after the sum stand below it.

    forward: before the boxes the stream parts, after them the two are added.
    """

    boxes: tuple[Box, ...]
    after: tuple[Box, ...] = ()

    SIDE, STUB, SUM = 16, 10, 6.5

    @property
    def _inner(self) -> Column:
        return Column(self.boxes)

    @property
    def _below(self) -> Column:
        return Column(self.after)

    @property
    def width(self) -> float:
        return max(self._inner.width, self._below.width) + 2 * self.SIDE

    @property
    def height(self) -> float:
        below = self._below.height + STEP if self.after else 0
        return self.STUB + self._inner.height + STEP - 2 + 2 * self.SUM + below

    def draw(self, page: Page, left: float, top: float) -> None:
        self.draw_in(page, left, top, self.width)

    def draw_in(self, page: Page, left: float, top: float, width: float) -> None:
        middle, right = left + width / 2, left + width - 5
        inner, start, room = self._inner, top + self.STUB, width - 2 * self.SIDE
        page.line((middle, top), (middle, start), colour=LINE, arrow=True)
        inner.draw_in(page, left + self.SIDE, start, room)
        end = start + inner.height
        centre = end + STEP - 2 + self.SUM
        page.line((middle, end), (middle, centre - self.SUM), colour=LINE, arrow=True)
        page.line(
            (middle, top + 2), (right, top + 2), (right, centre), (middle + self.SUM, centre), colour=LINE, arrow=True
        )
        page.circle(middle, centre, self.SUM, fill=PAPER, stroke=LINE, thick=1.2)
        page.line((middle - 3.5, centre), (middle + 3.5, centre), colour=LINE)
        page.line((middle, centre - 3.5), (middle, centre + 3.5), colour=LINE)
        if self.after:
            page.line((middle, centre + self.SUM), (middle, centre + self.SUM + STEP), colour=LINE, arrow=True)
            self._below.draw_in(page, left + self.SIDE, centre + self.SUM + STEP, room)


@dataclass(frozen=True)
class Frame:
    """A box around others, with words above and a word at the right.

    Args:
        notes: lines below the title.
        least: pixels that it is wide at least.
    """

    title: str
    inner: Box
    right: str = ""
    notes: tuple[str, ...] = ()
    fill: str = PAPER
    stroke: str = LINE
    dashed: bool = False
    mark: str = ""
    large: bool = False
    least: float = 0

    @property
    def _title(self) -> Font:
        return Font(14, bold=True) if self.large else Font(11, bold=True)

    @property
    def _right(self) -> Font:
        return Font(12, colour=INK, bold=True) if self.large else NAME

    @property
    def width(self) -> float:
        head = self._title.width(self.title) + (self._right.width(self.right) + 18 if self.right else 0)
        widths = [self.inner.width, head, *(NOTE.width(note) for note in self.notes)]
        return max(max(widths) + 2 * (PAD + 4), self.least)

    @property
    def _head(self) -> float:
        title = self._title.line + 6 if self.title else 0
        return 8 + title + NOTE.line * len(self.notes)

    @property
    def height(self) -> float:
        return self._head + self.inner.height + PAD + 3

    def draw(self, page: Page, left: float, top: float) -> None:
        self.draw_in(page, left, top, self.width)

    def draw_in(self, page: Page, left: float, top: float, width: float) -> None:
        page.rect(
            left, top, width, self.height, fill=self.fill, stroke=self.stroke, radius=8, dashed=self.dashed, thick=1.2
        )
        if self.mark:
            page.marks.setdefault(self.mark, (left, top, width, self.height))
        if self.title:
            page.text(left + PAD + 4, top + 6, self.title, self._title)
        if self.right:
            x = left + width - PAD - 4 - self._right.width(self.right)
            page.text(x, top + 7 + (self._title.size - self._right.size) * 0.6, self.right, self._right)
        for at, note in enumerate(self.notes):
            page.text(left + PAD + 4, top + 6 + self._title.line + at * NOTE.line, note, NOTE)
        draw_wide(self.inner, page, left + PAD + 4, top + self._head, width - 2 * (PAD + 4))
