"""Shadow weights: a running mean of what learns, kept in an objective's state (MoCo, arXiv 1911.05722, section 3.2)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from scops.core.glob import covers

PREFIX = "shadow|"


def shadow(system: Any, state: dict[str, Tensor], *, momentum: float, globs: tuple[str, ...]) -> dict[str, Tensor]:
    """The shadow weights by path, in the dtype of what they follow; they start as it is, and are kept in float32.

    They move at every call with gradients and stand still without, so that looking at held-out rows changes nothing. What
    does not learn is its own shadow and not among them.
    """
    learns = {
        path: parameter
        for path, parameter in system.named_parameters()
        if parameter.requires_grad and any(covers(glob, path) for glob in globs)
    }
    if torch.is_grad_enabled():
        for path, parameter in learns.items():
            now = parameter.detach().float()
            if PREFIX + path in state:
                state[PREFIX + path].lerp_(now, 1 - momentum)
            else:
                state[PREFIX + path] = now.clone()
    return {path: state[PREFIX + path].to(p.dtype) for path, p in learns.items() if PREFIX + path in state}


@torch.no_grad()
def asked(system: Any, weights: dict[str, Tensor], method: str, *args: Any) -> Any:
    """What a method of the system says with these weights in place of its own."""
    return functional_call(_Asked(system, method), {f"system.{path}": w for path, w in weights.items()}, args)


class _Asked(nn.Module):
    def __init__(self, system: Any, method: str):
        super().__init__()
        self.system, self.method = system, method

    def forward(self, *args: Any) -> Any:
        return getattr(self.system, self.method)(*args)
