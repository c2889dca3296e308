"""Sample -> Example: the conversation as token ids, with what is learnt and where media stand, all made in one pass.

No flat prompt is ever searched: text is encoded as text, so that no words of a user can become a token of the template
or a media slot.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from scops.core.batch import Example, Span
from scops.core.layout import Layout, Numbered, Slot, TurnText
from scops.core.names import nearest
from scops.core.sample import Media, Sample, Text, Turn
from scops.core.template import Piece, Special, Written
from scops.data.errors import BadSample, MediaError, NothingToLearn, TooLong
from scops.data.items import Item, item_of
from scops.data.template import segments
from scops.data.tokenizer import Tokenizer

Made = TypeVar("Made")
Placed = tuple[str, Item]
"""The model's input that takes an item, and the item."""

OVERFLOW = ("error", "drop", "shorten")
PLACEHOLDER = 0
"""The id at media positions, where ids have no meaning; any tokenizer has it."""


class Processor:
    """Makes examples for one system.

    Args:
        overflow: what is too long is an "error" for the run, or a row to "drop" and count (both raise TooLong, the
            loader looks at this), or loses its oldest exchanges ("shorten": whole turns with their media; the opening
            system turn and the last exchange stay, in training also something to learn, else TooLong).
        capacity: the longest example in tokens; the system's context unless given.
        known: asked with a picture's digest; when all pictures of a sample are known (their features are kept
            somewhere) they are not unpacked, and the example brings digests but no media.
    """

    def __init__(
        self,
        layout: Layout,
        tokenizer: Tokenizer,
        *,
        overflow: str = "error",
        capacity: int | None = None,
        known: Callable[[str], bool] | None = None,
    ) -> None:
        if overflow not in OVERFLOW:
            raise ValueError(f"overflow is one of {', '.join(OVERFLOW)}, not {overflow!r}")
        capacity = layout.context if capacity is None else capacity
        if not 1 <= capacity <= layout.context:
            raise ValueError(f"capacity is 1 to {layout.context} (the system's context), not {capacity}")
        self.layout, self.tokenizer = layout, tokenizer
        self.overflow, self.capacity, self.known = overflow, capacity, known

    def __call__(self, sample: Sample, *, reply: bool = False) -> Example:
        """The sample as numbers.

        Args:
            reply: a prompt that ends where the assistant begins to answer; otherwise a row to learn from.
        Raises:
            MediaError, TooLong, NothingToLearn: naming the sample.
        """
        example, items = self.planned(sample, reply)
        known = _by_kind((kind, one) for kind, item in items for one in item.digests())
        if self.known and all(self.known(one) for many in known.values() for one in many):
            return replace(example, digests=known)
        media = _by_kind((kind, picture) for kind, item in items for picture in item.pictures())
        return replace(example, media=media, digests=known)

    def outline(self, sample: Sample, *, reply: bool = False) -> Example:
        """The example without its media: of pictures only the headers are read, so counting is fast."""
        return self.planned(sample, reply)[0]

    def writing(self, template: str) -> "Processor":
        """One that writes by another of the layout's templates."""
        known = self.layout.templates
        if template not in known:
            raise ValueError(f"this system has no template {template!r}{nearest(template, known)}")
        layout = replace(self.layout, template=known[template])
        return Processor(layout, self.tokenizer, overflow=self.overflow, capacity=self.capacity, known=self.known)

    def unpack(self, media: Media, sample: Sample) -> None:
        """Only to find out whether it can be; MediaError if not."""
        self._item(media, sample).unpack()

    def planned(self, sample: Sample, reply: bool) -> tuple[Example, list[Placed]]:
        """What fits of the sample, shortened where the policy says so: its outline, and its media in reading order."""
        example, items = self._write(sample, reply)
        if not reply and not example.learn_T[1:].any():
            roles = ", ".join(turn.role for turn in sample.turns)
            raise NothingToLearn(f"{sample.name}: none of {len(example)} tokens is learnt; its turns: {roles}")
        if not len(example):
            raise BadSample(f"{sample.name}: the prompt has no tokens; ask with words or a picture")
        found = len(example)
        while len(example) > self.capacity:
            turns = _without_oldest(sample.turns) if self.overflow == "shorten" else None
            if turns is None or not (reply or any(turn.learn for turn in turns)):
                media = sum(span.length for span in example.spans)
                least = f", {len(example)} without the oldest exchanges" if len(example) < found else ""
                raise TooLong(
                    f"{sample.name}: {found} tokens{least} ({media} of media), but there is room for {self.capacity}"
                )
            sample = replace(sample, turns=turns)
            example, items = self._write(sample, reply)
        return example, items

    def _write(self, sample: Sample, reply: bool) -> tuple[Example, list[Placed]]:
        """The example without numbers of media, and its media in reading order."""
        pen, met, items = _Pen(self.tokenizer), Counter[str](), []
        for segment in segments(self.layout.template, sample.turns, reply=reply):
            whole = segment.piece
            if not isinstance(whole, Media):
                pen.write(whole, segment.learn, opens=segment.opens)
                continue
            met[whole.kind] += 1
            item = self._item(whole, sample)
            pieces = item.pieces()
            items.append((next(piece.kind for piece in pieces if isinstance(piece, Slot)), item))
            for piece in pieces:
                if isinstance(piece, Numbered):
                    pen.write(Written(piece.text.format(met[whole.kind])), segment.learn)
                elif isinstance(piece, Slot) and isinstance(piece.words, TurnText):
                    pen.write(replace(piece, words=(segment.said,) * len(piece.places)), segment.learn)
                else:
                    pen.write(piece, segment.learn)
        return pen.example(sample), items

    def _item(self, media: Media, sample: Sample) -> Item:
        known = self.layout.media
        if media.kind not in known:
            name = media.name or media.kind
            raise MediaError(f"{name}: this system takes no {media.kind!r}{nearest(media.kind, known)}")
        return item_of(media, sample, known[media.kind])


