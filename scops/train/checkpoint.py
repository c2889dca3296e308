"""Checkpoints: folders that are either whole or not there. All that training needs to go on bit by bit; no pickle.

A folder is written under another name beside, flushed to disk and renamed, so that a kill or a full disk leaves the one
before untouched.
"""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands.

    Args:
        weights: all that any stage so far has trained, by path; the rest comes from named sources or the seed.
        optimiser: by path|name.
        state: plain data: step, stage, data position, random generators, fingerprints of what is frozen.
    """

    weights: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    state: Mapping[str, Any]


def write(folder: Path, found: Checkpoint, *, run: Callable[[Path], None], limit: int) -> Path:
    """Write folder/checkpoint-N, then remove the oldest beyond the limit.

    Args:
        run: writes the run itself to the path it is given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"checkpoint-{found.state['step']}"
    if final not in complete(folder):  # written again after a resume: the same, bit by bit
        replace_folder(final, lambda beside: _fill(beside, found, run))
    for old in complete(folder)[:-limit]:
        shutil.rmtree(old)
    return final


def replace_folder(final: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside, flush it to disk, and put it in the place of `final`, whatever stands there."""
    for rest in final.parent.glob(f"{final.name}.tmp-*"):
        shutil.rmtree(rest, ignore_errors=True)
    beside = final.with_name(f"{final.name}.tmp-{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        fill(beside)
        for path in [*beside.rglob("*"), beside]:
            flush_to_disk(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    if final.exists():
        old = final.with_name(f"{final.name}.tmp-old")
        final.rename(old)
        beside.rename(final)
        shutil.rmtree(old)
    else:
        beside.rename(final)
    flush_to_disk(final.parent)


def complete(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = [p for p in folder.glob("checkpoint-*") if _NAME.fullmatch(p.name) and (p / "state.json").is_file()]
    return sorted(found, key=lambda p: int(p.name.partition("-")[2]))


def latest(folder: Path) -> Path | None:
    return next(reversed(complete(folder)), None)


def read(path: Path) -> Checkpoint:
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state["format"] != FORMAT:
        raise ValueError(f"{path} is of format {state['format']}, this version reads {FORMAT}")
    return Checkpoint(load_file(path / "weights.safetensors"), load_file(path / "optimizer.safetensors"), state)


def random_state() -> dict[str, Any]:
    """All generators that training may ask: python, numpy, torch, and each CUDA device."""
    numpy = np.random.get_state(legacy=False)
    version, words, following = random.getstate()
    return {
        "python": [version, list(words), following],
        "numpy": {**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].tolist()}},
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
        "cuda": [bytes(s.tolist()).hex() for s in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
    }


def restore_random(state: Mapping[str, Any]) -> None:
    version, words, following = state["python"]
    random.setstate((version, tuple(words), following))
    inner = state["numpy"]["state"]
    np.random.set_state({**state["numpy"], "state": {**inner, "key": np.array(inner["key"], np.uint32)}})
    torch.set_rng_state(_bytes(state["torch"]))
    for device, words in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_bytes(words), device)


def _fill(beside: Path, found: Checkpoint, run: Callable[[Path], None]) -> None:
    save_file(_plain(found.weights), beside / "weights.safetensors")
    save_file(_plain(found.optimiser), beside / "optimizer.safetensors")
    run(beside / "run.yaml")
    state = {"format": FORMAT, **found.state}
    (beside / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _bytes(words: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(words), dtype=torch.uint8)


def flush_to_disk(path: Path) -> None:
    """A file or folder, so that it outlives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
