"""What people hand to a model (words, pictures, OpenAI-style messages) as a Sample."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scops.core.names import nearest
from scops.core.sample import ROLES, Media, Sample, Text, Turn

TEXTS = ("text", "input_text")
PICTURES = ("image", "image_url", "input_image")
FILE = "file://"

Ask = str | Sample | Sequence[Any]
"""A sentence; parts of one user turn (str is text, Path, bytes or a Pillow picture is a picture); messages; a Sample."""


def sample_of(ask: Ask, images: Sequence[Any] = (), *, name: str = "request") -> Sample:
    """The conversation that is asked to go on.

    Args:
        images: pictures that stand before the words of a plain question.
    Raises:
        ValueError: naming the message and part that is not understood.
    """
    if isinstance(ask, Sample):
        return _without(images, ask)
    if isinstance(ask, str):
        return _one_turn([*map(picture, images), Text(ask)], name)
    if isinstance(ask, Sequence) and not isinstance(ask, bytes) and ask:
        if all(isinstance(item, Mapping) and "role" in item for item in ask):
            turns = tuple(turn_of(message, f"{name}, message {at}") for at, message in enumerate(ask))
            return _without(images, Sample(turns, name=name))
        return _one_turn([*map(picture, images), *(part_of(item, name) for item in ask)], name)
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
    return Turn(message["role"], tuple(part_of(part, where) for part in content))


def part_of(part: Any, where: str) -> Text | Media:
    """Words are text, always; a picture is told by its type."""
    if isinstance(part, Text | Media):
        return part
    if isinstance(part, str):
        return Text(part)
    if not isinstance(part, Mapping):
        return picture(part, where)
    kind = part.get("type")
    if kind in TEXTS and isinstance(part.get("text"), str):
        return Text(part["text"])
    if kind in PICTURES:
        held = part.get("image_url", part.get("image", part.get("url", part.get("path"))))
        return picture(held["url"] if isinstance(held, Mapping) and "url" in held else held, where)
    if kind in TEXTS:
        raise ValueError(f"{where}: a part of type {kind!r} needs 'text', a string; it has {sorted(part)}")
    raise ValueError(f"{where}: there is no part of type {kind!r}{nearest(str(kind), (*TEXTS, *PICTURES))}")


def picture(source: Any, where: str = "request") -> Media:
    """A path, a data URL, encoded bytes or a Pillow picture; whether it can be read shows when it is."""
    if isinstance(source, Media):
        return source
    if isinstance(source, str):
        if source.startswith(("http://", "https://")):
            raise ValueError(f"{where}: {source!r} is not fetched; save the picture and give its path")
        is_url = source.startswith("data:")
        source = source if is_url else Path(source.removeprefix(FILE)).expanduser()
        return Media("image", source, f"{where}: data URL" if is_url else str(source))
    if isinstance(source, Path | bytes) or hasattr(source, "convert"):
        return Media("image", source, str(source) if isinstance(source, Path) else f"{where}: {type(source).__name__}")
    raise ValueError(f"{where}: a picture is a path, a data URL, bytes or a Pillow picture, not {_shown(source)}")


def _one_turn(parts: Sequence[Text | Media], name: str) -> Sample:
    return Sample((Turn("user", tuple(parts)),), name=name)


def _without(images: Sequence[Any], sample: Sample) -> Sample:
    if images:
        raise ValueError(
            f"{sample.name}: pictures stand inside messages where they belong; `images` goes with words only"
        )
    return sample


def _shown(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 60 else f"{type(value).__name__} {words[:50]}..."
