"""A data set: rows of some container in some form, read as samples when asked for."""

import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import overload

from scops.core.names import nearest
from scops.core.sample import Sample
from scops.data.errors import RowError
from scops.data.readers.forms import FIELDS, FORMS, Row
from scops.data.readers.rows import JsonRows, ParquetRows, Rows
from scops.data.readers.shards import ShardRows

SEED = 0
"""Of the choice of rows that `path#500` makes: always the same rows, in their order."""

log = logging.getLogger("scops.data")


class Dataset(Sequence[Sample]):
    """Samples of one source. Media stay undecoded; a slice is a data set too.

    Args:
        images: the folder where relative paths of pictures begin.
        columns: our field -> the column of these rows.
        numbers: which rows, when not all.
    """

    def __init__(
        self,
        rows: Rows,
        name: str,
        *,
        images: Path,
        columns: Mapping[str, str] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.rows, self.name, self.images, self.columns = rows, name, images, dict(columns or {})
        self.numbers = range(len(rows)) if numbers is None else numbers
        for field in self.columns:
            if field not in FIELDS:
                raise ValueError(f"columns name {field!r}, but no form reads that{nearest(field, FIELDS)}")
        if not len(self.numbers):
            raise ValueError(f"{name} has no rows")
        fields = self._fields(self.numbers[0])
        self.form = next((form for form in FORMS if form in fields), "")
        """The field by which its form was recognised in the first row."""
        if not self.form:
            found = ", ".join(map(repr, fields))
            raise ValueError(f"{rows.name(self.numbers[0])} has {found}; expected one of {', '.join(FORMS)}")

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> "Dataset": ...
    def __getitem__(self, at: int | slice) -> "Sample | Dataset":
        if isinstance(at, slice):
            return self.take(self.numbers[at])
        number = self.numbers[at]
        name, fields = self.rows.name(number), self._fields(number)
        if self.form in fields and fields[self.form] is None:
            raise RowError(f"{name}: {self.form!r} is null, but the first row has one")
        if self.form not in fields:
            raise RowError(f"{name}: no {self.form!r}, which the first row has{nearest(self.form, fields)}")
        turns = FORMS[self.form](Row(fields, name, self.images))
        return Sample(turns, name, self.name, {key: fields[key] for key in fields if key not in FIELDS})

    def __iter__(self) -> Iterator[Sample]:
        return (self[at] for at in range(len(self)))

    def take(self, numbers: Sequence[int]) -> "Dataset":
        """Only these rows of the container."""
        return Dataset(self.rows, self.name, images=self.images, columns=self.columns, numbers=numbers)

    def _fields(self, number: int) -> Mapping[str, object]:
        fields = dict(self.rows[number])
        for ours, theirs in self.columns.items():
            if theirs not in fields:
                raise RowError(f"{self.rows.name(number)}: no column {theirs!r} for {ours!r}{nearest(theirs, fields)}")
            fields[ours] = fields.pop(theirs)
        return fields


def open_dataset(
    path: str | Path, *, name: str = "", columns: Mapping[str, str] | None = None, images: str | Path | None = None
) -> Dataset:
    """The data set at a path, its container and form recognised by content and logged.

    Args:
        path: a JSON, JSON lines, parquet or tar file, a folder of parquet files or shards, or a pattern with * or
            {000..012}; with `#500` behind, 500 rows of it chosen at random but always the same.
        columns: our field -> the column of these rows, where they are called otherwise.
        images: where relative paths of pictures begin; the data's own folder unless given.
    """
    where, count = _counted(str(path))
    paths = _files(where)
    rows = _rows(paths)
    folder = Path(images) if images is not None else paths[0].parent
    made = Dataset(rows, name or Path(where).stem or where, images=folder, columns=columns)
    if count is not None:
        if count > len(made):
            raise ValueError(f"{path} asks for {count} rows, but there are {len(made)}")
        made = made.take(sorted(random.Random(SEED).sample(range(len(made)), count)))
    log.info("%s: %d rows of %s with %r", made.name, len(made), rows.container, made.form)
    return made


def _counted(text: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"(.+)#(\d+)", text)
    return (text, None) if found is None or Path(text).exists() else (found[1], int(found[2]))


def _files(where: str) -> list[Path]:
    path = Path(where)
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = sorted(path.iterdir())
        kinds = {kind: [one for one in inside if one.suffix in kind] for kind in (".tar", ".parquet", ".jsonl .json")}
        found = [files for files in kinds.values() if files]
        if len(found) != 1:
            counts = ", ".join(f"{len(files)} {kind}" for kind, files in kinds.items())
            raise ValueError(f"{path} holds {counts} files; expected files of one of these kinds")
        return found[0]
    if not re.search(r"[*?\[{]", where):
        around = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        raise FileNotFoundError(f"{path} does not exist{nearest(path.name, around)}")
    paths = [Path(one) for pattern in braces(where) for one in (sorted(glob(pattern)) or [pattern])]
    missing = [one for one in paths if not one.is_file()]
    if missing:
        raise FileNotFoundError(f"{where}: {len(missing)} of {len(paths)} files are missing, first {missing[0]}")
    return paths


def braces(pattern: str) -> list[str]:
    """a{08..10}.tar -> a08.tar a09.tar a10.tar; {x,y} likewise; several braces multiply."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if ends:
        width = len(ends[1]) if ends[1].startswith("0") else 0
        choices = [str(number).zfill(width) for number in range(int(ends[1]), int(ends[2]) + 1)]
    else:
        choices = found[1].split(",")
    return [one for choice in choices for one in braces(pattern[: found.start()] + choice + pattern[found.end() :])]


def _rows(paths: list[Path]) -> Rows:
    """The container, by the first bytes of the first file."""
    with paths[0].open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PAR1"):
        return ParquetRows(paths)
    if start[257:262] == b"ustar":
        return ShardRows(paths)
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{"):
        if len(paths) > 1:
            raise ValueError(
                f"{len(paths)} JSON files ({paths[0].name}, {paths[1].name} ...); expected one data set each"
            )
        return JsonRows(paths[0])
    packed = "it is compressed; " if start[:2] == b"\x1f\x8b" or start[:4] == b"\x28\xb5\x2f\xfd" else ""
    raise ValueError(
        f"{paths[0]} is no data set that is read: {packed}expected JSON, JSON lines, parquet or a plain tar file"
    )
