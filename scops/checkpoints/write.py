"""Files that are whole or not there: written beside, flushed to the disk, then renamed over what was there before."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

SHARD_BYTES = 5_000_000_000


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write to; it takes the name only when the block ends well: readers see the old file or the new.

    Raises:
        OSError: the disk is full, or the folder may not be written to; what was there before stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def _flush(folder: Path) -> None:
    """A renamed file survives a power cut only when its folder has reached the disk, too."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_text(path: str | Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, "utf-8")


def save_json(path: str | Path, content: Any) -> None:
    save_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def save_tensors(path: str | Path, state: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """One safetensors file. Tied tensors are written once; the metadata entry `tied` names the others."""
    unique, tied = untied(state)
    notes = {"format": "pt"} | ({"tied": json.dumps(tied)} if tied else {}) | dict(metadata or {})
    with replacing(path) as beside:
        try:
            save_file(unique, beside, notes)
        except SafetensorError as error:
            raise OSError(f"{path} could not be written ({error}); what was there before is untouched") from error


def save_weights(
    folder: str | Path,
    state: Mapping[str, Tensor],
    *,
    name: str = "model",
    shard_bytes: int = SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """`name`.safetensors, or shards and an index above `shard_bytes`, as the Hub lays them out; returns the files.

    New shards never take an old shard's name: the index is the only thing replaced, and replacing it is the commit.
    """
    folder = Path(folder)
    unique, tied = untied(state)
    shards = list(_shards(unique, shard_bytes))
    index, single = folder / f"{name}.safetensors.index.json", folder / f"{name}.safetensors"
    before = [*folder.glob(f"{name}-*of-*.safetensors"), *folder.glob(f".{name}*.part"), single, index]
    if len(shards) == 1:
        save_tensors(single, state, metadata=metadata)
        written = [single]
    else:
        files = _free_names(folder, name, len(shards))
        for file, shard in zip(files, shards, strict=True):
            save_tensors(file, shard, metadata=metadata)
        places = {key: file.name for file, shard in zip(files, shards, strict=True) for key in shard}
        total = {"total_size": sum(map(_bytes, unique.values()))} | ({"tied": tied} if tied else {})
        save_json(index, {"metadata": total, "weight_map": places})
        written = [*files, index]
    for old in sorted(set(before) - set(written), key=lambda file: file != index):  # the old index first
        old.unlink(missing_ok=True)
    return written


def untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Contiguous tensors of which none shares memory with another, and {left out name: kept name} of equal ones."""
    unique: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[tuple, str] = {}
    storages: set[tuple] = set()
    for name, tensor in state.items():
        if tensor.device.type == "meta":
            raise ValueError(f"{name!r} is on the meta device and has no values to save")
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        place = (*storage, tensor.storage_offset(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in seen:
            tied[name] = seen[place]
            continue
        tensor = tensor.detach().contiguous()
        unique[name] = tensor.clone() if tensor.numel() and storage in storages else tensor
        seen[place] = name
        storages.add(storage)
    return unique, tied


def _shards(state: Mapping[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in state.items():
        if shard and size + _bytes(tensor) > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += _bytes(tensor)
    yield shard


def _free_names(folder: Path, name: str, count: int) -> list[Path]:
    """model-00001-of-00003.safetensors; model-2-00001-of-00003.safetensors where that is taken, and so on."""
    turn = 1
    while True:
        stem = name if turn == 1 else f"{name}-{turn}"
        files = [folder / f"{stem}-{at:05d}-of-{count:05d}.safetensors" for at in range(1, count + 1)]
        if not any(file.exists() for file in files):
            return files
        turn += 1


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
