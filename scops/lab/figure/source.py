"""What people give and what stands in the text for it: pictures with their tiles, clips with their frames, a line of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from scops.core.layout import UNCUT, ClipLayout, Cut, Layout, MediaLayout, Slot
from scops.lab.figure.boxes import LINE, MEDIA_LANE, NOTE, TEXT_LANE, Cells, Plate
from scops.lab.figure.svg import Page

PAGE_SIZE, CLIP = (1100, 850), tuple(map(float, range(8)))
"""Height and width of the picture that shows how one is cut (a page of letter paper); frames of the clip that is shown."""
SKY, HILL, SUN = "#d6ebf5", "#8fbfa3", "#f3c969"


@dataclass(frozen=True)
class Shown:
    """One kind of media as an example.

    Args:
        kind: as people call it.
        cut: of a picture; None for a clip of frames at the times CLIP.
        slots: what the example takes in the prompt.
    """

    kind: str
    media: MediaLayout | ClipLayout
    cut: Cut | None
    slots: tuple[Slot, ...]

    @property
    def pictures(self) -> int:
        return sum(len(slot.places) for slot in self.slots)

    @property
    def lines(self) -> list[str]:
        """What is written below its drawing."""
        pixels = self.media.pixels
        size = f"{pixels.width} × {pixels.height}"
        if self.cut is None:
            made = [f"{self.kind}: {len(CLIP)} frames", f"of {size}"]
        elif self.cut.grid == (1, 1) and not self.cut.whole:
            made = [f"{self.kind} {size}"]
        else:
            rows, columns = self.cut.grid
            height, width = PAGE_SIZE
            made = [f"{self.kind}, here {width} × {height}:", f"{rows} × {columns} tiles of {size}"]
            made += ["and the whole" if self.cut.whole == "first" else "then the whole"] if self.cut.whole else []
        return [*made, self.tokens]

    @property
    def tokens(self) -> str:
        counts = [slot.tokens for slot in self.slots]
        if not any(counts):
            return "beside the sequence"
        if len(set(counts)) == 1 and len(counts) > 1:
            return f"{len(counts)} × {counts[0]} = {sum(counts):,} tokens"
        return f"{sum(counts):,} tokens"


def shown(layout: Layout, kind: str) -> list[Shown]:
    """Examples of all that one input of the model takes."""
    found = []
    for name, media in layout.media.items():
        if isinstance(media, ClipLayout):
            example = Shown(name, media, None, _slots(media.arrange(CLIP)))
        else:
            cut = media.cut_of(*PAGE_SIZE)
            example = Shown(name, media, cut, _slots(media.arrange(cut)))
        if any(slot.kind == kind for slot in example.slots):
            found.append(example)
    return found


def plainest(media: MediaLayout | ClipLayout) -> tuple[Slot, ...]:
    """The slots of one picture that is not cut where that may be, or of a clip."""
    if isinstance(media, ClipLayout):
        return _slots(media.arrange(CLIP))
    if media.cut is None or media.when == "alone":
        return _slots(media.arrange(UNCUT))
    return _slots(media.arrange(media.cut_of(media.pixels.height, media.pixels.width)))


def _slots(pieces: Sequence[object]) -> tuple[Slot, ...]:
    return tuple(piece for piece in pieces if isinstance(piece, Slot))


@dataclass(frozen=True)
class Sources:
    """A drawing of each example, one under the other."""

    examples: tuple[Shown, ...]

    DRAWN, GAP, HIGH, WIDE = 66, 18, 60, 80

    @property
    def width(self) -> float:
        return max((self.WIDE, *(NOTE.width(line) for one in self.examples for line in one.lines)))

    def _height(self, one: Shown) -> float:
        return self.HIGH + 8 + NOTE.line * len(one.lines)

    @property
    def height(self) -> float:
        return sum(self._height(one) for one in self.examples) + self.GAP * (len(self.examples) - 1)

    def draw(self, page: Page, left: float, top: float) -> None:
        middle = left + self.width / 2
        for one in self.examples:
            if one.cut is None:
                for step in (8, 4, 0):
                    _picture(page, middle - 40 + step, top + 8 - step, 72, 50)
            elif one.cut.grid != (1, 1) or one.cut.whole:
                self._tiles(page, one.cut, middle, top)
            else:
                _picture(page, middle - self.WIDE / 2, top, self.WIDE, self.HIGH)
            y = top + self.HIGH + 6
            for line in one.lines:
                page.text(left, y, line, NOTE, width=self.width)
                y += NOTE.line
            top += self._height(one) + self.GAP

    def _tiles(self, page: Page, cut: Cut, middle: float, top: float) -> None:
        """The grid, and the whole picture on the side where it stands."""
        rows, columns = cut.grid
        side = min(self.HIGH / rows, 60 / columns, 26)
        whole = 26 if cut.whole else 0
        total = columns * side + (whole + 10 if whole else 0)
        x = middle - total / 2
        if cut.whole == "first":
            _picture(page, x, top + (self.HIGH - whole) / 2, whole, whole)
            x += whole + 10
        y = top + (self.HIGH - rows * side) / 2
        for row in range(rows):
            for column in range(columns):
                page.rect(
                    x + column * side,
                    y + row * side,
                    side - 1.5,
                    side - 1.5,
                    fill=SKY,
                    stroke=LINE,
                    radius=1.5,
                    thick=0.7,
                )
                for line in range(3):
                    at = y + row * side + side * (0.25 + 0.22 * line)
                    page.line((x + (column + 0.2) * side, at), (x + (column + 0.7) * side, at), colour=LINE, thick=0.8)
        if cut.whole == "last":
            _picture(page, x + columns * side + 10, top + (self.HIGH - whole) / 2, whole, whole)


def _picture(page: Page, x: float, y: float, width: float, height: float) -> None:
    """A hill and a sun."""
    page.rect(x, y, width, height, fill=SKY, stroke=LINE, radius=2)
    page.circle(x + width * 0.74, y + height * 0.28, height * 0.11, fill=SUN)
    page.path(
        f"M{x + 1:.1f} {y + height - 1:.1f} L{x + width * 0.34:.1f} {y + height * 0.42:.1f} L{x + width * 0.55:.1f} "
        f"{y + height * 0.72:.1f} L{x + width * 0.7:.1f} {y + height * 0.56:.1f} L{x + width - 1:.1f} {y + height - 1:.1f} Z",
        fill=HILL,
    )  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """Word embeddings, and the line of tokens that the language model reads: text, media where they stand in it, text.

    Args:
        media: (input, words) of each that stands in the sequence.
        beside: (input, its mark in the text) of each that stands beside it.
    """

    words: Plate
    media: tuple[tuple[str, str], ...]
    beside: tuple[tuple[str, str], ...] = ()

    GAP, DOWN = 12, 26

    def _segments(self) -> list[tuple[str, str, str, int]]:
        """(words, colour, input, cells)."""
        if not self.media and not self.beside:
            return [("text", TEXT_LANE, "", 9)]
        made = [("text", TEXT_LANE, "", 3)]
        made += [(words, MEDIA_LANE, kind, 6) for kind, words in self.media]
        made += [(words, TEXT_LANE, kind, 1) for kind, words in self.beside]
        return [*made, ("text", TEXT_LANE, "", 5)]

    def _wide(self, words: str, cells: int) -> float:
        return max(Cells(("",) * cells).width, NOTE.width(words))

    @property
    def _line(self) -> float:
        return sum(self._wide(words, cells) + self.GAP for words, _, _, cells in self._segments()) - self.GAP

    @property
    def width(self) -> float:
        return max(self._line, self.words.width)

    @property
    def height(self) -> float:
        return self.words.height + self.DOWN + Cells(("",)).height + 2 + NOTE.line

    def draw(self, page: Page, left: float, top: float) -> None:
        self.draw_in(page, left, top, self.width)

    def draw_in(self, page: Page, left: float, top: float, width: float) -> None:
        self.words.draw_in(page, left, top, width)
        above = top + self.words.height
        top, left = above + self.DOWN, left + (width - self._line) / 2
        inputs = {kind for kind, _ in self.media}
        for words, colour, kind, count in self._segments():
            wide, cells = self._wide(words, count), Cells((colour,) * count)
            x = left + (wide - cells.width) / 2
            cells.draw(page, x, top)
            if kind:
                page.marks[f"place:{kind}"] = (x, top, cells.width, cells.height)
            if kind not in inputs:
                page.line((left + wide / 2, above), (left + wide / 2, top), colour=LINE, arrow=True)
            page.text(left, top + cells.height + 2, words, NOTE, width=wide)
            left += wide + self.GAP
