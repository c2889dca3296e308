"""SigLIP's picture tower (arXiv 2303.15343): a vision transformer without class token, and a head that attends to it all."""

# M pictures, C channels, P patches, D width
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scops.encoders.vit import block, check_size, feed_forward
from scops.nn.context import Context
from scops.ops.attention import attend


@dataclass(frozen=True)
class SiglipSpec:
    """Sizes of a tower; the defaults are so400m/14 at 384 pixels.

    Args:
        image, patch: pixels; what is left beside whole patches is not looked at.
        skip: last blocks that are published and do not run: features are what enters them, without the last norm.
    """

    dim: int = 1152
    hidden: int = 4304
    layers: int = 27
    heads: int = 16
    image: int = 384
    patch: int = 14
    eps: float = 1e-6
    activation: str = "gelu_pytorch_tanh"
    skip: int = 0

    @property
    def tokens(self) -> int:
        return (self.image // self.patch) ** 2


class Siglip(nn.Module):
    """Patches with positions through pre-norm blocks.

    forward: pixels (M, C, image, image) -> (M, P, D)
    """

    def __init__(self, spec: SiglipSpec):
        super().__init__()
        self.width, self.tokens, self.image, self.skip = spec.dim, spec.tokens, spec.image, spec.skip
        self.patch = nn.Conv2d(3, spec.dim, spec.patch, spec.patch)
        self.positions = nn.Parameter(torch.zeros(1, spec.tokens, spec.dim))
        self.blocks = nn.ModuleList(block(spec) for _ in range(spec.layers))
        self.post_norm = nn.LayerNorm(spec.dim, spec.eps)
        self.head = AttentionPool(spec)

    def embed(self, pixels_MCHW: Tensor) -> Tensor:
        """(M, P, D): patches with positions."""
        check_size(pixels_MCHW, self.image)
        return self.patch(pixels_MCHW).flatten(2).transpose(1, 2) + self.positions

    def forward(self, pixels_MCHW: Tensor) -> Tensor:
        x_MPD, ctx = self.embed(pixels_MCHW), Context()
        for layer in self.blocks[: len(self.blocks) - self.skip]:
            x_MPD = layer(x_MPD, ctx)
        return x_MPD if self.skip else self.post_norm(x_MPD)

    def pooled(self, pixels_MCHW: Tensor) -> Tensor:
        """(M, D): the picture as a whole, what SigLIP compares with texts."""
        if self.skip:
            raise ValueError(
                f"the head reads the last of {len(self.blocks)} blocks, but {self.skip} of them do not run"
            )
        return self.head(self(pixels_MCHW))


class AttentionPool(nn.Module):
    """One learned query asks all patches, then x + mlp(norm(x)).

    forward: (M, P, D) -> (M, D)
    """

    def __init__(self, spec: SiglipSpec):
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, spec.dim))
        self.q, self.k, self.v, self.o = (nn.Linear(spec.dim, spec.dim) for _ in range(4))
        self.norm = nn.LayerNorm(spec.dim, spec.eps)
        self.mlp = feed_forward(spec)
        self.heads = spec.heads

    def forward(self, x_MPD: Tensor) -> Tensor:
        probe_M1D = self.probe.expand(len(x_MPD), -1, -1)
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, x in ((self.q, probe_M1D), (self.k, x_MPD), (self.v, x_MPD))
        )
        found_MD = self.o(attend(q, k, v).transpose(1, 2).flatten(2))[:, 0]
        return found_MD + self.mlp(self.norm(found_MD))
