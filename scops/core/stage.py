"""A stage of training: what learns, from what, how. Everything not named is frozen and in evaluation mode."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685) on the projections that the globs name: W + alpha / rank * B A."""

    targets: tuple[str, ...]
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One stage of a published recipe.

    Args:
        train: parameter-path globs; a glob that matches nothing is an error. LoRA's own parameters always train.
        data: names of the data sets, as the run gives them.
        objective: a name of scops.objectives.
        steps: optimiser steps; batch: examples per step over all devices.
        template: of Layout.templates, how this stage's rows are written; "" as the system answers.
        lr_of: globs with a learning rate of their own.
        rows: by glob, the only rows of those matrices that learn, from the end where negative; they are not decayed.
        warmup: steps of linear warm-up, then `schedule` ("cosine", "linear" or "constant") down to min_lr.
        overrides: changes to the system's sizes from this stage on, nested as the fields of its Spec are, that weights outlive:
            the side of pictures in pixels (learned positions follow its grid), how they are cut.
        source: where the numbers come from (paper table, repository script).
    """

    name: str
    train: tuple[str, ...]
    data: tuple[str, ...]
    objective: str = "next_token"
    lora: Lora | None = None
    steps: int = 1000
    batch: int = 256
    template: str = ""
    lr: float = 1e-4
    lr_of: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    min_lr: float = 0.0
    warmup: int = 0
    schedule: str = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = 1.0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
