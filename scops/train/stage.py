"""Entering a stage: adapters are added, exactly what is named learns, everything else is frozen and in eval mode."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType

import torch
from torch import Tensor, nn

from scops.core.glob import covered
from scops.core.stage import Stage
from scops.nn import lora

PARTS = ("encoder", "connector", "generator")
"""Second pieces of a path that make a role of their own."""
HELD = "_rows_held"
"""Where a parameter keeps the handle of what holds its other rows."""


@dataclass(frozen=True)
class RoleRow:
    """What one role does in a stage; a role is e.g. image.encoder, image.connector or language."""

    role: str
    parameters: int
    trainable: int
    lora: int
    lrs: tuple[float, ...]
    decay: float


def enter(module: nn.Module, stage: Stage) -> dict[str, nn.Parameter]:
    """Add the stage's adapters, freeze all that it does not name, set modes; returns what trains, by path.

    Modes stay with the module: later `.train()` calls leave the frozen parts in eval mode.

    Raises:
        ValueError: a glob of the stage that covers nothing.
    """
    wrapped = lora.add(module, stage.lora) if stage.lora else []
    parameters = dict(module.named_parameters())
    own = {f"{path}.{name}" for path in wrapped for name in ("lora_a", "lora_b")}
    named = set(covered(stage.train, parameters, f"stage {stage.name!r} trains")) | own
    for path, parameter in parameters.items():
        parameter.requires_grad_(path in named)
    if not named:
        raise ValueError(f"stage {stage.name!r} trains nothing")
    _keep_rows(parameters, stage)
    _settle_modes(module)
    return {path: p for path, p in parameters.items() if p.requires_grad}


def rows_of(stage: Stage, paths: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """By path, the only rows that learn, if the matrix does.

    Args:
        paths: of all parameters.
    Raises:
        ValueError: a glob that covers none of them.
    """
    paths = list(paths)
    return {
        path: tuple(rows)
        for glob, rows in stage.rows.items()
        for path in covered((glob,), paths, f"stage {stage.name!r} trains rows of")
    }


def _keep_rows(parameters: Mapping[str, nn.Parameter], stage: Stage) -> None:
    """Gradients of all other rows are none, whatever the loss; rows held by an earlier stage are let go."""
    for parameter in parameters.values():
        held = parameter.__dict__.pop(HELD, None)
        if held is not None:
            held.remove()
    for path, rows in rows_of(stage, parameters).items():
        if parameters[path].requires_grad:
            kept_R1 = torch.zeros(len(parameters[path]), 1)
            kept_R1[list(rows)] = 1
            parameters[path].__dict__[HELD] = parameters[path].register_hook(_Only(kept_R1))


class _Only:
    """grad -> grad of some rows alone."""

    def __init__(self, kept_R1: Tensor) -> None:
        self.kept_R1 = kept_R1

    def __call__(self, grad: Tensor) -> Tensor:
        return grad * self.kept_R1.to(grad)


def role_of(path: str) -> str:
    first, second, *_ = [*path.split("."), ""]
    return f"{first}.{second}" if second in PARTS else first


def table(module: nn.Module, stage: Stage, lrs: Mapping[str, float], decays: Mapping[str, float]) -> list[RoleRow]:
    """One row per role.

    Args:
        lrs, decays: of each trainable parameter, by path.
    """
    roles: dict[str, dict[str, nn.Parameter]] = {}
    for path, parameter in module.named_parameters():
        roles.setdefault(role_of(path), {})[path] = parameter
    return [
        RoleRow(
            role=role,
            parameters=sum(p.numel() for p in found.values()),
            trainable=sum(p.numel() for p in found.values() if p.requires_grad),
            lora=sum(p.numel() for path, p in found.items() if path.endswith((".lora_a", ".lora_b"))),
            lrs=tuple(sorted({lrs[path] for path in found if path in lrs})),
            decay=max((decays[path] for path in found if path in decays), default=0.0),
        )
        for role, found in roles.items()
    ]


def frozen_roles(module: nn.Module) -> list[str]:
    """Roles of which nothing trains."""
    roles: dict[str, bool] = {}
    for path, parameter in module.named_parameters():
        roles[role_of(path)] = roles.get(role_of(path), False) or parameter.requires_grad
    return [role for role, trains in roles.items() if not trains]


def _settle_modes(module: nn.Module) -> None:
    for part in module.modules():
        part.__dict__.pop("train", None)
        part.training = True
    for part in _frozen(module):
        part.eval()
        part.train = MethodType(_stay, part)  # on the object, so that it outlives our loop and survives a deep copy


def _frozen(module: nn.Module) -> Sequence[nn.Module]:
    """The outermost modules that have parameters and train none. One without parameters does as its parent does."""
    found: list[nn.Module] = []
    for child in module.children():
        parameters = list(child.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            found.append(child)
        else:
            found.extend(_frozen(child))
    return found


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """In place of a frozen module's `train`."""
    return module
