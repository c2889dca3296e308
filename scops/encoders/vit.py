"""Vision transformer (arXiv 2010.11929) in the arrangement of CLIP (arXiv 2103.00020): class token, norm before the blocks."""

# M pictures, C channels, P tokens per picture (class token first), D width, F hidden width
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from scops.nn.attention import SelfAttention
from scops.nn.block import Block, PreNorm
from scops.nn.context import Context
from scops.nn.feed_forward import FeedForward, QuickGelu

ACTIVATIONS = {"quick_gelu": QuickGelu, "gelu": nn.GELU, "gelu_pytorch_tanh": partial(nn.GELU, approximate="tanh")}
"""Published spellings; "gelu" is the exact one."""


@dataclass(frozen=True)
class VitSpec:
    """Sizes of a CLIP tower; the defaults are OpenAI's L/14 at 224 pixels.

    Args:
        image, patch: pixels.
        eps: 1e-5 in CLIP, 1e-6 in mPLUG-Owl's copy of it.
    """

    dim: int = 1024
    hidden: int = 4096
    layers: int = 24
    heads: int = 16
    image: int = 224
    patch: int = 14
    eps: float = 1e-5
    activation: str = "quick_gelu"

    @property
    def tokens(self) -> int:
        return 1 + (self.image // self.patch) ** 2


class Vit(nn.Module):
    """Patches and a class token through pre-norm blocks; every token leaves through the last norm.

    forward: pixels (M, C, image, image) -> (M, P, D)

    Args:
        post_norm: in place of a LayerNorm of the tower's width; nn.Identity() where there is none.
    """

    def __init__(self, spec: VitSpec, *, post_norm: nn.Module | None = None):
        super().__init__()
        self.width, self.tokens, self.image = spec.dim, spec.tokens, spec.image
        self.patch = nn.Conv2d(3, spec.dim, spec.patch, spec.patch, bias=False)
        self.cls = nn.Parameter(torch.zeros(1, 1, spec.dim))
        self.positions = nn.Parameter(torch.zeros(1, spec.tokens, spec.dim))
        self.pre_norm = nn.LayerNorm(spec.dim, spec.eps)
        self.blocks = nn.ModuleList(block(spec) for _ in range(spec.layers))
        self.post_norm = post_norm or nn.LayerNorm(spec.dim, spec.eps)

    def embed(self, pixels_MCHW: Tensor) -> Tensor:
        """(M, P, D): patches with class token, positions and first norm."""
        check_size(pixels_MCHW, self.image)
        patches_MPD = self.patch(pixels_MCHW).flatten(2).transpose(1, 2)
        x_MPD = torch.cat([self.cls.expand(len(patches_MPD), -1, -1), patches_MPD], 1) + self.positions
        return self.pre_norm(x_MPD)

    def forward(self, pixels_MCHW: Tensor) -> Tensor:
        x_MPD, ctx = self.embed(pixels_MCHW), Context()
        for layer in self.blocks:
            x_MPD = layer(x_MPD, ctx)
        return self.post_norm(x_MPD)


class BlockSpec(Protocol):
    """What a block must know of its tower."""

    @property
    def dim(self) -> int: ...

    @property
    def hidden(self) -> int: ...

    @property
    def heads(self) -> int: ...

    @property
    def eps(self) -> float: ...

    @property
    def activation(self) -> str: ...


def block(spec: BlockSpec) -> Block:
    """Norm, self-attention, norm, feed-forward, with biases everywhere."""
    q, k, v, o = (nn.Linear(spec.dim, spec.dim) for _ in range(4))
    attn = SelfAttention(q=q, k=k, v=v, o=o, head_dim=spec.dim // spec.heads)
    return Block(
        attn=PreNorm(nn.LayerNorm(spec.dim, spec.eps), attn),
        mlp=PreNorm(nn.LayerNorm(spec.dim, spec.eps), feed_forward(spec)),
    )


def feed_forward(spec: BlockSpec) -> FeedForward:
    return FeedForward(
        nn.Linear(spec.dim, spec.hidden), ACTIVATIONS[spec.activation](), nn.Linear(spec.hidden, spec.dim)
    )


def check_size(pixels_MCHW: Tensor, side: int) -> None:
    if pixels_MCHW.shape[-2:] != (side, side):
        raise ValueError(
            f"pictures are {tuple(pixels_MCHW.shape[-2:])}, but this encoder has positions for "
            f"({side}, {side}); the layout's Pixels must ask for that size"
        )
