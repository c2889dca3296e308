"""A short word for the exact content of many tensors, made where they are: what is frozen must never change it."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scops.train.stage import role_of

_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and, per tensor, the 64-bit sum of its bits read as integers; one wait for the device."""
    if not tensors:
        return hashlib.sha256().hexdigest()
    sums = [_bits(t).sum(dtype=torch.int64) for t in tensors.values()]
    found = torch.stack([s.to(sums[0].device) for s in sums]).tolist()
    words = [f"{n} {t.dtype} {tuple(t.shape)} {s}" for (n, t), s in zip(tensors.items(), found, strict=True)]
    return hashlib.sha256("\n".join(sorted(words)).encode()).hexdigest()


def fingerprints(module: nn.Module, roles: list[str]) -> dict[str, str]:
    """By role, over its parameters and buffers."""
    found: dict[str, dict[str, Tensor]] = {role: {} for role in roles}
    for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if role_of(path) in found:
            found[role_of(path)][path] = tensor.detach()
    return {role: fingerprint(tensors) for role, tensors in found.items()}


def _bits(tensor: Tensor) -> Tensor:
    return (
        tensor.detach().contiguous().view(torch.uint8 if tensor.dtype == torch.bool else _WHOLE[tensor.element_size()])
    )
