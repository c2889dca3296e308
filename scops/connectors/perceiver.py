"""Perceiver Resampler (Flamingo, arXiv 2204.14198, 2.1; mlfoundations/open_flamingo, open_flamingo/src/helpers.py).

Learned latents ask features and themselves, layer by layer; whatever the size of a picture or the number of frames, as many
tokens come out as there are latents.
"""

# M media items, I prepared pictures, A frames of an item, P features per picture, S features of an item, Q latents, D width
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scops.core.batch import Tiles
from scops.nn.feed_forward import FeedForward, SquaredRelu
from scops.nn.tiled import Tiled, by_count
from scops.ops.attention import attend

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "squared_relu": SquaredRelu}
"""OpenFlamingo's, IDEFICS's, Flamingo's."""


@dataclass(frozen=True)
class PerceiverSpec:
    """The defaults are OpenFlamingo's, for features of CLIP's L/14.

    Args:
        dim: of features and of the tokens made of them.
        hidden: of the feed-forward.
        first: features at the beginning that are left away, the encoder's class token.
        norms: which projections are normed per head: "qk" in IDEFICS.
        frames: most frames of an item, each with an embedding of its own; 0 for none.
        items: most items of a conversation, each with an embedding of its own; 0 for none. No published model has them.
    """

    dim: int = 1024
    hidden: int = 4096
    depth: int = 6
    heads: int = 8
    head_dim: int = 64
    queries: int = 64
    activation: str = "gelu"
    first: int = 0
    norms: str = ""
    frames: int = 0
    items: int = 0


def tokens_for(spec: PerceiverSpec) -> int:
    """Of every item."""
    return spec.queries


class PerceiverLayer(nn.Module):
    """x + o(attention(norm(x); [norm(features); norm(x)])), then x + feed_forward(norm(x)); no biases in projections."""

    def __init__(self, spec: PerceiverSpec):
        super().__init__()
        self.head_dim, inner = spec.head_dim, spec.heads * spec.head_dim
        self.norm_features, self.norm_latents = nn.LayerNorm(spec.dim), nn.LayerNorm(spec.dim)
        self.q, self.k, self.v = (nn.Linear(spec.dim, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, spec.dim, bias=False)
        for name in spec.norms:
            self.add_module(f"{name}_norm", nn.LayerNorm(spec.head_dim))
        self.norms = spec.norms
        self.norm_mlp = nn.LayerNorm(spec.dim)
        up, down = nn.Linear(spec.dim, spec.hidden, bias=False), nn.Linear(spec.hidden, spec.dim, bias=False)
        self.mlp = FeedForward(up, ACTIVATIONS[spec.activation](), down)

    def asked(self, features_MSD: Tensor, x_MQD: Tensor) -> Tensor:
        """What the latents find, (M, Q, D)."""
        x_MQD = self.norm_latents(x_MQD)
        seen_MSD = torch.cat([self.norm_features(features_MSD), x_MQD], dim=1)
        q, k, v = (self._heads(name, x) for name, x in (("q", x_MQD), ("k", seen_MSD), ("v", seen_MSD)))
        return self.o(attend(q, k, v).transpose(1, 2).flatten(2))

    def _heads(self, name: str, x: Tensor) -> Tensor:
        x = self.get_submodule(name)(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return self.get_submodule(f"{name}_norm")(x) if name in self.norms else x

    def forward(self, features_MSD: Tensor, x_MQD: Tensor) -> Tensor:
        x_MQD = x_MQD + self.asked(features_MSD, x_MQD)
        return x_MQD + self.mlp(self.norm_mlp(x_MQD))


class PerceiverResampler(Tiled):
    """forward: features of all items' pictures (I, P, D) -> (M, Q, D); an item of several pictures is a clip."""

    def __init__(self, spec: PerceiverSpec):
        super().__init__()
        self.spec = spec
        self.latents = nn.Parameter(torch.zeros(spec.queries, spec.dim))
        if spec.frames:
            self.frames = nn.Parameter(torch.zeros(spec.frames, spec.dim))
        if spec.items:
            self.items = nn.Parameter(torch.zeros(spec.items, 1, spec.dim))
        self.layers = nn.ModuleList(PerceiverLayer(spec) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.dim)

    def forward(self, features_IPD: Tensor, tiles: Tiles) -> Tensor:
        return torch.stack(by_count(features_IPD, tiles, self.resampled))

    def resampled(self, features_MAPD: Tensor, number_M: Tensor | None = None) -> Tensor:
        """(M, Q, D), of items with as many pictures.

        Args:
            number_M: of each item in its conversation, from 0, where items have embeddings of their own.
        Raises:
            ValueError: more pictures in an item, or items in a conversation, than there are embeddings for.
        """
        x_MAPD = features_MAPD[:, :, self.spec.first :]
        if self.spec.frames:
            count = x_MAPD.shape[1]
            if count > self.spec.frames:
                raise ValueError(f"a clip has {count} frames, but this resampler knows {self.spec.frames}")
            x_MAPD = x_MAPD + self.frames[:count, None]
        if self.spec.items:
            if number_M is None or int(number_M.max()) >= self.spec.items:
                found = "unnumbered" if number_M is None else f"numbered up to {int(number_M.max())}"
                raise ValueError(
                    f"items are {found}, but this resampler knows them by numbers from 0 to {self.spec.items - 1}"
                )
            x_MAPD = x_MAPD + self.items[number_M][:, None]
        x_MSD, latents_MQD = x_MAPD.flatten(1, 2), self.latents.expand(len(x_MAPD), -1, -1)
        for layer in self.layers:
            latents_MQD = layer(x_MSD, latents_MQD)
        return self.norm(latents_MQD)
