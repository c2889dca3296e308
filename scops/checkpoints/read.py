"""Weights of any file or folder, told by their content, behind one face."""

import json
import pickle
import re
import struct
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scops.checkpoints.reader import Reader, StateReader
from scops.core.names import nearest

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
EXPECTED = "expected a .safetensors, .bin/.pt/.pth or .gguf file, a *.index.json, or a folder with one of them"
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
}  # fmt: skip


def open_weights(path: str | Path) -> Reader:
    """Open whatever weights lie there, told by content, not by trust in the name.

    Raises:
        FileNotFoundError: nothing there, no weights in the folder, or a shard is missing.
        ValueError: something else than weights (a web page, a git-lfs pointer, half a file, a pickle of code).
    """
    path = Path(path)
    if path.is_dir():
        return open_weights(_choose(path))
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {EXPECTED}")
    with path.open("rb") as file:
        head = file.read(512)
    if head[:4] == b"GGUF":
        from scops.checkpoints.gguf import GgufReader  # the gguf package is only needed for such files

        return GgufReader(path)
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        return TorchReader(path)
    if path.name.endswith(".index.json"):
        return ShardedReader(path)
    _refuse_text(path, head)
    return SafetensorsReader(path)


def _choose(folder: Path) -> Path:
    named = [folder / name for pair in zip(INDEXES, SINGLES, strict=True) for name in pair]
    for path in named:
        if path.exists():
            return path
    for ending in ("*.safetensors.index.json", "*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf"):
        found = sorted(folder.glob(ending))
        if len(found) > 1:
            raise ValueError(
                f"{folder} has {len(found)} files {ending}: {[f.name for f in found[:5]]}; name the one to read"
            )
        if found:
            return found[0]
    there = ", ".join(sorted(f.name for f in folder.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(f"{folder} holds no weights but {there}; {EXPECTED}")


def _refuse_text(path: Path, head: bytes) -> None:
    start = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"size (\d+)", head)
        raise ValueError(
            f"{path} is a git-lfs pointer to {int(size[1]) if size else '?'} bytes of weights, not the weights; "
            "run `git lfs pull`"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(
            f"{path} is a web page (perhaps an error or log-in page saved as a download), not weights; {EXPECTED}"
        )
    if not head:
        raise ValueError(f"{path} is empty; {EXPECTED}")
    if start.startswith((b"{", b"[")):
        raise ValueError(f"{path} is JSON, not weights; {EXPECTED}")
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:9] != b"{" or length > 100_000_000:
        raise ValueError(f"{path} starts with {head[:12]!r}, which no known kind of weights does; {EXPECTED}")


class SafetensorsReader(Reader):
    kind = "safetensors"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = safe_open(self.path, framework="pt")
        except SafetensorError as error:
            size = self.path.stat().st_size
            raise ValueError(
                f"{self.path} ({size} bytes) is not a whole safetensors file, probably cut short: {error}"
            ) from error
        self._names = list(self._file.keys())
        self._known = frozenset(self._names)

    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        found = self._slice(name).get_dtype()
        if found not in DTYPES:
            raise ValueError(f"{self.path}: {name!r} has dtype {found}{nearest(found, DTYPES)}")
        return DTYPES[found]

    def metadata(self) -> dict[str, str]:
        return self._file.metadata() or {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._known:
            raise self.absent(name)
        return self._file.get_tensor(name)

    def _slice(self, name: str):  # safetensors does not export the class
        if name not in self._known:
            raise self.absent(name)
        return self._file.get_slice(name)


class TorchReader(StateReader):
    """torch.save's files, with weights_only: only tensors are ever unpickled. Zipped ones are mapped, not read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        mapped = zipfile.is_zipfile(self.path)
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
            if wanted and self._ends_in(wanted[1]):
                raise self._cut(error) from error
            raise ValueError(
                f"{self.path} is a pickle that needs {wanted[1] if wanted else 'more than tensors'}; "
                "only tensors are read, because a pickle can run any code: convert it to safetensors where you trust it"
            ) from error
        except (RuntimeError, EOFError, OSError, IndexError, struct.error) as error:
            raise self._cut(error) from error
        self.kind, state = self._unwrap(content)
        super().__init__(state, self.path)

    def _cut(self, error: Exception) -> ValueError:
        size = self.path.stat().st_size
        return ValueError(f"{self.path} ({size} bytes) is not a whole torch file, probably cut short: {error}")

    def _ends_in(self, name: str) -> bool:
        """The file stops inside this name, so it is no name but a piece of one; unpickling drops the last letter."""
        piece = name[:-1] if name.endswith(".") else "\n".join(name.rsplit(".", 1))
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - len(piece) - 2))
            return piece.encode() in file.read()

    def _unwrap(self, content: object) -> tuple[str, dict[str, Tensor]]:
        kind, beside = "torch file", []
        while isinstance(content, dict) and (
            inner := next((w for w in WRAPPERS if isinstance(content.get(w), dict)), None)
        ):
            beside += [str(key) for key in content if key != inner]
            kind, content = f"{kind}, under {inner!r}", content[inner]
        if not isinstance(content, dict):
            raise ValueError(f"{self.path} holds a {type(content).__name__}, expected a dict from names to tensors")
        odd = [f"{key!r} ({type(value).__name__})" for key, value in content.items() if not isinstance(value, Tensor)]
        if odd:
            raise ValueError(f"{self.path} holds {len(odd)} entries that are no tensors: {', '.join(odd[:5])}")
        return kind + (f" beside {', '.join(beside)}" if beside else ""), content


class ShardedReader(Reader):
    """Several files and a *.index.json that says which tensor is where; each is opened when first asked."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._files: dict[str, str] = json.loads(self.path.read_text("utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path} is not an index of shards; expected JSON with a 'weight_map' of names to files"
            ) from error
        files = sorted(set(self._files.values()))
        self.kind = f"{len(files)} shards"
        outside = [file for file in files if Path(file).name != file]
        if outside:
            raise ValueError(f"{self.path} names files outside its folder: {outside[:5]}")
        missing = [file for file in files if not (self.path.parent / file).exists()]
        if missing:
            raise FileNotFoundError(
                f"{self.path} names {len(files)} files, of which {len(missing)} are missing: {', '.join(missing[:5])}"
            )
        self._open: dict[str, Reader] = {}

    def names(self) -> list[str]:
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shard(name).shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._shard(name).dtype(name)

    def __getitem__(self, name: str) -> Tensor:
        return self._shard(name)[name]

    def _shard(self, name: str) -> Reader:
        if name not in self._files:
            raise self.absent(name)
        file = self._files[name]
        if file not in self._open:
            shard = open_weights(self.path.parent / file)
            promised = {key for key, where in self._files.items() if where == file}
            if promised != set(shard.names()):
                odd = sorted(promised ^ set(shard.names()))
                raise ValueError(f"{shard.path} and {self.path.name} disagree on {len(odd)} names: {odd[:5]}")
            self._open[file] = shard
        return self._open[file]
