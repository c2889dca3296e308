"""What a frozen encoder makes of each picture, made once: kept in memory, and on disk where a folder is given."""

# M media items, I prepared pictures, P features per picture, D width
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scops.checkpoints.write import replacing
from scops.core.batch import Batch, Example, Tiles
from scops.core.layout import Place
from scops.core.system import Decoder

SHARD = 256
"""Pictures per file."""
GROUP, GROUP_CPU = 64, 4
"""Pictures encoded at once."""


@dataclass(frozen=True, eq=False)
class Item:
    """The pictures (I, C, height, width) of one item, which an encoder may have to see together, and their places."""

    kind: str
    pictures: np.ndarray
    places: tuple[Place, ...]


class Features:
    """Features by kind and content digest; a picture's digest covers its pixels and their preparation.

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

    def knows(self, example: Example) -> bool:
        """Whether nothing of the example's pictures is needed any more."""
        return all(_key(kind, digest) in self for kind, digests in example.digests.items() for digest in digests)

    def __contains__(self, key: str) -> bool:
        return key in self.memory or key in self.pending or key in self.shards

    def kept(self, kind: str, digest: str) -> Tensor | None:
        """(P, D) of one picture, or None where it was never encoded."""
        key = _key(kind, digest)
        return self._get(key, torch.device("cpu")) if key in self else None

    def of(
        self, system: Decoder, batch: Batch, examples: Sequence[Example], *, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """By kind (M, P, D), the features of a batch that was made of these examples.

        Args:
            dtype: in which the encoder takes pictures.
        """
        device = batch.ids_BT.device
        items = {
            keys: item for example in examples for keys, item in _items(example) if not all(key in self for key in keys)
        }
        fresh = self._encode(system, batch, items, dtype)
        found: dict[str, Tensor] = {}
        for kind, digests in batch.digests.items():
            keys = [_key(kind, digest) for digest in digests]
            found[kind] = torch.stack([fresh[key] if key in fresh else self._get(key, device) for key in keys])
        return found

    def flush(self) -> None:
        """Write what is not on disk yet."""
        if not self.folder or not self.pending:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob("features-*.safetensors")))
        path = self.folder / f"features-{number:05d}-{os.getpid()}.safetensors"  # other processes write here too
        with replacing(path) as beside:
            save_file({key: f.contiguous() for key, f in self.pending.items()}, beside)
        self.pending = {}
        self._open(path)

    def _encode(
        self, system: Decoder, batch: Batch, items: Mapping[tuple[str, ...], Item], dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """In groups of one size, always full, by which kernels are chosen; a place in the group may still matter in the last bit.

        Args:
            items: by the keys of their pictures.
        """
        device = batch.ids_BT.device
        at_once = GROUP_CPU if device.type == "cpu" else GROUP
        fresh: dict[str, Tensor] = {}
        by_shape: dict[tuple[str, tuple[int, ...]], list[tuple[str, ...]]] = {}
        for keys, item in items.items():
            by_shape.setdefault((item.kind, item.pictures.shape), []).append(keys)
        for (kind, (count, *_)), alike in by_shape.items():
            size = max(at_once // count, 1)
            for first in range(0, len(alike), size):
                group = alike[first : first + size]
                full = group + group[:1] * (size - len(group))
                media = torch.from_numpy(np.concatenate([items[keys].pictures for keys in full])).to(device, dtype)
                tiles = Tiles.of([items[keys].places for keys in full], device)
                together = replace(batch, tiles={kind: tiles}, media={kind: media}, features={})
                with torch.no_grad():
                    made_IPD = system.encode(together)[kind]
                wanted = [key for keys in group for key in keys]
                fresh |= {key: made_IPD[at].clone() for at, key in enumerate(wanted)}
        for key, feature in fresh.items():
            self._remember(key, feature)
            if self.folder:
                self.pending[key] = feature.cpu()
        if len(self.pending) >= SHARD:
            self.flush()
        return fresh

    def _remember(self, key: str, feature: Tensor) -> None:
        size = feature.numel() * feature.element_size()
        if key not in self.memory and self.bytes + size <= self.budget:
            self.memory[key] = feature
            self.bytes += size

    def _get(self, key: str, device: torch.device) -> Tensor:
        if key not in self.memory:
            kept = self.pending[key] if key in self.pending else self.shards[key].get_tensor(key)
            feature = kept.to(device)
            self._remember(key, feature)
            return feature
        return self.memory[key]

    def _open(self, path: Path) -> None:
        try:
            file = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it, its pictures will be encoded again") from error
        self.shards |= dict.fromkeys(file.keys(), file)


def _items(example: Example) -> Iterator[tuple[tuple[str, ...], Item]]:
    """Items that bring pictures, in reading order, by the keys of these."""
    for span, here in example.items():
        pictures = example.media.get(span.kind, ())[here]
        if pictures:
            keys = tuple(_key(span.kind, digest) for digest in example.digests[span.kind][here])
            yield keys, Item(span.kind, np.stack(pictures), span.places)


def _key(kind: str, digest: str) -> str:
    """Two kinds may prepare a picture alike and still have encoders of their own."""
    return f"{kind}:{digest}"


def open_features(kind: str, folder: Path, *, fingerprint: str, gigabytes: float) -> Features | None:
    """As a run asks for it: "off", "memory" or "disk"."""
    if kind == "off":
        return None
    place = folder / fingerprint[:16] if kind == "disk" else None
    if place:
        place.mkdir(parents=True, exist_ok=True)
        (place / "made_by.json").write_text(json.dumps({"encoder": fingerprint}))
    return Features(folder=place, budget=int(gigabytes * 2**30))
