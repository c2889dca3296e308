"""How a system reads: template, media slots, picture preparation. Data only; the processor does the work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from scops.core.template import Piece, Template


@dataclass(frozen=True)
class Numbered:
    """Words of the template with {} where the item's number stands, counted from 1 among its kind in the conversation."""

    text: str


Place = tuple[int, int]
"""(row, column) of a tile in its grid."""
WHOLE: Place = (-1, -1)
"""The place of a prepared picture that is no tile: a whole view, a frame of a clip."""


@dataclass(frozen=True)
class TurnText:
    """In place of words: the text of the turn that the item stands in."""


@dataclass(frozen=True)
class Slot:
    """Room for what the connector makes of one item.

    Args:
        kind: the input of the model that takes it.
        tokens: in the sequence; 0 when they stand beside it, of which `written` may mark the place.
        places: of the prepared pictures that make the item, in their order.
        written: marks the place of an item beside the sequence. It is encoded alone, and its ids stay in the text; the
            item begins at the first of them.
        extent: (rows, columns) of features that show the picture, in the middle of the grid of its tiles; None for all.
        words: what the connector reads with each of the pictures, by the tokenizer of its own; () for nothing.
    """

    kind: str
    tokens: int
    places: tuple[Place, ...] = (WHOLE,)
    written: str = ""
    extent: tuple[int, int] | None = None
    words: tuple[str, ...] | TurnText = ()

    def __post_init__(self) -> None:
        if isinstance(self.words, tuple) and len(self.words) not in (0, len(self.places)):
            raise ValueError(f"a slot of {len(self.places)} pictures has words for {len(self.words)} of them: {self}")
        if self.written and self.tokens:
            raise ValueError(f"a slot has tokens in the sequence or words that mark its place, not both: {self}")


Arranged = Piece | Numbered | Slot
"""What may stand in the prompt for an item."""


@dataclass(frozen=True)
class Pixels:
    """How a picture becomes numbers: fit it to the size, scale to [0, 1], subtract mean, divide by std.

    Args:
        fit: "stretch" (aspect lost), "crop" (shorter side, then centre), or "pad" (square with the mean colour first).
        resample: a filter of Pillow, "bicubic", "bilinear" or "lanczos".
        resize: what applies it: "pillow" (as published processors do), or "torch", which is several times faster and
            differs by 2 levels of 255 at most.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: str = "stretch"
    resample: str = "bicubic"
    resize: str = "pillow"


@dataclass(frozen=True)
class Cut:
    """What becomes of one picture.

    Args:
        grid: of tiles, (rows, columns).
        steps: sizes (height, width) that the picture is brought to, one after another; the last lies in the middle of the
            grid, on black. Without steps it is not cut: one picture, fitted as its `Pixels` say.
        whole: where the whole picture stands, stretched to one tile: "first", "last", or "" for nowhere.
        whole_after: how many of the steps the whole picture has gone through.
        size: (height, width) of the original, where what stands for it depends on that; else (0, 0).
    """

    grid: tuple[int, int]
    steps: tuple[tuple[int, int], ...]
    whole: str = ""
    whole_after: int = 0
    size: tuple[int, int] = (0, 0)

    @property
    def places(self) -> tuple[Place, ...]:
        """Of the prepared pictures, in their order: tiles stand row by row."""
        if not self.steps:
            return (WHOLE,)
        tiles = tuple((row, column) for row in range(self.grid[0]) for column in range(self.grid[1]))
        return (WHOLE,) * (self.whole == "first") + tiles + (WHOLE,) * (self.whole == "last")

    def __len__(self) -> int:
        """Prepared pictures."""
        return len(self.places)


UNCUT = Cut((1, 1), ())


@dataclass(frozen=True)
class Always:
    """The same arrangement for every picture, or for clips of every length."""

    pieces: tuple[Arranged, ...]

    def __call__(self, made_of: Cut | Sequence[float]) -> tuple[Arranged, ...]:
        return self.pieces


@dataclass(frozen=True)
class Each:
    """Every prepared picture is an item of its own, with nothing between them."""

    slot: Slot

    def __call__(self, cut: Cut) -> tuple[Slot, ...]:
        return tuple(replace(self.slot, places=(place,)) for place in cut.places)


@dataclass(frozen=True)
class MediaLayout:
    """Pictures.

    Args:
        pixels: how each prepared picture is made.
        arrange: what stands in the prompt for a picture that was cut so. The places of its slots together are the cut's.
            Counts come from the connector's own `tokens_for`, so that promise and delivery cannot differ.
        cut: (height, width) of the original -> how it is cut; None when never.
        when: "always", or "alone" to cut only a picture that is the only one of its sample.
    """

    pixels: Pixels
    arrange: Callable[[Cut], Sequence[Arranged]]
    cut: Callable[[int, int], Cut] | None = None
    when: str = "always"

    @property
    def tokens(self) -> int:
        """In the sequence, of a picture that has a prepared picture's size."""
        return tokens_of(self.arrange(self.cut_of(self.pixels.height, self.pixels.width)))

    @property
    def choices(self) -> dict[str, Any]:
        """What besides pixels and tokens must stay as it was when weights were made."""
        return {} if self.cut is None else {"cut": asdict(cast(Any, self.cut)), "when": self.when}

    def cut_of(self, height: int, width: int, *, alone: bool = True) -> Cut:
        """How a picture of this size is cut, `alone` in its sample or beside others."""
        if self.cut is None or (self.when == "alone" and not alone):
            return UNCUT
        return self.cut(height, width)


