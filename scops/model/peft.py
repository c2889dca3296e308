"""A folder that PEFT wrote: adapters of a model that stands elsewhere."""

import json
from pathlib import Path

import torch

from scops.checkpoints.adapter import CONFIG, read_adapter
from scops.core.stage import Lora
from scops.model.model import Model
from scops.nn import lora
from scops.systems import module_of


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The model that the adapters belong to, as its maker named it: a path or a hub id.

    Raises:
        ValueError: the folder does not say.
    """
    base = json.loads((folder / CONFIG).read_text("utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"{folder / CONFIG} has no base_model_name_or_path; write there which model the adapters belong to"
        )
    return base


def put_on(model: Model, folder: Path) -> Model:
    """The base model with the folder's adapters on it, in place.

    Raises:
        ValueError: the adapters are on projections that the base does not have, or has in other sizes.
    """
    layouts = module_of(model.system).KEYS
    if not layouts:
        raise ValueError(f"{folder} names projections as published, but {model.system} has no published layout")
    adapter = read_adapter(folder, next(iter(layouts.values()))(model.spec))
    lora.add(model.module, Lora(tuple(adapter.weights), adapter.rank, adapter.alpha, adapter.dropout))
    for path, ours in lora.adapters(model.module).items():
        for mine, given, name in zip(ours, adapter.weights[path], "AB", strict=True):
            if mine.shape != given.shape:
                raise ValueError(
                    f"{folder}: {name} of {path!r} is {tuple(given.shape)}, expected {tuple(mine.shape)} for {model.origin}"
                )
            with torch.no_grad():
                mine.copy_(given)
    model.module.eval()
    model.origin += f" with the adapters of {folder}"
    return model
