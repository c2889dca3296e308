"""Containers of rows with random access: JSON arrays, JSON lines, parquet. Only places are kept in memory, never rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scops.data.errors import RowError


class Rows(Protocol):
    """Rows of one container; `container` is its name for the log."""

    container: str

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Mapping[str, Any]: ...

    def name(self, number: int) -> str:
        """File and row, counted from 0."""
        ...


class JsonRows:
    """A JSON array of objects, or one object per line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = path.read_bytes()
        start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
        array = data[start:].lstrip().startswith(b"[")
        self.container = "a JSON array" if array else "JSON lines"
        places = _elements(data, start, path) if array else _lines(data, start)
        self.places = np.array(places, np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        start, end = self.places[number].tolist()
        with self.path.open("rb") as file:
            file.seek(start)
            text = file.read(end - start)
        try:
            row = json.loads(text)
        except ValueError as error:
            raise RowError(f"{self.name(number)}: this is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise RowError(f"{self.name(number)}: a row is an object, not {type(row).__name__}")
        return row

    def name(self, number: int) -> str:
        return f"{self.path.name} row {number}"


class ParquetRows:
    """Parquet files; the row group last used is kept, so rows in order are cheap and shuffled ones cost their group."""

    container = "parquet"

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        groups = [(file, group, rows) for file, path in enumerate(paths) for group, rows in enumerate(_groups(path))]
        self.groups = [(file, group) for file, group, _ in groups]
        self.ends = np.cumsum([rows for _, _, rows in groups], dtype=np.int64)
        self.firsts = [sum(rows for other, _, rows in groups if other < file) for file in range(len(self.paths))]
        self._held: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        at, within = self._place(number)
        if self._held[0] != at:
            import pyarrow.parquet

            file, group = self.groups[at]
            self._held = (at, pyarrow.parquet.ParquetFile(self.paths[file]).read_row_group(group))
        return self._held[1].slice(within, 1).to_pylist()[0]

    def name(self, number: int) -> str:
        file = self.groups[self._place(number)[0]][0]
        return f"{self.paths[file].name} row {number - self.firsts[file]}"

    def _place(self, number: int) -> tuple[int, int]:
        at = int(np.searchsorted(self.ends, number, "right"))
        return at, number - (int(self.ends[at - 1]) if at else 0)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": (-1, None)}  # workers read their own


def _groups(path: Path) -> list[int]:
    import pyarrow  # slow to import, and only parquet needs it
    import pyarrow.parquet

    try:
        meta = pyarrow.parquet.read_metadata(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from error
    return [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]


def _lines(data: bytes, start: int) -> list[tuple[int, int]]:
    places = []
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        if data[start:end].strip():
            places.append((start, end))
        start = end + 1
    return places


def _elements(data: bytes, start: int, path: Path) -> list[tuple[int, int]]:
    """Where the elements of an array stand. JSON's own signs are ASCII, so bytes taken for characters find them."""
    text, decoder, places = data.decode("latin-1"), json.JSONDecoder(), []
    at = _skip(text, text.index("[", start) + 1)
    while text[at : at + 1] != "]":
        try:
            _, end = decoder.raw_decode(text, at)
        except ValueError as error:
            raise RowError(f"{path.name} row {len(places)}: this is not JSON: {error}") from error
        places.append((at, end))
        at = _skip(text, end)
        if text[at : at + 1] not in (",", "]") or not text[at:]:
            raise RowError(
                f"{path.name}: after row {len(places) - 1} stands {text[at : at + 9]!r}, expected ',' or ']'"
            )
        if text[at] == ",":
            at = _skip(text, at + 1)
    if text[at + 1 :].strip():
        raise RowError(f"{path.name}: after the array stands {text[at + 1 :].strip()[:20]!r}, expected nothing")
    return places


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\n", "\t", "\r"):
        at += 1
    return at