@dataclass(frozen=True)
class PerSecond:
    """So many frames a second; where these are more than `most`, evenly chosen ones of them, each from its share's middle.

    Source: the recipe of mPLUG-Owl3's model card, which is MiniCPM-V's.
    """

    rate: float = 1.0
    most: int = 16

    def __call__(self, count: int, fps: float) -> tuple[int, ...]:
        """Numbers of the frames to look at, of `count` at `fps` frames a second."""
        chosen = range(0, count, max(round(fps / self.rate), 1))
        if len(chosen) <= self.most:
            return tuple(chosen)
        gap = len(chosen) / self.most
        return tuple(chosen[int(number * gap + gap / 2)] for number in range(self.most))


@dataclass(frozen=True)
class ClipLayout:
    """Videos.

    Args:
        pixels: how each chosen frame is prepared.
        arrange: when the chosen frames are shown, in seconds -> what stands in the prompt; the places of its slots
            together are as many.
        frames: (frames, frames a second) of the original -> numbers of those that are looked at.
    """

    pixels: Pixels
    arrange: Callable[[Sequence[float]], Sequence[Arranged]]
    frames: Callable[[int, float], Sequence[int]] = PerSecond()

    @property
    def tokens(self) -> int:
        """In the sequence, of a clip of which one frame is looked at."""
        return tokens_of(self.arrange((0.0,)))

    @property
    def choices(self) -> dict[str, Any]:
        return {"frames": asdict(cast(Any, self.frames))}


def tokens_of(pieces: Sequence[Arranged]) -> int:
    """What the connector makes for these, as far as it stands in the sequence."""
    return sum(piece.tokens for piece in pieces if isinstance(piece, Slot))


@dataclass(frozen=True)
class Layout:
    """All that the processor must know of a system.

    Args:
        media: by the kind that people give ("image", "video"); slots name the model's input that takes it.
        context: the longest sequence in tokens that the system takes.
        templates: others that stages of training name.
    """

    template: Template
    media: Mapping[str, MediaLayout | ClipLayout] = field(default_factory=dict)
    context: int = 2048
    templates: Mapping[str, Template] = field(default_factory=dict)

    def resized_by(self, choice: Mapping[str, str]) -> "Layout":
        """The same with `Pixels.resize` as chosen for each kind of media."""
        media = {
            kind: replace(one, pixels=replace(one.pixels, resize=choice.get(kind, one.pixels.resize)))
            for kind, one in self.media.items()
        }
        return replace(self, media=media)
