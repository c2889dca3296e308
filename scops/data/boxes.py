"""Boxes that a model reads and writes as text: MiniGPT-v2's {<left><top><right><bottom>}, in hundredths of the picture's sides.

Source: Vision-CAIR/MiniGPT-4, minigpt4/datasets/datasets/coco_dataset.py, eval_scripts/eval_ref.py and demo_v2.py.
"""

import re
from dataclasses import dataclass

PARTS = 100
"""Of a side."""
BOX = re.compile(r"\{<(\d+)><(\d+)><(\d+)><(\d+)>\}")
PHRASE = re.compile(r"<p>(.*?)</p>", re.DOTALL)


@dataclass(frozen=True)
class Box:
    """Pixels of a picture.

    Args:
        phrase: what stands in it, where the text says so: "<p>an owl</p> {<10><20><30><40>}".
    """

    left: float
    top: float
    right: float
    bottom: float
    phrase: str = ""

    def written(self, width: int, height: int) -> str:
        """For a picture of this size; rounded down, as published.

        Raises:
            ValueError: it does not lie in the picture.
        """
        if not (0 <= self.left <= self.right <= width and 0 <= self.top <= self.bottom <= height):
            raise ValueError(f"{self} does not lie in a picture of {width}x{height}")
        sides = (self.left, width), (self.top, height), (self.right, width), (self.bottom, height)
        numbers = "".join(f"<{int(at / side * PARTS)}>" for at, side in sides)
        return f"{{{numbers}}}"


def boxes_in(text: str, width: int, height: int) -> list[Box]:
    """All boxes of a reply about a picture of this size, in their order; a phrase counts for those behind it.

    What is no whole box, or lies outside of the picture, is left out: models write such things.
    """
    found = []
    for match in BOX.finditer(text):
        left, top, right, bottom = parts = [int(number) for number in match.groups()]
        if left > right or top > bottom or max(right, bottom) > PARTS:
            continue
        phrases = PHRASE.findall(text, 0, match.start())
        pixels = (part * side / PARTS for part, side in zip(parts, (width, height) * 2, strict=True))
        found.append(Box(*pixels, phrase=phrases[-1].strip() if phrases else ""))
    return found
