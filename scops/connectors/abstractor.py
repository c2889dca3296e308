"""mPLUG-Owl's visual abstractor (arXiv 2304.14178, section 3.1; X-PLUG/mPLUG-Owl, mPLUG-Owl/mplug_owl)."""

# M pictures, P features per picture, Q queries, D width, F hidden width
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scops.nn.feed_forward import SwiGlu
from scops.nn.initialise import IntoWords
from scops.ops.attention import attend


@dataclass(frozen=True)
class AbstractorSpec:
    """Args:
    hidden: 2816 in the releases (a published config.json may say 4096; the weights decide).
    eps: of the norm inside the feed-forward; the other norms have 1e-5.
    """

    dim: int = 1024
    hidden: int = 2816
    layers: int = 6
    heads: int = 16
    queries: int = 64
    eps: float = 1e-6


class AbstractorLayer(nn.Module):
    """q' = norm_queries(q);  x = q' + attn(q', [q'; norm_features(f)]);  x + swiglu(norm_mlp(x))

    The residual stands on the normed queries. Features are never updated: each layer norms the encoder's anew.
    """

    def __init__(self, spec: AbstractorSpec):
        super().__init__()
        self.head_dim = spec.dim // spec.heads
        self.norm_queries, self.norm_features, self.norm_mlp = (nn.LayerNorm(spec.dim, 1e-5) for _ in range(3))
        self.q, self.k, self.v, self.o = (nn.Linear(spec.dim, spec.dim) for _ in range(4))
        self.mlp = SwiGlu(spec.dim, spec.hidden, bias=True, norm=nn.LayerNorm(spec.hidden, spec.eps))

    def forward(self, queries_MQD: Tensor, features_MPD: Tensor, visible: Tensor | None = None) -> Tensor:
        """visible: bool (M, 1, 1, Q + P), which keys may be seen; None for all."""
        x_MQD = self.norm_queries(queries_MQD)
        keys = torch.cat([x_MQD, self.norm_features(features_MPD)], 1)
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection, x in ((self.q, x_MQD), (self.k, keys), (self.v, keys))
        )
        x_MQD = x_MQD + self.o(attend(q, k, v, visible).transpose(1, 2).flatten(2))
        return x_MQD + self.mlp(self.norm_mlp(x_MQD))


class VisualAbstractor(nn.Module):
    """Learned queries ask the features in every layer; a last learned token says that the picture is over.

    forward: features (M, P, D) -> (M, Q + 1, out)

    Args:
        out: width of the language model.
        join: makes an encoder's features D wide where they are not.
    """

    def __init__(self, spec: AbstractorSpec, out: int, *, join: nn.Module | None = None):
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(1, spec.queries, spec.dim))
        self.join = join or nn.Identity()
        self.layers = nn.ModuleList(AbstractorLayer(spec) for _ in range(spec.layers))
        self.project = IntoWords(spec.dim, out)
        self.end = nn.Parameter(torch.zeros(1, 1, out))

    def forward(self, features_MPD: Tensor, real_MP: Tensor | None = None) -> Tensor:
        """real_MP: bool, features that are not padding; None when all are real."""
        features_MPD = self.join(features_MPD)
        x_MQD = self.queries.expand(len(features_MPD), -1, -1)
        visible = None
        if real_MP is not None:
            visible = torch.cat([real_MP.new_ones(*x_MQD.shape[:2]), real_MP], 1)[:, None, None]
        for layer in self.layers:
            x_MQD = layer(x_MQD, features_MPD, visible)
        return torch.cat([self.project(x_MQD), self.end.expand(len(x_MQD), -1, -1)], 1)


def tokens_for(spec: AbstractorSpec) -> int:
    """Tokens of one picture, whatever its size: the queries and the end token."""
    return spec.queries + 1
