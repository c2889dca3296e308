"""What LLaVA takes of a CLIP tower: an inner hidden state, usually without the class token.

haotian-liu/LLaVA, llava/model/multimodal_encoder/clip_encoder.py; blocks behind the last wanted state do not run.
"""

# M pictures, C channels, P features per picture, D width
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scops.encoders.vit import Vit
from scops.nn.context import Context


@dataclass(frozen=True)
class Selection:
    """Args:
    layers: hidden states, side by side in this order; 0 enters the first block, -1 leaves the last (not normed).
    cls: whether the class token stays in front.
    """

    layers: tuple[int, ...] = (-2,)
    cls: bool = False

    def tokens(self, vit_tokens: int) -> int:
        return vit_tokens - (not self.cls)


class Selected(nn.Module):
    """Hidden states of a tower as its features.

    forward: pixels (M, C, image, image) -> (M, P, D)
    """

    def __init__(self, vit: Vit, selection: Selection):
        super().__init__()
        states = len(vit.blocks) + 1
        if not selection.layers or not all(-states <= layer < states for layer in selection.layers):
            raise ValueError(
                f"a tower of {len(vit.blocks)} blocks has the hidden states {-states} to {states - 1}, not {selection.layers}"
            )
        self.vit, self.image = vit, vit.image
        self.layers = tuple(layer % states for layer in selection.layers)
        self.first = 0 if selection.cls else 1
        self.width, self.tokens = vit.width * len(self.layers), selection.tokens(vit.tokens)

    def forward(self, pixels_MCHW: Tensor) -> Tensor:
        x_MPD, ctx = self.vit.embed(pixels_MCHW), Context()
        states = {0: x_MPD}
        for number, block in enumerate(self.vit.blocks[: max(self.layers)], 1):
            states[number] = x_MPD = block(x_MPD, ctx)
        return torch.cat([states[layer][:, self.first :] for layer in self.layers], dim=-1)
