"""A page of SVG: plain shapes and measured text, the same bytes every time."""

from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

SANS = "Helvetica, Arial, 'Liberation Sans', sans-serif"
MONO = "'DejaVu Sans Mono', Menlo, Consolas, monospace"
MONO_WIDTH = 602
BOLDER = 1.08
UNKNOWN = 600
"""Widths are thousandths of the size, those of Helvetica and of the fonts made to its measures."""
WIDTHS = {
    **dict.fromkeys("ijl'", 222), "'": 191, "|": 260, **dict.fromkeys(" !,./:;I[]ft\\", 278), **dict.fromkeys("()-r`·", 333),
    "\"": 355, "*": 389, "^": 469, **dict.fromkeys("cksvxyzJ", 500), "{": 334, "}": 334,
    **dict.fromkeys("0123456789abdeghnopqu#$?L_–", 556), **dict.fromkeys("+<=>~×", 584), **dict.fromkeys("FTZ", 611),
    **dict.fromkeys("&ABEKPSVXY", 667), **dict.fromkeys("wCDHNRU", 722), **dict.fromkeys("GOQ", 778),
    **dict.fromkeys("mM", 833), "%": 889, "W": 944, **dict.fromkeys("@→…—", 1000),
}  # fmt: skip


@dataclass(frozen=True)
class Font:
    """Args:
    size: pixels; a line takes a third more.
    """

    size: float = 12
    bold: bool = False
    mono: bool = False
    italic: bool = False
    colour: str = "#1f2933"

    @property
    def line(self) -> float:
        return round(self.size * 1.35, 1)

    def width(self, text: str) -> float:
        if self.mono:
            return len(text) * MONO_WIDTH * self.size / 1000
        return sum(WIDTHS.get(letter, UNKNOWN) for letter in text) * self.size / 1000 * (BOLDER if self.bold else 1)

    def lines(self, text: str, width: float, *, most: int = 99) -> list[str]:
        """Broken at blanks; what does not fit into so many lines ends in dots."""
        made = [""]
        for word in text.split():
            longer = f"{made[-1]} {word}".strip()
            if made[-1] and self.width(longer) > width:
                made.append(word)
            else:
                made[-1] = longer
        return made if len(made) <= most else [*made[: most - 1], self.cut(f"{made[most - 1]} …", width)]

    def cut(self, text: str, width: float) -> str:
        """As much of it as the width has room for."""
        if self.width(text) <= width:
            return text
        text = text.removesuffix("…").rstrip()
        while text and self.width(f"{text}…") > width:
            text = text[:-1]
        return f"{text.rstrip()}…"


@dataclass(frozen=True)
class Written:
    """A text as it stands on a page: for whoever wants to know that none lies on another."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass
class Page:
    """Shapes in the order in which they are drawn; later ones lie above.

    Args:
        marks: places (left, top, width, height) that boxes made known by name, for arrows.
    """

    shapes: list[str] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    marks: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)

    def rect(
        self, left: float, top: float, width: float, height: float, *, fill: str, stroke: str = "none",
        radius: float = 5, dashed: bool = False, thick: float = 1,
    ) -> None:  # fmt: skip
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        self.shapes.append(
            f'<rect x="{_n(left)}" y="{_n(top)}" width="{_n(width)}" height="{_n(height)}" rx="{_n(radius)}" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="{_n(thick)}"{dashes}/>'
        )

    def circle(self, x: float, y: float, radius: float, *, fill: str, stroke: str = "none", thick: float = 1) -> None:
        self.shapes.append(
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" fill="{fill}" stroke="{stroke}" stroke-width="{_n(thick)}"/>'
        )

    def path(self, d: str, *, stroke: str = "none", fill: str = "none", thick: float = 1.2) -> None:
        self.shapes.append(
            f'<path d="{d}" fill="{fill}" stroke="{stroke}" stroke-width="{_n(thick)}" stroke-linecap="round" '
            f'stroke-linejoin="round"/>'
        )

    def line(self, *points: tuple[float, float], colour: str, arrow: bool = False, thick: float = 1.2) -> None:
        """Through the points; the arrow's head is at the last."""
        self.path("M" + " L".join(f"{_n(x)} {_n(y)}" for x, y in points), stroke=colour, thick=thick)
        if arrow:
            (x0, y0), (x, y) = points[-2:]
            across, size = abs(x - x0) > abs(y - y0), 2.4 + thick * 1.6
            back = -size * (1 if (x > x0 if across else y > y0) else -1)
            wings = ((x + back, y - size * 0.6), (x + back, y + size * 0.6)) if across else (
                (x - size * 0.6, y + back), (x + size * 0.6, y + back))  # fmt: skip
            ends = " L".join(f"{_n(a)} {_n(b)}" for a, b in ((x, y), *wings))
            self.path(f"M{ends} Z", fill=colour, stroke=colour, thick=0.6)

    def text(self, left: float, top: float, text: str, font: Font, *, width: float | None = None) -> None:
        """One line; `width` is what it is centred in. Its length is written down, so that another font cannot run over."""
        wide = font.width(text)
        x = left + ((width or wide) - wide) / 2
        look = ' font-weight="bold"' if font.bold else ""
        look += ' font-style="italic"' if font.italic else ""
        look += f" font-family={quoteattr(MONO)}" if font.mono else ""
        self.shapes.append(
            f'<text x="{_n(x)}" y="{_n(top + font.size)}" font-size="{_n(font.size)}" fill="{font.colour}"{look} '
            f'textLength="{_n(wide)}" lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
        )
        self.written.append(Written(text, x, top + 0.2 * font.size, x + wide, top + 1.2 * font.size))

    def svg(self, width: float, height: float, *, title: str, words: str) -> str:
        """The document; `words` is read to who does not see it."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(height)}" '
                f'viewBox="0 0 {_n(width)} {_n(height)}" font-family={quoteattr(SANS)} role="img">',
                f"<title>{escape(title)}</title>",
                f"<desc>{escape(words)}</desc>",
                *self.shapes,
                "</svg>\n",
            ]
        )


def _n(number: float) -> str:
    """At most one digit behind the point."""
    return f"{round(number, 1):g}"
