"""Rows in the forms of the ecosystem -> turns.

Markers (`<image>`) are part of the data format in a user's text only, and there must be as many as pictures; one line
break beside a marker belongs to it, because the template says what stands between. Assistant's words are verbatim.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from scops.core.names import nearest
from scops.core.sample import Media, Text, Turn
from scops.data.errors import MediaError, RowError
from scops.data.source import is_url, unpack_url

MARKER = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
PARTS = ("text", "image", "image_url")


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

    def picture(self, value: object, number: int) -> Media:
        """A path, an address with the data in it, bytes, {bytes, path}, or a picture in memory."""
        name = f"{self.name} image {number}"
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path") or value.get("url")
        if isinstance(value, str) and value:
            try:
                return Media("image", unpack_url(value, name) if is_url(value) else self.folder / value, name)
            except MediaError as error:
                raise RowError(str(error)) from error
        if not value or isinstance(value, str | int | float | list):
            self.wrong(f"image {number} is {_shown(value)}, expected a path, bytes or a data URL")
        return Media("image", value, name)

    def pictures(self) -> list[Media]:
        """All of the fields image and images, of which at most one is given."""
        given = [self.fields[key] for key in ("image", "images") if self.fields.get(key) is not None]
        if len(given) > 1:
            self.wrong("both 'image' and 'images' are given, expected one of them")
        items = given[0] if given and isinstance(given[0], list) else given
        return [self.picture(item, number) for number, item in enumerate(items)]


def conversations(row: Row) -> tuple[Turn, ...]:
    """{conversations: [{from, value}], image or images, system} (LLaVA, ShareGPT)."""
    said = row.list_of(row.fields["conversations"], "'conversations'")
    return _marked(row, [(one, one.get("from"), one.get("value")) for one in said])


def messages(row: Row) -> tuple[Turn, ...]:
    """{messages: [{role, content}], images}: content is text with markers, or typed parts (text, image, image_url)."""
    said = row.list_of(row.fields["messages"], "'messages'")
    typed = [isinstance(one.get("content"), list) for one in said]
    if not any(typed):
        return _marked(row, [(one, one.get("role"), one.get("content")) for one in said])
    siblings = row.pictures()
    waiting = iter(siblings)
    numbers = iter(range(len(siblings), 1 << 30))
    turns = []
    for at, one in enumerate(said):
        content = one.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        made = tuple(_typed(row, part, f"message {at}", waiting, numbers) for part in parts)
        turns.append(_turn(row, at, one, one.get("role"), made))
    left = len(list(waiting))
    if left:
        row.wrong(f"{left} of {len(siblings)} images stand in no part; every image needs a part of type 'image'")
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
    """{caption, image or images}: pictures alone are answered by the caption."""
    return _marked(row, [({}, "user", ""), ({}, "assistant", row.fields["caption"])], first=True)


FORMS: Mapping[str, Callable[[Row], tuple[Turn, ...]]] = {
    "conversations": conversations,
    "messages": messages,
    "texts": texts,
    "question": question,
    "caption": caption,
}
"""By the field that tells a form from the others."""

FIELDS = (*FORMS, "answer", "image", "images", "system")
"""All fields that some form reads; the others go to Sample.extra."""


def _marked(
    row: Row, said: Sequence[tuple[Mapping[str, Any], object, object]], *, first: bool = False
) -> tuple[Turn, ...]:
    """Turns from (message, role, text with markers); `first`: pictures without markers open the first user turn."""
    media = row.pictures()
    words = [row.text(text, f"the text of message {at}") for at, (_, _, text) in enumerate(said)]
    asked = [_role(row, at, role) == "user" for at, (_, role, _) in enumerate(said)]
    markers = sum(text.count(MARKER) for text, user in zip(words, asked, strict=True) if user)
    before = media if first and not markers else []
    if not before and markers != len(media):
        row.wrong(f"{markers} markers {MARKER} in the user's text, but {len(media)} images; there must be as many")
    waiting = iter(media)
    turns = []
    for at, (message, role, _) in enumerate(said):
        parts = tuple(_split(words[at], waiting)) if asked[at] and not before else (Text(words[at]),)
        if before and at == asked.index(True):
            parts = (*before, Text(words[at])) if words[at] else tuple(before)
        turns.append(_turn(row, at, message, role, parts))
    return _with_system(row, turns)


def _split(text: str, media: Iterator[Media]) -> Iterator[Text | Media]:
    pieces = text.split(MARKER)
    for number, piece in enumerate(pieces):
        if number:
            yield next(media)
            piece = piece.removeprefix("\n")
        if number < len(pieces) - 1:
            piece = piece.removesuffix("\n")
        if piece or len(pieces) == 1:
            yield Text(piece)


def _typed(row: Row, part: object, where: str, waiting: Iterator[Media], numbers: Iterator[int]) -> Text | Media:
    if not isinstance(part, Mapping) or part.get("type") not in PARTS:
        row.wrong(f"a part of {where} is {_shown(part)}, expected an object with type {', '.join(PARTS)}")
    kind = part["type"]
    if kind == "text":
        return Text(row.text(part.get("text", part.get("content")), f"the text of {where}"))
    value = next(
        (part[key] for key in ("image_url", "image", "url", "path", "bytes") if part.get(key) is not None), None
    )
    if value is not None:
        return row.picture(value, next(numbers))
    found = next(waiting, None)
    if found is None:
        row.wrong(f"{where} has a part of type {kind!r}, but no picture in it and none left in 'images'")
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
