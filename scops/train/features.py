"""What a frozen encoder makes of each picture, made once: kept in memory, and on disk where a folder is given."""

# M media items, P features per item, D width
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from scops.core.batch import Batch, Example
from scops.core.system import Decoder

SHARD = 256
"""Pictures per file."""


class Features:
    """Features by content digest; a picture's digest covers its pixels and their preparation.

    Args:
        folder: one per encoder (named by its fingerprint); None keeps memory only.
        budget: bytes in memory; beyond it pictures are read from disk, or encoded again where there is no disk.
    """

    def __init__(self, *, folder: Path | None, budget: int) -> None:
        self.folder, self.budget, self.bytes = folder, budget, 0
        self.memory: dict[str, Tensor] = {}
        self.pending: dict[str, Tensor] = {}
        self.shards: dict[str, Any] = {}
        for path in sorted(folder.glob("features-*.safetensors")) if folder and folder.is_dir() else ():
            self._open(path)

    def __contains__(self, digest: str) -> bool:
        return digest in self.memory or digest in self.pending or digest in self.shards

    def of(
        self, system: Decoder, batch: Batch, examples: Sequence[Example], *, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """By kind (M, P, D), the features of a batch that was made of these examples.

        Args:
            dtype: in which the encoder takes pictures.
        """
        pictures = {
            digest: (kind, picture)
            for example in examples
            for kind, made in example.media.items()
            for digest, picture in zip(example.digests[kind], made, strict=True)
            if digest not in self
        }
        fresh = self._encode(system, batch, pictures, dtype)
        found: dict[str, Tensor] = {}
        for kind, digests in batch.digests.items():
            features = [fresh[digest] if digest in fresh else self._get(digest) for digest in digests]
            if features:
                found[kind] = torch.stack([f.to(batch.ids_BT.device) for f in features])
        return found

    def flush(self) -> None:
        """Write what is not on disk yet."""
        if not self.folder or not self.pending:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"features-{len(list(self.folder.glob('features-*.safetensors'))):05d}.safetensors"
        beside = path.with_suffix(f".tmp-{os.getpid()}")
        save_file({digest: f.contiguous() for digest, f in self.pending.items()}, beside)
        beside.rename(path)
        for digest, feature in self.pending.items():
            self._remember(digest, feature)
        self.pending = {}
        self._open(path)

    def _encode(
        self, system: Decoder, batch: Batch, pictures: Mapping[str, tuple[str, Any]], dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """One by one on the CPU, so that a picture's features never depend on its neighbours; in groups elsewhere."""
        device = batch.ids_BT.device
        at_once = 1 if device.type == "cpu" else 64
        fresh: dict[str, Tensor] = {}
        by_shape: dict[tuple[str, tuple[int, ...]], list[str]] = {}
        for digest, (kind, picture) in pictures.items():
            by_shape.setdefault((kind, picture.shape), []).append(digest)
        for (kind, _), digests in by_shape.items():
            for first in range(0, len(digests), at_once):
                group = digests[first : first + at_once]
                media = torch.stack([torch.from_numpy(pictures[digest][1]) for digest in group]).to(device, dtype)
                with torch.no_grad():
                    made_MPD = system.encode(replace(batch, media={kind: media}, features={}))[kind]
                fresh |= dict(zip(group, made_MPD, strict=True))
        for digest, feature in fresh.items():
            self._keep(digest, feature.clone())
        return fresh

    def _keep(self, digest: str, feature: Tensor) -> None:
        if self.folder:
            self.pending[digest] = feature.cpu()
            if len(self.pending) >= SHARD:
                self.flush()
        else:
            self._remember(digest, feature)

    def _remember(self, digest: str, feature: Tensor) -> None:
        size = feature.numel() * feature.element_size()
        if self.bytes + size <= self.budget:
            self.memory[digest] = feature
            self.bytes += size

    def _get(self, digest: str) -> Tensor:
        for store in (self.memory, self.pending):
            if digest in store:
                return store[digest]
        return self.shards[digest].get_tensor(digest)

    def _open(self, path: Path) -> None:
        file = safe_open(path, framework="pt")
        self.shards |= dict.fromkeys(file.keys(), file)


def open_features(kind: str, folder: Path, *, fingerprint: str, gigabytes: float) -> Features | None:
    """As a run asks for it: "off", "memory" or "disk"."""
    if kind == "off":
        return None
    place = folder / fingerprint[:16] if kind == "disk" else None
    if place:
        place.mkdir(parents=True, exist_ok=True)
        (place / "made_by.json").write_text(json.dumps({"encoder": fingerprint}))
    return Features(folder=place, budget=int(gigabytes * 2**30))
