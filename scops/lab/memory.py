"""How many bytes of tensors are alive at once: the same on every run, unlike what a process takes from the system."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Watch(TorchDispatchMode):
    """Counts every storage from the operator that makes it until nothing holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}  # meta tensors have no address
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            if storage._cdata in given or id(storage) in self.alive:
                continue  # a view, or written in place
            self.alive[id(storage)] = storage.nbytes()
            weakref.finalize(storage, self._gone, id(storage))
            self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        return made

    def _gone(self, key: int) -> None:
        self.now -= self.alive.pop(key)


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most bytes of tensors that the call makes and holds at one moment, its result included.

    What operators use inside themselves is not seen, nor what was there before.
    """
    with _Watch() as watch:
        call()
    return watch.most


def kept_bytes(call: Callable[[], Any]) -> int:
    """The bytes of tensors that the call makes and that its result holds."""
    with _Watch() as watch:
        made = call()
        gc.collect()
        now = watch.now
    del made
    return now


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
