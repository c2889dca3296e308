"""What a checkpoint must hold of a run, and whether a run may go on from one."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scops.core.names import nearest
from scops.objectives.processes import place
from scops.train import checkpoint
from scops.train.checkpoint import Checkpoint
from scops.train.run import Run

FREE = (
    "output_dir", "device", "save_steps", "save_total_limit", "logging_steps", "eval_steps", "eval_samples",
    "eval_data", "dataloader_num_workers", "feature_cache", "feature_cache_dir", "feature_cache_gb", "max_bad_share",
    "gradient_checkpointing", "profile",
)  # fmt: skip
"""Words of a run that may change between a checkpoint and its resume: they move no number."""
SHOWN = 5


def resumed(run: Run, folder: Path, *, allowed: bool) -> Checkpoint | None:
    """The latest checkpoint, after the run has been laid beside it."""
    found = checkpoint.latest(folder)
    if found and not allowed:
        raise ValueError(f"{folder} has checkpoints ({found.name}); resume, or choose another output_dir")
    settle_folder(run, folder, found)
    if place()[0] == 0:
        folder.mkdir(parents=True, exist_ok=True)
        run.save(folder / "run.yaml")
    return checkpoint.read(found) if found else None


def settle_folder(run: Run, folder: Path, found: Path | None) -> None:
    """Refuse to go on from a checkpoint that another run made.

    The length of a stage may change: its schedule then follows the new length from the step it stands at.
    """
    if not found:
        return
    old, new = (_fixed(r) for r in (Run.load(found / "run.yaml"), run))
    changed = list(_changes(old, new))
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise ValueError(
            f"{found} is of another run: {'; '.join(changed[:SHOWN])}{more}. "
            "Go on with the old values, or choose another output_dir"
        )


def _fixed(run: Run) -> dict[str, Any]:
    """The words of a run that a resume must find as they were."""
    stages = [stage.model_dump(exclude={"max_steps"}) for stage in run.staged()]
    return run.model_dump(exclude=set(FREE)) | {"stages": stages}


def _changes(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """One sentence per value that differs, down to the single word of a stage or data set."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _changes(old.get(key), new.get(key), f"{path}.{key}".removeprefix("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _changes(*pair, f"{path}.{number}")
    elif old != new:
        yield f"{path} was {old!r} and is {new!r}"


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by path."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def moving_buffers(module: nn.Module) -> set[str]:
    """Buffers that training may move (running statistics): of modules in training mode, if they are saved at all."""
    saved = module.state_dict(keep_vars=True)
    found = {
        f"{path}.{name}".removeprefix(".")
        for path, part in module.named_modules()
        if part.training
        for name, _ in part.named_buffers(recurse=False)
    }
    return found & set(saved)


def restore(module: nn.Module, weights: Mapping[str, Tensor], touched: set[str]) -> None:
    """Put weights back.

    Args:
        touched: all that the stages so far have trained; a checkpoint holds exactly these.
    """
    for path in sorted(touched ^ set(weights)):
        word, others = ("lacks", set(weights)) if path in touched else ("has", touched)
        raise ValueError(
            f"the checkpoint {word} {path}; the system or its stages have changed since{nearest(path, others)}"
        )
    places = tensors(module)
    with torch.no_grad():
        for path, tensor in weights.items():
            places[path].copy_(tensor)


def differing(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The roles whose fingerprints are not what they were, for an error; "" when all are."""
    return ", ".join(role for role, word in now.items() if before.get(role) != word)
