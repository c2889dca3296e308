"""What torch's compiler is to leave as it is: loops over sizes that differ by batch."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

_CHOSEN: list[tuple[list[Callable[..., Any]], Callable[..., Any]]] = []


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; after `leave_out` it is called, not traced, in whatever torch compiles."""
    chosen = [function]
    _CHOSEN.append((chosen, function))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return chosen[0](*args, **kwargs)

    return call


def leave_out() -> None:
    """To be called before anything is compiled. It is apart because torch.compiler.disable loads the compiler (seconds)."""
    for chosen, function in _CHOSEN:
        chosen[0] = torch.compiler.disable(function)
