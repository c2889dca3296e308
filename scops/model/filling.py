"""Weights come into a module: of which kind, on which device, and what begins anew."""

from collections.abc import Sequence

import torch
from torch import nn

from scops.checkpoints.reader import Reader
from scops.checkpoints.sources import Source, assemble
from scops.core.device import device_of
from scops.core.names import nearest
from scops.nn.initialise import begin

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO = "auto"


def fill(
    module: nn.Module, sources: Sequence[Source], device: torch.device | str, *, fresh: Sequence[str] = ()
) -> None:
    """In place; what is fresh begins anew."""
    for part in fresh:
        begin(_part(module, part), _device(device))
    assemble(module, sources, fresh=fresh, device=_device(device))
    module.to(_device(device))  # what was made with numbers of its own


def dtype_of(dtype: torch.dtype | str, reader: Reader | None = None) -> torch.dtype:
    """`auto` is the kind in which most of the weights are kept."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype in DTYPES:
        return DTYPES[dtype]
    if dtype != AUTO or reader is None:
        raise ValueError(f"there is no dtype {dtype!r}{nearest(dtype, [AUTO, *DTYPES])}")
    sizes: dict[torch.dtype, int] = {}
    for name in reader.names():
        kept = reader.dtype(name)
        if kept.is_floating_point and not name.endswith(".scales"):  # of quantised weights
            sizes[kept] = sizes.get(kept, 0) + torch.Size(reader.shape(name)).numel()
    return max(sizes, key=lambda kept: sizes[kept])


def _part(module: nn.Module, path: str) -> nn.Module:
    known = dict(module.named_modules())
    if path not in known:
        raise ValueError(f"there is no part {path!r} to begin anew{nearest(path, known)}")
    return known[path]


def _device(device: torch.device | str) -> torch.device:
    if device != AUTO:
        return device_of(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
