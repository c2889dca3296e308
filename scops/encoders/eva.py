"""EVA-CLIP-g (arXiv 2211.07636) as BLIP-2 looks through it: pre-norm blocks without a first or a last norm, keys without bias.

salesforce/LAVIS, lavis/models/eva_vit.py: of the published 40 blocks 39 run, and what leaves them is normed by who asks.
"""

# M pictures, C channels, P tokens per picture (class token first), D width
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scops.encoders.vit import check_size, feed_forward
from scops.nn.attention import SelfAttention
from scops.nn.block import Block, PreNorm
from scops.nn.context import Context


@dataclass(frozen=True)
class EvaSpec:
    """Sizes of a tower; the defaults are BLIP-2's g/14 at 224 pixels.

    Args:
        image, patch: pixels.
    """

    dim: int = 1408
    hidden: int = 6144
    layers: int = 39
    heads: int = 16
    image: int = 224
    patch: int = 14
    eps: float = 1e-6
    activation: str = "gelu"

    @property
    def tokens(self) -> int:
        return 1 + (self.image // self.patch) ** 2


class EvaVit(nn.Module):
    """Patches and a class token with positions through pre-norm blocks.

    forward: pixels (M, C, image, image) -> (M, P, D)
    """

    def __init__(self, spec: EvaSpec):
        super().__init__()
        self.width, self.tokens, self.image = spec.dim, spec.tokens, spec.image
        self.patch = nn.Conv2d(3, spec.dim, spec.patch, spec.patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, spec.dim))
        self.positions = nn.Parameter(torch.zeros(1, spec.tokens, spec.dim))
        self.blocks = nn.ModuleList(block(spec) for _ in range(spec.layers))

    def embed(self, pixels_MCHW: Tensor) -> Tensor:
        """(M, P, D): patches with class token and positions."""
        check_size(pixels_MCHW, self.image)
        patches_MPD = self.patch(pixels_MCHW).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(len(patches_MPD), -1, -1), patches_MPD], 1) + self.positions

    def forward(self, pixels_MCHW: Tensor) -> Tensor:
        x_MPD, ctx = self.embed(pixels_MCHW), Context()
        for layer in self.blocks:
            x_MPD = layer(x_MPD, ctx)
        return x_MPD


def block(spec: EvaSpec) -> Block:
    q, k, v, o = (nn.Linear(spec.dim, spec.dim, bias=name != "k") for name in "qkvo")
    attn = SelfAttention(q=q, k=k, v=v, o=o, head_dim=spec.dim // spec.heads)
    return Block(
        attn=PreNorm(nn.LayerNorm(spec.dim, spec.eps), attn),
        mlp=PreNorm(nn.LayerNorm(spec.dim, spec.eps), feed_forward(spec)),
    )