@dataclass
class _Pen:
    """Writes pieces; neighbouring text waits to be encoded together, as the chunks of published prompts are.

    Args:
        goes_on: whether what waits continues a text of which the beginning is not learnt, or is.
    """

    tokenizer: Tokenizer
    ids: list[int] = field(default_factory=list)
    learn: list[bool] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    words: dict[str, tuple[np.ndarray, ...]] = field(default_factory=dict)
    waiting: str = ""
    waiting_learn: bool = False
    goes_on: bool = False
    reply: int | None = None

    def write(self, piece: Piece | Text | Slot, learn: bool, *, opens: bool = False) -> None:
        if not isinstance(piece, Special | Slot):
            if learn != self.waiting_learn:
                goes_on = bool(self.waiting)
                self._flush()
                self.goes_on = goes_on
            self.waiting, self.waiting_learn = self.waiting + piece.text, learn
            return
        self._flush()
        if opens:
            self.reply = len(self.ids)
        if isinstance(piece, Special):
            self._put([self.tokenizer.id_of(piece.token)], learn)
        else:
            self.spans.append(Span(piece.kind, len(self.ids), piece.tokens, piece.places, piece.extent))
            assert isinstance(piece.words, tuple)
            if piece.words:
                told = tuple(self.tokenizer.encode_beside(text) for text in piece.words)
                self.words[piece.kind] = (*self.words.get(piece.kind, ()), *told)
            self._put(self.tokenizer.encode_text(piece.written) or [PLACEHOLDER] * piece.tokens, False)

    def example(self, sample: Sample) -> Example:
        self._flush()
        return Example(
            np.array(self.ids, np.int64),
            np.array(self.learn, np.bool_),
            tuple(self.spans),
            words=self.words,
            name=sample.name,
            dataset=sample.dataset,
            reply=self.reply,
        )

    def _flush(self) -> None:
        if self.waiting:
            self._put(self.tokenizer.encode_text(self.waiting, goes_on=self.goes_on), self.waiting_learn)
        self.waiting, self.goes_on = "", False

    def _put(self, ids: list[int], learn: bool) -> None:
        self.ids += ids
        self.learn += [learn] * len(ids)


def _without_oldest(turns: tuple[Turn, ...]) -> tuple[Turn, ...] | None:
    """Without what stands between the opening system turn and the next question; None if nothing would be left."""
    first = 1 if turns[0].role == "system" else 0
    later = [at for at, turn in enumerate(turns) if turn.role == "user" and at > first]
    return turns[:first] + turns[later[0] :] if later else None


def _by_kind(made: Iterable[tuple[str, Made]]) -> dict[str, tuple[Made, ...]]:
    kinds: dict[str, tuple[Made, ...]] = {}
    for kind, one in made:
        kinds[kind] = (*kinds.get(kind, ()), one)
    return kinds
