"""Devices by name, refused where they are not there."""

import torch

from scops.core.names import nearest

KINDS = ("auto", "cpu", "cuda", "mps")


def device_of(name: torch.device | str) -> torch.device:
    """Of anything but "auto".

    Raises:
        ValueError: a name that torch does not know, or a device that it does not see here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"there is no device {name!r}{nearest(str(name), KINDS)}") from error
    seen = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    count = seen.get(device.type)
    if count is not None and (device.index or 0) >= count:
        raise ValueError(
            f"the device {str(device)!r} was asked for, but torch {torch.__version__} sees {count} of its kind here"
        )
    return device
