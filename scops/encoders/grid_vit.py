"""A vision transformer of patches alone, its learned grid of positions brought to the picture's (mPLUG-Owl2.1).

X-PLUG/mPLUG-Owl, mPLUG-Owl2/mplug_owl2/model/visual_encoder.py with use_cls_token off; the tower is Qwen-VL's ViT-bigG
(arXiv 2308.12966, section 2.1).
"""

# M pictures, C channels, P patches per picture, D width
import torch
from torch import Tensor, nn

from scops.encoders.vit import VitSpec, block, check_size
from scops.nn.context import Context
from scops.ops.positions import spread


class GridVit(nn.Module):
    """Patches, each with the position of its place, through pre-norm blocks; there is no class token.

    forward: pixels (M, C, image, image) -> (M, P, D)

    Args:
        table: rows and columns of the learned grid of positions, whatever the picture's.
        post_norm: in place of a LayerNorm of the tower's width; nn.Identity() where there is none.
    """

    def __init__(self, spec: VitSpec, *, table: int, post_norm: nn.Module | None = None):
        super().__init__()
        self.width, self.image, self.side, self.table = spec.dim, spec.image, spec.image // spec.patch, table
        self.tokens = self.side**2
        self.patch = nn.Conv2d(3, spec.dim, spec.patch, spec.patch, bias=False)
        self.positions = nn.Parameter(torch.zeros(table**2, spec.dim))
        self.pre_norm = nn.LayerNorm(spec.dim, spec.eps)
        self.blocks = nn.ModuleList(block(spec) for _ in range(spec.layers))
        self.post_norm = post_norm or nn.LayerNorm(spec.dim, spec.eps)

    def placed(self) -> Tensor:
        """(P, D): the table itself where it fits, else resized by a bicubic filter in float32."""
        return spread(self.positions, self.side**2)

    def embed(self, pixels_MCHW: Tensor) -> Tensor:
        """(M, P, D): patches with positions and first norm."""
        check_size(pixels_MCHW, self.image)
        return self.pre_norm(self.patch(pixels_MCHW).flatten(2).transpose(1, 2) + self.placed())

    def forward(self, pixels_MCHW: Tensor) -> Tensor:
        x_MPD, ctx = self.embed(pixels_MCHW), Context()
        for layer in self.blocks:
            x_MPD = layer(x_MPD, ctx)
        return self.post_norm(x_MPD)
