"""A bridge: what was trained between published parts (connector, adapters), small enough to be shipped beside the code.

bridge.safetensors holds our own paths; bridge.json says which size it belongs to, its adapters, and how it was made.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scops.checkpoints.write import save_json, save_tensors
from scops.core.stage import Lora
from scops.nn.lora import LoRA

HOME = Path(__file__).parents[1] / "bridges"
WEIGHTS, NOTES = "bridge.safetensors", "bridge.json"


def shipped(name: str | None) -> Path | None:
    """The folder of a bridge that came with scops."""
    folder = HOME / name if name else None
    return folder if folder is not None and (folder / WEIGHTS).is_file() and (folder / NOTES).is_file() else None


def read_notes(folder: Path) -> dict[str, Any]:
    return json.loads((folder / NOTES).read_text("utf-8"))


def adapters_of(notes: Mapping[str, Any]) -> tuple[Lora, ...]:
    return tuple(adapter_group(group) for group in notes.get("lora", ()))


def adapter_group(kept: Mapping[str, Any]) -> Lora:
    """From what dataclasses.asdict and JSON made of it."""
    return Lora(tuple(kept["targets"]), kept["rank"], kept["alpha"], kept["dropout"])


def write_bridge(
    folder: Path,
    module: nn.Module,
    *,
    size: str,
    parts: tuple[str, ...],
    dtype: torch.dtype = torch.bfloat16,
    about: Mapping[str, Any] | None = None,
) -> None:
    """The parts' weights and all adapters.

    Args:
        parts: paths of modules that no published file fills ("image.connector").
        dtype: in which they are kept; they are used in float32.
        about: recipe, seed, numbers; kept as they are.
    """
    state: dict[str, Tensor] = {}
    for path, tensor in module.state_dict().items():
        inside = any(path == part or path.startswith(f"{part}.") for part in parts)
        if inside or path.endswith((".lora_a", ".lora_b")):
            state[path] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    notes = {"size": size, "parts": list(parts), "lora": [asdict(group) for group in adapters_in(module)]}
    save_tensors(folder / WEIGHTS, state)
    save_json(folder / NOTES, {**notes, "about": dict(about or {})})


def adapters_in(module: nn.Module) -> tuple[Lora, ...]:
    """The adapters that a module has, grouped by their numbers, with exact paths."""
    groups: dict[tuple[int, float, float], list[str]] = {}
    for path, part in module.named_modules():
        if isinstance(part, LoRA):
            groups.setdefault((part.rank, part.alpha, part.dropout.p), []).append(path)
    return tuple(Lora(tuple(paths), *numbers) for numbers, paths in groups.items())
