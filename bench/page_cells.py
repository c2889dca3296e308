"""What a part of a page says cell by cell: the label of pictures that are to be read with their layout kept.

As DocOwl 1.5 parses a document (arXiv 2403.12895, section 4.1) spaces stand for what is empty; here there is one letter or space
for each cell of a fixed size, so that the token of a cell can be read as that letter (`word_reading`).
"""

from collections.abc import Iterable

from scops.demo.pictures import font

BLANK = " "


def centres(text: str, left: int, top: int, face: str, size: int) -> Iterable[tuple[str, float, float]]:
    """Each letter of a word that is drawn at (left, top), with (x, y) of its middle; y is the middle of a digit."""
    used = font(face, size)
    ends = [used.getlength(text[:number]) for number in range(len(text) + 1)]
    _, high, _, low = used.getbbox("0")
    for letter, begin, end in zip(text, ends, ends[1:], strict=False):
        yield letter, left + (begin + end) / 2, top + (high + low) / 2


def cells(letters: Iterable[tuple[str, float, float]], box: tuple[int, int, int, int], side: int) -> str:
    """Row by row the letter whose middle lies in each cell of the box, the nearest to the cell's middle where there are several.

    Args:
        box: left, top, right, bottom in pixels, whole cells wide and high.
        side: of a cell, in pixels.
    """
    left, top, right, bottom = box
    rows, columns = (bottom - top) // side, (right - left) // side
    found: dict[tuple[int, int], tuple[float, str]] = {}
    for letter, x, y in letters:
        row, column = int((y - top) // side), int((x - left) // side)
        if 0 <= row < rows and 0 <= column < columns:
            away = (x - left - (column + 0.5) * side) ** 2 + (y - top - (row + 0.5) * side) ** 2
            if away < found.get((row, column), (away + 1, ""))[0]:
                found[row, column] = away, letter
    return "".join(found.get((row, column), (0, BLANK))[1] for row in range(rows) for column in range(columns))
