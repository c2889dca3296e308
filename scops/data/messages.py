"""What people hand to a model (words, pictures, videos, documents, OpenAI-style messages) as a Sample."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scops.core.names import nearest
from scops.core.sample import ROLES, Media, Sample, Text, Turn
from scops.data.documents import is_document, pages
from scops.data.video import is_video

TEXTS = ("text", "input_text")
KINDS = {
    "image": "image", "image_url": "image", "input_image": "image", "file": "image", "input_file": "image",
    "video": "video", "video_url": "video", "input_video": "video",
}  # fmt: skip
"""By the type of a message's part; a file is a document."""
HOLDERS = ("image_url", "image", "video_url", "video", "file", "url", "path")
"""Where a part holds its medium."""
FILE = "file://"
_PICTURE, _VIDEO = "picture is a path, a data URL, bytes or a Pillow picture", "video is a path, a data URL or bytes"
READ = {"": _PICTURE, "image": _PICTURE, "video": _VIDEO}
"""By kind, what can be read; "" where the name must say which it is."""

Ask = str | Sample | Sequence[Any]
"""A sentence; parts of one user turn (str is text; Path, bytes or a Pillow picture is a medium); messages; a Sample."""


def sample_of(ask: Ask, images: Sequence[Any] = (), videos: Sequence[Any] = (), *, name: str = "request") -> Sample:
    """The conversation that is asked to go on.

    Args:
        images: pictures, documents and videos by their names, that stand before the words of a plain question.
        videos: likewise, whatever they are called.
    Raises:
        ValueError: naming the message and part that is not understood.
    """
    if isinstance(ask, Sample):
        return _without([*images, *videos], ask)
    before = [
        *(one for image in images for one in media(image, name)),
        *(one for video in videos for one in media(video, name, "video")),
    ]
    if isinstance(ask, str):
        return _one_turn([*before, Text(ask)], name)
    if isinstance(ask, Sequence) and not isinstance(ask, bytes) and ask:
        if all(isinstance(item, Mapping) and "role" in item for item in ask):
            turns = tuple(turn_of(message, f"{name}, message {at}") for at, message in enumerate(ask))
            return _without([*images, *videos], Sample(turns, name=name))
        return _one_turn([*before, *(part for item in ask for part in parts_of(item, name))], name)
    raise ValueError(f"{name}: a question is words, a list of parts or messages, not {_shown(ask)}")


def turn_of(message: Mapping[str, Any], where: str) -> Turn:
    """One message, {"role": ..., "content": words or typed parts}."""
    unknown = sorted(set(message) - {"role", "content", "name"})
    if unknown:
        raise ValueError(f"{where}: {unknown[0]!r} is not read; a message has role and content")
    if message["role"] not in ROLES:
        raise ValueError(f"{where}: there is no role {message['role']!r}{nearest(str(message['role']), ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        content = [content]
    if not isinstance(content, Sequence) or not content:
        raise ValueError(f"{where}: content is words or a list of parts, not {_shown(content)}")
    return Turn(message["role"], tuple(one for part in content for one in parts_of(part, where)))


def parts_of(part: Any, where: str) -> tuple[Text | Media, ...]:
    """Words are text, always; a medium is told by its type. A document is as many parts as it has pages."""
    if isinstance(part, Text | Media):
        return (part,)
    if isinstance(part, str):
        return (Text(part),)
    if not isinstance(part, Mapping):
        return media(part, where)
    kind = part.get("type")
    if kind in TEXTS and isinstance(part.get("text"), str):
        return (Text(part["text"]),)
    if kind in KINDS:
        held = next((part[name] for name in HOLDERS if part.get(name) is not None), None)
        return media(held["url"] if isinstance(held, Mapping) and "url" in held else held, where, KINDS[kind])
    if kind in TEXTS:
        raise ValueError(f"{where}: a part of type {kind!r} needs 'text', a string; it has {sorted(part)}")
    raise ValueError(f"{where}: there is no part of type {kind!r}{nearest(str(kind), (*TEXTS, *KINDS))}")


def media(source: Any, where: str = "request", kind: str = "") -> tuple[Media, ...]:
    """A path, a data URL, encoded bytes or a Pillow picture; whether it can be read shows when it is.

    A document is its pages, which are counted here.

    Args:
        kind: "image" or "video"; otherwise as the name says.
    """
    if isinstance(source, Media):
        return (source,)
    if isinstance(source, str):
        if source.startswith(("http://", "https://")):
            raise ValueError(f"{where}: {source!r} is not fetched; save the file and give its path")
        if not source.startswith("data:"):
            source = Path(source.removeprefix(FILE)).expanduser()
    if not isinstance(source, Path | bytes | str) and (kind == "video" or not hasattr(source, "convert")):
        raise ValueError(f"{where}: a {READ[kind]}, not {_shown(source)}")
    kind = kind or ("video" if is_video(source) else "image")
    name = str(source) if isinstance(source, Path) else f"{where}: {_held(source)}"
    if kind == "image" and is_document(source):
        return tuple(
            Media(kind, page, f"{name.partition('#page=')[0]}#page={page.number}") for page in pages(source, where)
        )
    return (Media(kind, source, name),)


def _held(source: Any) -> str:
    return "data URL" if isinstance(source, str) else type(source).__name__


def _one_turn(parts: Sequence[Text | Media], name: str) -> Sample:
    return Sample((Turn("user", tuple(parts)),), name=name)


def _without(images: Sequence[Any], sample: Sample) -> Sample:
    if images:
        raise ValueError(
            f"{sample.name}: pictures and videos stand inside messages where they belong; `images` and `videos` go with words only"
        )
    return sample


def _shown(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 60 else f"{type(value).__name__} {words[:50]}..."
