"""LLaVA's projector (arXiv 2304.08485, section 4.1: one linear layer; 2310.03744, section 3.2: two with GELU between).

haotian-liu/LLaVA, llava/model/multimodal_projector/builder.py: `linear`, `mlp{n}x_gelu`, `identity`.
"""

# M pictures, P features per picture, D width
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from scops.encoders.vit import ACTIVATIONS
from scops.nn.initialise import IntoWords


@dataclass(frozen=True)
class ProjectorSpec:
    """Args:
    depth: linear layers; 1 is `linear`, 0 is `identity`.
    activation: between them, as published.
    bias: of every layer.
    """

    depth: int = 2
    activation: str = "gelu"
    bias: bool = True


class Projector(nn.Module):
    """Feature by feature: linear layers with an activation between, all as wide as the language model.

    forward: (M, P, D) -> (M, P, out)

    Args:
        width: of the features; out: of the language model.
    """

    def __init__(self, spec: ProjectorSpec, width: int, out: int):
        super().__init__()
        if not spec.depth and width != out:
            raise ValueError(f"features are {width} wide and words {out}, so that a projector needs at least one layer")
        self.layers = nn.ModuleList(
            nn.Linear(*sizes, bias=spec.bias) for sizes in pairwise([width, *[out] * (spec.depth - 1)])
        )
        if spec.depth:
            self.layers.append(IntoWords(out if spec.depth > 1 else width, out, bias=spec.bias))
        self.activation = ACTIVATIONS[spec.activation]()

    def forward(self, features_MPD: Tensor) -> Tensor:
        x_MPD = features_MPD
        for number, layer in enumerate(self.layers):
            x_MPD = layer(self.activation(x_MPD) if number else x_MPD)
        return x_MPD
