"""Examples -> micro-batches on the device; a frozen encoder sees each picture once."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from scops.core.batch import Batch, Example
from scops.data.collate import pack, pad
from scops.train.features import Features, open_features
from scops.train.fingerprint import fingerprint
from scops.train.run import Plan, Run

Row = tuple[str, int]
"""Data set and number."""

KEPT = 500_000
"""Examples without pictures that are kept at most; a few hundred bytes each."""


class Batcher:
    """Makes the batches of a run.

    Args:
        kept: examples whose pictures' features are known, so that their rows need not be read again.
    """

    def __init__(self, run: Run, module: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        self.run, self.module, self.device, self.dtype = run, module, device, dtype
        self.features: Features | None = None
        self.encoder = self.template = ""
        self.kept: dict[Row, Example] = {}

    def change(self, module: Any) -> None:
        """Another module takes the place of the one so far; pictures may be prepared in another way."""
        self.module = module
        self.kept.clear()

    def enter(self, template: str = "") -> None:
        """A stage begins: open the store for the encoders as they are now; none when one of them learns.

        Args:
            template: by which the stage's rows are written; what another has written is not kept.
        """
        if template != self.template:
            self.template = template
            self.kept.clear()
        parameters = {p: t for p, t in self.module.named_parameters() if _of_encoder(p)}
        buffers = {p: t for p, t in self.module.named_buffers() if _of_encoder(p)}
        frozen = bool(parameters) and not any(p.requires_grad for p in parameters.values())
        encoder = fingerprint(parameters | buffers) if frozen else ""
        if encoder == self.encoder:
            return
        self.encoder, self.features = encoder, None
        self.kept.clear()
        if encoder:
            folder = Path(self.run.feature_cache_dir or Path(self.run.output_dir) / "features")
            self.features = open_features(
                self.run.feature_cache, folder, fingerprint=encoder, gigabytes=self.run.feature_cache_gb
            )

    def micro(self, plan: Plan, examples: Sequence[Example]) -> list[Batch]:
        """As many batches as the plan accumulates over, or fewer where there are not enough examples."""
        size = -(-len(examples) // plan.accumulation)
        return [self.one(plan, examples[at : at + size]) for at in range(0, len(examples), size)]

    def keep(self, rows: Sequence[tuple[Row, Example]]) -> None:
        """Remember the examples of which everything is known without their pictures."""
        if (features := self.features) is None:
            return
        for row, example in rows:
            if len(self.kept) < KEPT and row not in self.kept and features.knows(example):
                self.kept[row] = replace(example, media={})

    def flush(self) -> None:
        if self.features is not None:
            self.features.flush()

    def one(self, plan: Plan, examples: Sequence[Example]) -> Batch:
        """A single batch."""
        features = self.features
        whole = [replace(example, media={}) for example in examples] if features is not None else examples
        batch = pack(whole, capacity=plan.packing, pad_id=0) if plan.packing else pad(whole, pad_id=0)
        batch = batch.to(self.device)
        if features is not None:
            return replace(batch, features=features.of(self.module, batch, examples, dtype=self.dtype))
        return replace(batch, media={kind: media.to(self.dtype) for kind, media in batch.media.items()})


def _of_encoder(path: str) -> bool:
    return path.split(".")[1:2] == ["encoder"]
