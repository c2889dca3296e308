"""How a system writes a conversation: what stands around turns and between their parts. Data only; scops.data.template does it."""

from collections.abc import Mapping
from dataclasses import dataclass

from scops.core.sample import ROLES, Media, Text


@dataclass(frozen=True)
class Special:
    """Exactly one token of the tokenizer, by its published spelling."""

    token: str


@dataclass(frozen=True)
class Written:
    """Words of the template itself; encoded as text, together with the user's text beside them."""

    text: str


Piece = Special | Written


@dataclass(frozen=True)
class Role:
    """What surrounds a turn.

    Args:
        before: opens the turn.
        between: stands between two parts of the turn (text or media) that differ in kind or are both media.
        after: closes the turn; learnt together with a learnt reply.
        rest: stands after that and is never learnt.
        then: stands behind all that where another turn follows.
        lead: what an assistant's words begin with where they do not yet, learnt with them; a prompt for a reply ends before it.
        around: stands before each medium, and once more where text or the turn's end follows it; not with media_first.
        media_first: media stand before the words of their turn, wherever they were given.
        wordless: of the turn only its media are written, of which it has some (captions of pictures, whatever was asked).
    """

    before: tuple[Piece, ...] = ()
    between: tuple[Piece, ...] = ()
    after: tuple[Piece, ...] = ()
    rest: tuple[Piece, ...] = ()
    lead: str = ""
    around: tuple[Piece, ...] = ()
    then: tuple[Piece, ...] = ()
    media_first: bool = False
    wordless: bool = False


@dataclass(frozen=True)
class Segment:
    """A stretch of the prompt.

    Args:
        learn: whether its tokens are targets.
        opens: whether it is the first of an assistant's turn.
        said: of media, the text of the turn that they stand in.
    """

    piece: Special | Written | Text | Media
    learn: bool = False
    opens: bool = False
    said: str = ""


@dataclass(frozen=True)
class Template:
    """Turns into segments.

    Args:
        start: opens every conversation (usually a beginning-of-sequence token).
        system: the system text used when the conversation brings none; None writes no system turn.
        stops: tokens at which generation ends, special ones or words that are one token.
        ends: words before which a reply ends, however they are split into tokens.
        media_first: media stand before `start`, whatever turn they are in (BLIP-2). Texts that they part have `between` there.
    """

    roles: Mapping[str, Role]
    start: tuple[Piece, ...] = ()
    system: str | None = None
    stops: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    media_first: bool = False

    def __post_init__(self) -> None:
        if set(self.roles) != set(ROLES):
            raise ValueError(f"a template needs the roles {ROLES}, not {tuple(self.roles)}")
