"""How a system writes a conversation: template, media slots, picture preparation. Data only; the processor does the work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from scops.core.sample import ROLES, Media, Text


@dataclass(frozen=True)
class Special:
    """Exactly one token of the tokenizer, by its published spelling."""

    token: str


@dataclass(frozen=True)
class Written:
    """Words of the template itself; encoded as text, together with the user's text beside them."""

    text: str


@dataclass(frozen=True)
class Slot:
    """Room for the tokens that the connector makes of one prepared picture."""

    kind: str
    tokens: int


Piece = Special | Written


@dataclass(frozen=True)
class Role:
    """What surrounds a turn.

    Args:
        before: opens the turn.
        between: stands between two parts of the turn (text or media) that differ in kind or are both media.
        after: closes the turn; learnt together with a learnt reply.
        rest: stands after that and is never learnt.
    """

    before: tuple[Piece, ...] = ()
    between: tuple[Piece, ...] = ()
    after: tuple[Piece, ...] = ()
    rest: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class Segment:
    """A stretch of the prompt; `learn` says whether its tokens are targets."""

    piece: Special | Written | Text | Media
    learn: bool = False


@dataclass(frozen=True)
class Template:
    """Turns into segments.

    Args:
        start: opens every conversation (usually a beginning-of-sequence token).
        system: the system text used when the conversation brings none; None writes no system turn.
        stops: tokens at which generation ends.
    """

    roles: Mapping[str, Role]
    start: tuple[Piece, ...] = ()
    system: str | None = None
    stops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if set(self.roles) != set(ROLES):
            raise ValueError(f"a template needs the roles {ROLES}, not {tuple(self.roles)}")


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
class Always:
    """The same arrangement for pictures of every size."""

    pieces: tuple[Piece | Slot, ...]

    def __call__(self, height: int, width: int) -> tuple[Piece | Slot, ...]:
        return self.pieces


@dataclass(frozen=True)
class MediaLayout:
    """One kind of media.

    Args:
        pixels: how each prepared picture is made.
        arrange: (height, width) of the original -> what stands in the prompt for it, one Slot per prepared picture.
            Counts come from the connector's own `tokens_for`, so that promise and delivery cannot differ.
    """

    pixels: Pixels
    arrange: Callable[[int, int], tuple[Piece | Slot, ...]]


@dataclass(frozen=True)
class Layout:
    """All that the processor must know of a system.

    Args:
        context: the longest sequence in tokens that the system takes.
    """

    template: Template
    media: Mapping[str, MediaLayout] = field(default_factory=dict)
    context: int = 2048

    def resized_by(self, choice: Mapping[str, str]) -> "Layout":
        """The same with `Pixels.resize` as chosen for each kind of media."""
        media = {
            kind: replace(one, pixels=replace(one.pixels, resize=choice.get(kind, one.pixels.resize)))
            for kind, one in self.media.items()
        }
        return replace(self, media=media)
