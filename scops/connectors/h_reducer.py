"""DocOwl 1.5's H-Reducer (arXiv 2403.12895, section 3.1; X-PLUG/mPLUG-DocOwl, DocOwl1.5/mplug_docowl/model/visual_encoder.py).

The paper shows one 1x4 convolution; the code has two, with channels laid side by side between them.
"""

# M pictures, P features per picture (class token first), D width, R rows, C columns of the feature map, X positions of a kernel
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn

from scops.nn.initialise import IntoWords


@dataclass(frozen=True)
class HReducerSpec:
    """Args:
    kernel: (rows, columns) of both convolutions and their steps; 1x4 in the releases.
    eps: of a norm that is published and never used.
    """

    dim: int = 1024
    kernel: tuple[int, int] = (1, 4)
    eps: float = 1e-6


class HReducer(nn.Module):
    """y = gelu(expand(x)) spreads each kernel's positions over X times the channels; they go back side by side; reduce(y).

    forward: features (M, P, D) -> (M, Q + 1, out), row by row, then a learned token that says that the picture is over

    Args:
        out: width of the language model.
    """

    def __init__(self, spec: HReducerSpec, out: int):
        super().__init__()
        self.positions = spec.kernel[0] * spec.kernel[1]
        self.expand = nn.Conv2d(spec.dim, spec.dim * self.positions, spec.kernel, spec.kernel)
        self.activation = nn.GELU()
        self.reduce = nn.Conv2d(spec.dim, spec.dim, spec.kernel, spec.kernel)
        self.project = IntoWords(spec.dim, out)
        self.end = nn.Parameter(torch.zeros(1, 1, out))
        self.norm = nn.LayerNorm(spec.dim, spec.eps)  # ln_q is published but never used

    def spread(self, features_MPD: Tensor) -> Tensor:
        """(M, X * D, R, C) after the first convolution; X is the slower index of the channels."""
        side = isqrt(features_MPD.shape[1] - 1)
        if 1 + side * side != features_MPD.shape[1]:
            raise ValueError(
                f"{features_MPD.shape[1]} features per picture are not a class token and a square of patches; "
                "the H-Reducer stands behind an encoder with a class token"
            )
        map_MDRC = features_MPD[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        return self.activation(self.expand(map_MDRC))

    def forward(self, features_MPD: Tensor) -> Tensor:
        wide_MXDRC = self.spread(features_MPD).unflatten(1, (self.positions, -1))
        map_MDRC = wide_MXDRC.permute(0, 2, 3, 4, 1).flatten(3)
        x_MQD = self.project(self.reduce(map_MDRC).flatten(2).transpose(1, 2))
        return torch.cat([x_MQD, self.end.expand(len(x_MQD), -1, -1)], 1)


def grid_for(spec: HReducerSpec, side: int) -> tuple[int, int]:
    """(rows, columns) of what is made of side x side patches."""
    high, wide = spec.kernel
    rows, columns = side // high, side // wide
    return rows // high, columns * high


def tokens_for(spec: HReducerSpec, side: int) -> int:
    """Tokens of one picture of side x side patches: the reduced map and the end token."""
    rows, columns = grid_for(spec, side)
    return rows * columns + 1
