"""How mPLUG-Owl3's prompts are written: ChatML, and words that tell of cut pictures and videos.

Source: the published processor of mPLUG/mPLUG-Owl3-7B-240728 and the model card of -241101.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scops.core.layout import WHOLE, Cut, Slot
from scops.core.template import Piece, Role, Special, Template, Written


def _role(name: str, *, before: str = "\n", between: tuple[Piece, ...] = (), end: tuple[Piece, ...] = ()) -> Role:
    opening = (Written(before),) if before else ()
    return Role((*opening, Special("<|im_start|>"), Written(f"{name}\n")), between, (Special("<|im_end|>"), *end))


TEMPLATE = Template(
    {
        "system": _role("system", before=""),
        "user": _role("user", between=(Written("\n"),)),  # as in the model cards' examples
        "assistant": _role("assistant", end=(Special("<|endoftext|>"),)),
    },
    system="",
    stops=("<|im_end|>", "<|endoftext|>"),
)
GRIDS = ((2, 2), (1, 3), (1, 4), (3, 1), (4, 1), (2, 3), (3, 2))
"""(rows, columns), in the order of the published processor (grid_squ_6)."""


def mark(place: tuple[int, int] = WHOLE) -> Slot:
    """Plain words whose ids stay in the text."""
    return Slot("image", 0, (place,), written="<|image|>")


@dataclass(frozen=True)
class Wording:
    """What stands around the marks of a picture's tiles, and of a clip's frames.

    Args:
        opening: may name {rows} and {columns}; tile: {row} and {column}, from 0.
        beside, below: between tiles of a row, and between rows.
        whole: before the mark of the whole picture, which stands last; None where there is none.
        clip: before and after the frames of a video.
    """

    opening: str = ""
    tile: str = ""
    beside: str = ""
    below: str = ""
    whole: str | None = None
    closing: str = ""
    clip: tuple[str, str] = ("", "")

    def of_picture(self, cut: Cut) -> tuple[Piece | Slot, ...]:
        """Every picture has its own text, however many were cut."""
        if not cut.steps:
            return (mark(),)
        rows, columns = cut.grid
        pieces: list[Piece | Slot] = [Written(self.opening.format(rows=rows, columns=columns))]
        for row, column in (place for place in cut.places if place != WHOLE):
            between = self.beside if column else self.below if row else ""
            pieces += [Written(between + self.tile.format(row=row, column=column)), mark((row, column))]
        if self.whole is not None:
            pieces += [Written(self.whole), mark()]
        return (*pieces, Written(self.closing))

    def of_clip(self, times: Sequence[float]) -> tuple[Piece | Slot, ...]:
        before, after = self.clip
        return (Written(before), *(mark(),) * len(times), Written(after))


_V1, _TILE, _FRAMES = (
    "Cut to {rows} rows {columns} columns",
    "subimg({row},{column})",
    ("<|start_video_frame|>", "<|end_video_frame|>"),
)
WORDINGS = {
    "v0": Wording(),
    "v1": Wording(_V1 + ", ", _TILE, " ", " "),
    "v1_global": Wording(_V1 + " with a global view, ", _TILE, " ", " ", whole=" global_view"),
    "v2_global": Wording(_V1 + " with a global view\n", _TILE, " ", "\n", whole="\nglobal_view"),
    "v3": Wording("<|start_cut|>{rows}*{columns}", "", " ", " ", closing="<|end_cut|>", clip=_FRAMES),
    "v3_global": Wording("<|start_cut|>{rows}*{columns}\n", "", " ", "\n", "\n", "<|end_cut|>", clip=_FRAMES),
}
"""By the published processor's names; 240728 was released with v2_global, 241101 with v3_global."""
