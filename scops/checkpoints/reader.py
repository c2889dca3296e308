"""The face of all weights: names and shapes at once, tensors one at a time and when asked."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from scops.checkpoints.keymap import KeyMap, KeyMismatch, Move
from scops.core.names import nearest


class Reader(Mapping[str, Tensor]):
    """Name -> tensor on the CPU, read when asked. `kind` says what was opened, for the log."""

    path: Path
    kind: str

    @abstractmethod
    def names(self) -> list[str]: ...

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]: ...

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype: ...

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        return name in set(self.names())

    def absent(self, name: str) -> KeyError:
        return KeyError(f"{self.path} ({self.kind}) has no tensor {name!r}{nearest(name, self.names())}")


class StateReader(Reader):
    """A state dict that is already in memory."""

    kind = "in memory"

    def __init__(self, state: Mapping[str, Tensor], path: str | Path = "state dict") -> None:
        self.path, self._state = Path(path), state

    def names(self) -> list[str]:
        return list(self._state)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self[name].dtype

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._state:
            raise self.absent(name)
        return self._state[name].detach()


class MappedReader(Reader):
    """Another reader seen through a key map: our names, changed tensors, still read one at a time."""

    def __init__(self, reader: Reader, keymap: KeyMap, names: Iterable[str] | None = None) -> None:
        """names: those of the reader to see; None for all."""
        self.path, self.kind, self._reader = reader.path, reader.kind, reader
        self._moves: dict[str, tuple[Move, int]] = {}
        try:
            moves = keymap.moves_in(reader.names() if names is None else names)
        except KeyMismatch as error:
            raise KeyMismatch(f"{reader.path} ({reader.kind}): {error}") from error
        for move in moves:
            self._moves.update({target: (move, at) for at, target in enumerate(move.targets)})
        self._last: tuple[Move, list[Tensor]] | None = None

    def names(self) -> list[str]:
        return list(self._moves)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._outline(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._outline(name).dtype

    def __getitem__(self, name: str) -> Tensor:
        move, at = self._find(name)
        if len(move.targets) == 1:
            return move([self._reader[source] for source in move.sources])[0]
        if self._last is None or self._last[0] is not move:  # the parts of a fused tensor are usually asked in a row
            self._last = move, move([self._reader[source] for source in move.sources])
        return self._last[1][at]

    def _outline(self, name: str) -> Tensor:
        move, at = self._find(name)
        theirs = [torch.empty(self._reader.shape(s), dtype=self._reader.dtype(s), device="meta") for s in move.sources]
        return move(theirs)[at]

    def _find(self, name: str) -> tuple[Move, int]:
        if name not in self._moves:
            raise self.absent(name)
        return self._moves[name]

    @cached_property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Our name -> the names in the file."""
        return {name: move.sources for name, (move, _) in self._moves.items()}
