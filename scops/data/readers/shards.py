"""WebDataset shards: tar files in which the members of one sample share their name up to the first dot.

Shards are indexed once (headers only) and then read at any place; nothing is unpacked to disk.
"""

import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from scops.data.errors import RowError
from scops.data.video import SUFFIXES

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "pdf")
VIDEOS = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
WORDS = ("txt", "text", "caption")

Member = tuple[str, int, int]
"""Extension, offset and size."""


class ShardRows:
    """Tar shards: pictures become `images` and videos `videos` (in the shard's order), text the `caption`, JSON the fields.

    Other members are fields as they are.
    """

    container = "WebDataset shards"

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.index = [(file, key, members) for file, path in enumerate(paths) for key, members in _index(path).items()]

    def __len__(self) -> int:
        return len(self.index)

    def name(self, number: int) -> str:
        file, key, _ = self.index[number]
        return f"{self.paths[file].name} {key}"

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        file, key, members = self.index[number]
        row: dict[str, Any] = {"__key__": key}
        media: dict[str, list[bytes]] = {}
        with self.paths[file].open("rb") as shard:
            for extension, offset, size in members:
                shard.seek(offset)
                content, kind = shard.read(size), extension.rpartition(".")[2]
                if kind in PICTURES or kind in VIDEOS:
                    media.setdefault("image" if kind in PICTURES else "video", []).append(content)
                elif kind == "json":
                    self._add(row, self._json(content, number), number)
                else:
                    field = "caption" if kind in WORDS else extension
                    self._add(row, {field: self._text(content, number) if kind in WORDS else content}, number)
        for kind, contents in media.items():
            self._replace_names(row, kind, contents, number)
        return row

    def _add(self, row: dict[str, Any], fields: Mapping[str, Any], number: int) -> None:
        twice = sorted(set(row) & set(fields))
        if twice:
            raise RowError(f"{self.name(number)}: {', '.join(map(repr, twice))} is given by two members")
        row.update(fields)

    def _replace_names(self, row: dict[str, Any], kind: str, contents: list[bytes], number: int) -> None:
        """The JSON may name the media that stand beside it; there must be as many."""
        named = [row.pop(key) for key in (kind, f"{kind}s") if row.get(key) is not None]
        names = [name for one in named for name in (one if isinstance(one, list) else [one])]
        if names and len(names) != len(contents):
            raise RowError(f"{self.name(number)}: the JSON names {len(names)} {kind}s, the shard has {len(contents)}")
        row[f"{kind}s"] = contents

    def _json(self, content: bytes, number: int) -> Mapping[str, Any]:
        try:
            row = json.loads(content)
        except ValueError as error:
            raise RowError(f"{self.name(number)}: its JSON cannot be read: {error}") from error
        if not isinstance(row, dict):
            raise RowError(f"{self.name(number)}: its JSON is {type(row).__name__}, expected an object")
        return row

    def _text(self, content: bytes, number: int) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise RowError(f"{self.name(number)}: its text is not UTF-8: {error}") from error


def _index(path: Path) -> dict[str, list[Member]]:
    samples: dict[str, list[Member]] = {}
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                name = PurePosixPath(member.name)
                if not member.isfile() or name.name.startswith("."):
                    continue
                if member.offset_data + member.size > size:
                    raise ValueError(f"{path} ends within its member {member.name!r}; the shard is cut off")
                stem, _, extension = name.name.partition(".")
                members = samples.setdefault(str(name.parent / stem), [])
                extension = extension.lower()
                if any(extension == other for other, _, _ in members):
                    raise ValueError(f"{path} has two members {member.name!r}")
                members.append((extension, member.offset_data, member.size))
    except tarfile.TarError as error:
        raise ValueError(f"{path} is not a plain tar file (compressed ones allow no random access): {error}") from error
    return samples
