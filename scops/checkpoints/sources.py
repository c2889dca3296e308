"""A module filled from ordered sources: every parameter comes from exactly one, or is declared fresh."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType

import torch
from torch import Tensor, nn

from scops.checkpoints.keymap import KeyMap, unchanged
from scops.checkpoints.read import open_weights
from scops.checkpoints.reader import MappedReader, Reader, StateReader
from scops.core.glob import covered, covers
from scops.core.names import nearest

SHOWN = 5
FRESH = "fresh"


@dataclass(frozen=True)
class Source:
    """Weights and how they are named.

    Args:
        weights: an open reader, a state dict, or a path to open.
        keys: from the published names to ours; None when they are ours already.
        under: the path of the part they fill; empty for the whole module.
        select: globs of published names to read; empty for all of them.
        replaces: globs of our paths that an earlier source gave and this one gives anew.
    """

    weights: Reader | Mapping[str, Tensor] | str | Path
    keys: KeyMap | None = None
    under: str = ""
    select: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()

    def open(self) -> MappedReader:
        """The selected weights under our paths."""
        if isinstance(self.weights, str | Path):
            reader = open_weights(self.weights)
        else:
            reader = self.weights if isinstance(self.weights, Reader) else StateReader(self.weights)
        names = reader.names()
        if self.select:
            names = covered(self.select, names, f"{reader.path} is asked for")
        keys = unchanged(names) if self.keys is None else self.keys
        return MappedReader(reader, keys.under(ours=self.under.rstrip(".") + ".") if self.under else keys, names)


def assemble(
    module: nn.Module,
    sources: Sequence[Source],
    *,
    fresh: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, str]:
    """Fill the module, one tensor at a time; nothing is touched before all names and shapes fit.

    Args:
        fresh: globs of paths that keep their initial values; on the meta device `reset_parameters` makes them.
        dtype: of floating-point tensors; None keeps what the module has.
        device: where parts go that stand on the meta device; others stay where they are.
    Returns:
        For every path, the file it came from, or "fresh".
    Raises:
        ValueError: a path given by nobody or by two, a name or shape that does not fit, a glob that covers nothing.
    """
    slots = Slots(module)
    readers = [source.open() for source in sources]
    plan = _plan(slots, sources, readers)
    kept = set(slots.canonical(covered(fresh, slots.paths, "assemble keeps fresh"))) if fresh else set()
    _check_complete(slots, plan, kept, readers)
    slots.reset(kept, device)
    for path, (reader, name) in plan.items():
        slots.fill(path, reader[name], dtype, device)
    slots.check_filled()
    return {path: FRESH if path in kept else str(plan[path][0].path) for path in slots.tensors}


Plan = dict[str, tuple[MappedReader, str]]


def _plan(slots: "Slots", sources: Sequence[Source], readers: Sequence[MappedReader]) -> Plan:
    plan: Plan = {}
    wrong: list[str] = []
    for source, reader in zip(sources, readers, strict=True):
        if source.replaces:
            covered(source.replaces, reader.names(), f"{reader.path} replaces")
        for name in reader.names():
            if name not in slots.alias:
                raise ValueError(f"{reader.path} gives {name!r}, which the module has not{nearest(name, slots.paths)}")
            path = slots.alias[name]
            if path in plan and not any(covers(glob, name) for glob in source.replaces):
                first = plan[path][0].path
                raise ValueError(
                    f"{name!r} is given twice, by {first} and by {reader.path}, which does not say that it replaces it"
                )
            theirs, ours = reader.shape(name), tuple(slots.tensors[path].shape)
            if theirs != ours:
                made = ", ".join(reader.sources[name])
                wrong.append(f"{name!r} is {theirs} in {reader.path} (from {made}) and {ours} in the module")
            plan[path] = reader, name
    if wrong:
        raise ValueError(_list(f"{len(wrong)} shapes differ", wrong))
    return plan


def _check_complete(slots: "Slots", plan: Plan, kept: set[str], readers: Sequence[MappedReader]) -> None:
    both = [f"{path!r}, from {plan[path][0].path}" for path in slots.tensors if path in plan and path in kept]
    if both:
        raise ValueError(_list(f"{len(both)} paths are declared fresh and given by a source", both))
    missing = [repr(path) for path in slots.tensors if path not in plan and path not in kept]
    if missing:
        files = ", ".join(str(reader.path) for reader in readers) or "no source"
        raise ValueError(
            _list(f"{len(missing)} paths come from no source ({files}) and are not declared fresh", missing)
        )


def _list(what: str, lines: list[str]) -> str:
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n  ".join([what + ":", *lines[:SHOWN], *more])


class Slots:
    """The places of a module: parameters and persistent buffers by path, tied ones under their first path."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        state = module.state_dict(keep_vars=True)
        self.tensors: dict[str, Tensor] = {}
        self.alias: dict[str, str] = {}
        first: dict[int, str] = {}
        for path, tensor in state.items():
            self.alias[path] = first.setdefault(id(tensor), path)
            self.tensors.setdefault(self.alias[path], tensor)
        self.paths = list(state)

    def canonical(self, paths: Iterable[str]) -> list[str]:
        return [self.alias[path] for path in paths]

    @torch.no_grad()
    def fill(self, path: str, tensor: Tensor, dtype: torch.dtype | None, device: torch.device | str) -> None:
        old = self.tensors[path]
        wanted = dtype if dtype is not None and old.is_floating_point() else old.dtype
        if old.is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"{path!r} is {tensor.dtype} in its source and {old.dtype} in the module")
        if old.device.type != "meta" and wanted == old.dtype:
            old.copy_(tensor)
        else:
            self._put(path, tensor.to(device if old.device.type == "meta" else old.device, wanted, copy=True))

    @torch.no_grad()
    def reset(self, paths: Iterable[str], device: torch.device | str) -> None:
        """Initialise what stays fresh and has no memory yet."""
        owners: dict[str, list[str]] = {}
        for path in paths:
            if self.tensors[path].device.type == "meta":
                owners.setdefault(path.rpartition(".")[0], []).append(path)
        for name, mine in owners.items():
            owner = self.module.get_submodule(name)
            reset = getattr(owner, "reset_parameters", None)
            if not isinstance(reset, MethodType):
                raise ValueError(
                    f"{mine[0]!r} is fresh and on the meta device, and {type(owner).__name__} has no reset_parameters "
                    "to initialise it; build that part on a real device"
                )
            for path in [path for path in self.tensors if path.rpartition(".")[0] == name]:
                self._put(path, torch.empty_like(self.tensors[path], device=device))
            reset()

    def check_filled(self) -> None:
        empty = [name for name, buffer in self.module.named_buffers() if buffer.device.type == "meta"]
        if empty:
            raise ValueError(_list("buffers that no checkpoint holds are still on the meta device", empty))

    def _put(self, path: str, tensor: Tensor) -> None:
        old = self.tensors[path]
        if isinstance(old, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
        self.tensors[path] = tensor
        for place in [place for place, first in self.alias.items() if first == path]:
            owner, _, name = place.rpartition(".")
            setattr(self.module.get_submodule(owner), name, tensor)  # a Parameter or a buffer of that name stays one
