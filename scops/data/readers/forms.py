"""Rows in the forms of the ecosystem -> turns.

Markers (`<image>`, `<video>`) are part of the data format in a user's text only, and there must be as many as media of
their kind; one line break beside a marker belongs to it, because the template says what stands between. Assistant's words
are verbatim. A picture that is a PDF document is all its pages, and one marker stands for them together.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from scops.core.names import nearest
from scops.core.sample import Media, Text, Turn
from scops.data.documents import is_document, pages
from scops.data.errors import MediaError, RowError
from scops.data.source import Stored, is_url, unpack_url

MARKERS = {"image": "<image>", "video": "<video>"}
MARKER = re.compile("|".join(MARKERS.values()))
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
PARTS = {"text": "", "image": "image", "image_url": "image", "video": "video", "video_url": "video"}
"""Typed parts of messages, and the kind of medium that they hold."""

Shown = tuple[Media, ...]
"""What one marker stands for: a picture, a video, or all pages of a document."""
Waiting = dict[str, Iterator[Shown]]
"""By kind, what was not met in the text yet."""


@dataclass(frozen=True)
class Row:
    """One row as it was read.

    Args:
        name: file and row, for errors.
        folder: where relative paths of pictures begin.
    """

    fields: Mapping[str, Any]
    name: str
    folder: Path

    def wrong(self, what: str) -> NoReturn:
        raise RowError(f"{self.name}: {what}")

    def text(self, value: object, where: str) -> str:
        if not isinstance(value, str):
            self.wrong(f"{where} is {type(value).__name__}, expected text")
        return value

    def list_of(self, value: object, where: str) -> list[Mapping[str, Any]]:
        if not isinstance(value, list) or not value or not all(isinstance(one, Mapping) for one in value):
            self.wrong(f"{where} is {_shown(value)}, expected a list of objects, at least one")
        return value

    def medium(self, kind: str, value: object, number: int) -> Shown:
        """A path, an address with the data in it, bytes, {bytes, path}, or a picture in memory."""
        name = f"{self.name} {kind} {number}"
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path") or value.get("url")
        if isinstance(value, str) and value:
            try:
                value = unpack_url(value, name) if is_url(value) else self.folder / value
            except MediaError as error:
                raise RowError(str(error)) from error
        if not value or isinstance(value, str | int | float | list):
            self.wrong(f"{kind} {number} is {_shown(value)}, expected a path, bytes or a data URL")
        if kind == "image" and is_document(value):
            return tuple(Media(kind, page, f"{name} page {page.number}") for page in pages(cast(Stored, value), name))
        return (Media(kind, value, name),)

    def media(self, kind: str) -> list[Shown]:
        """All of the fields `kind` and `kind`s, of which at most one is given."""
        given = [self.fields[key] for key in (kind, f"{kind}s") if self.fields.get(key) is not None]
        if len(given) > 1:
            self.wrong(f"both {kind!r} and '{kind}s' are given, expected one of them")
        items = given[0] if given and isinstance(given[0], list) else given
        return [self.medium(kind, item, number) for number, item in enumerate(items)]


def conversations(row: Row) -> tuple[Turn, ...]:
    """{conversations: [{from, value}], image or images, system} (LLaVA, ShareGPT)."""
    said = row.list_of(row.fields["conversations"], "'conversations'")
    return _marked(row, [(one, one.get("from"), one.get("value")) for one in said])


def messages(row: Row) -> tuple[Turn, ...]:
    """{messages: [{role, content}], images}: content is text with markers, or typed parts (text, image, video ...)."""
    said = row.list_of(row.fields["messages"], "'messages'")
    typed = [isinstance(one.get("content"), list) for one in said]
    if not any(typed):
        return _marked(row, [(one, one.get("role"), one.get("content")) for one in said])
    siblings = {kind: row.media(kind) for kind in MARKERS}
    waiting = {kind: iter(some) for kind, some in siblings.items()}
    numbers = {kind: iter(range(len(some), 1 << 30)) for kind, some in siblings.items()}
    turns = []
    for at, one in enumerate(said):
        content = one.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        made = tuple(one for part in parts for one in _typed(row, part, f"message {at}", waiting, numbers))
        turns.append(_turn(row, at, one, one.get("role"), made))
    for kind, some in siblings.items():
        left = len(list(waiting[kind]))
        if left:
            row.wrong(f"{left} of {len(some)} {kind}s stand in no part; every {kind} needs a part of type {kind!r}")
    return _with_system(row, turns)


def texts(row: Row) -> tuple[Turn, ...]:
    """{images, texts: [{user, assistant}]} (FineVision): without markers, the pictures come before the first question."""
    said = []
    for one in row.list_of(row.fields["texts"], "'texts'"):
        said += [({}, "user", one.get("user")), ({}, "assistant", one.get("assistant"))]
    return _marked(row, said, first=True)


def question(row: Row) -> tuple[Turn, ...]:
    """{question, answer, image or images}: without markers, the pictures come before the question."""
    said = [({}, "user", row.fields["question"]), ({}, "assistant", row.fields.get("answer"))]
    return _marked(row, said, first=True)


def caption(row: Row) -> tuple[Turn, ...]:
    """{caption, image or images}: pictures alone are answered by the caption, which has words."""
    words = row.text(row.fields["caption"], "'caption'")
    if not words.strip():
        row.wrong("'caption' has no words")
    return _marked(row, [({}, "user", ""), ({}, "assistant", words)], first=True)


FORMS: Mapping[str, Callable[[Row], tuple[Turn, ...]]] = {
    "conversations": conversations,
    "messages": messages,
    "texts": texts,
    "question": question,
    "caption": caption,
}
"""By the field that tells a form from the others."""

FIELDS = (*FORMS, "answer", "image", "images", "video", "videos", "system")
"""All fields that some form reads; the others go to Sample.extra."""


def _marked(
    row: Row, said: Sequence[tuple[Mapping[str, Any], object, object]], *, first: bool = False
) -> tuple[Turn, ...]:
    """Turns from (message, role, text with markers); `first`: media without markers open the first user turn."""
    media = {kind: row.media(kind) for kind in MARKERS}
    words = [row.text(text, f"the text of message {at}") for at, (_, _, text) in enumerate(said)]
    asked = [_role(row, at, role) == "user" for at, (_, role, _) in enumerate(said)]
    found = {
        kind: sum(text.count(marker) for text, user in zip(words, asked, strict=True) if user)
        for kind, marker in MARKERS.items()
    }
    bare = first and not any(found.values())
    before = [one for some in media.values() for shown in some for one in shown] if bare else []
    for kind, some in media.items() if not before else ():
        if found[kind] != len(some):
            row.wrong(
                f"{found[kind]} markers {MARKERS[kind]} in the user's text, but {len(some)} {kind}s; there must be as many"
            )
    waiting = {kind: iter(some) for kind, some in media.items()}
    turns = []
    for at, (message, role, _) in enumerate(said):
        parts = tuple(_split(words[at], waiting)) if asked[at] and not before else (Text(words[at]),)
        if before and at == asked.index(True):
            parts = (*before, Text(words[at])) if words[at] else tuple(before)
        turns.append(_turn(row, at, message, role, parts))
    return _with_system(row, turns)


def _split(text: str, waiting: Waiting) -> Iterator[Text | Media]:
    pieces, markers = MARKER.split(text), MARKER.findall(text)
    kinds = {marker: kind for kind, marker in MARKERS.items()}
    for number, piece in enumerate(pieces):
        if number:
            yield from next(waiting[kinds[markers[number - 1]]])
            piece = piece.removeprefix("\n")
        if number < len(pieces) - 1:
            piece = piece.removesuffix("\n")
        if piece or len(pieces) == 1:
            yield Text(piece)


def _typed(
    row: Row, part: object, where: str, waiting: Waiting, numbers: Mapping[str, Iterator[int]]
) -> tuple[Text | Media, ...]:
    if not isinstance(part, Mapping) or part.get("type") not in PARTS:
        row.wrong(f"a part of {where} is {_shown(part)}, expected an object with type {', '.join(PARTS)}")
    kind = PARTS[part["type"]]
    if not kind:
        return (Text(row.text(part.get("text", part.get("content")), f"the text of {where}")),)
    holders = (f"{kind}_url", kind, "url", "path", "bytes")
    value = next((part[key] for key in holders if part.get(key) is not None), None)
    if value is not None:
        return row.medium(kind, value, next(numbers[kind]))
    found = next(waiting[kind], None)
    if found is None:
        row.wrong(f"{where} has a part of type {part['type']!r}, but no {kind} in it and none left in '{kind}s'")
    return found


def _turn(row: Row, at: int, message: Mapping[str, Any], role: object, parts: tuple[Text | Media, ...]) -> Turn:
    role, learn = _role(row, at, role), message.get("loss")
    if learn is not None and not isinstance(learn, bool):
        row.wrong(f"'loss' of message {at} is {_shown(learn)}, expected true or false")
    if learn and role != "assistant":
        row.wrong(f"'loss' of message {at} is true, but a {role} is never learnt")
    return Turn(role, parts, role == "assistant" and learn is not False)


def _role(row: Row, at: int, role: object) -> str:
    if not isinstance(role, str) or role not in ROLES:
        row.wrong(f"message {at} is from {_shown(role)}{nearest(str(role), ROLES)}")
    return ROLES[role]


def _with_system(row: Row, turns: list[Turn]) -> tuple[Turn, ...]:
    system = row.fields.get("system")
    if system is None or system == "":
        return tuple(turns)
    if turns[0].role == "system":
        row.wrong("both a field 'system' and a first system message are given, expected one of them")
    return Turn("system", (Text(row.text(system, "'system'")),)), *turns


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
