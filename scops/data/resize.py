"""Pictures at another size, by Pillow or by torch, and their levels as the numbers that an encoder takes."""

# C channels
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from scops.core.layout import Pixels


class ByPillow:
    """Pillow's own filters: to the bit what published processors do.

    Args:
        resample: "bicubic", "bilinear" or "lanczos".
    """

    def __init__(self, resample: str) -> None:
        self.filter = Image.Resampling[resample.upper()]

    def taken(self, image: Image.Image) -> Image.Image:
        return image

    def resized(self, image: Image.Image, height: int, width: int) -> Image.Image:
        return image.resize((width, height), self.filter)

    def levels(self, image: Image.Image) -> np.ndarray:
        """(C, height, width) uint8: a view of rows of RGB."""
        return np.asarray(image).transpose(2, 0, 1)


class ByTorch:
    """torch's antialiased filters on 8-bit levels: the same formula in coarser arithmetic, several times faster.

    A level is within 2 of Pillow's two passes, rows first. A newer Pillow begins with the columns where that saves
    work (narrow pictures that grow in width and shrink in height): beside hard edges it then differs from both.
    """

    def __init__(self, resample: str) -> None:
        import torch  # only where it is asked for: torch takes seconds to import

        self.mode, self.torch = resample, torch

    def taken(self, image: Image.Image) -> Any:
        return self.torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]

    def resized(self, image: Any, height: int, width: int) -> Any:
        try:
            return self.torch.nn.functional.interpolate(image, (height, width), mode=self.mode, antialias=True)
        except (NotImplementedError, ValueError) as error:
            raise ValueError(
                f"torch {self.torch.__version__} cannot resize by an antialiased {self.mode!r} filter; "
                f"resize by 'pillow': {error}"
            ) from error

    def levels(self, image: Any) -> np.ndarray:
        return image[0].numpy()


Resizer = ByPillow | ByTorch
RESIZERS = {"pillow": ByPillow, "torch": ByTorch}


@cache
def resizer(by: str, resample: str) -> Resizer:
    """What `Pixels` names."""
    if by not in RESIZERS:
        raise ValueError(f"a picture is resized by one of {', '.join(RESIZERS)}, not {by!r}")
    return RESIZERS[by](resample)


def normalise(levels_CHW: np.ndarray, pixels: Pixels, into: np.ndarray) -> np.ndarray:
    """x / 255, - mean, / std, written to the bit as transformers' processors have it, without a picture in between.

    Args:
        levels_CHW: uint8.
        into: float32 of the same shape, which is returned.
    """
    for levels, plane, mean, std in zip(levels_CHW, into, pixels.mean, pixels.std, strict=True):
        np.divide(levels, np.float32(255), out=plane, dtype=np.float32)
        plane -= np.float32(mean)
        plane /= np.float32(std)
    return into
