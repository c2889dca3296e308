"""mPLUG-Owl's visual abstractor (arXiv 2304.14178, section 3.1; X-PLUG/mPLUG-Owl, mPLUG-Owl/mplug_owl).

With fixed places it is mPLUG-Owl2's (arXiv 2311.04257; mPLUG-Owl2/mplug_owl2/model/visual_encoder.py).
"""

# M pictures, P features per picture, Q queries, S keys (queries, then features), N heads, D width, F hidden width
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scops.nn.feed_forward import SwiGlu
from scops.nn.initialise import IntoWords
from scops.ops.attention import attend
from scops.ops.positions import sincos, sincos_grid


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


class FixedPlaces(nn.Module):
    """For a query the sine of its number, for a feature those of its column and row, nothing for a class token.

    forward: features (M, P, D) -> (S, D), queries first

    Args:
        side: of the square grid of features.
        before: class tokens in front of the grid.
    """

    def __init__(self, queries: int, side: int, *, before: int):
        super().__init__()
        self.queries, self.side, self.before = queries, side, before

    def tables(self, width: int) -> tuple[Tensor, Tensor]:
        """(Q, D) for queries and (P, D) for features."""
        if width % 4:
            raise ValueError(f"sines of column and row need a width that 4 divides, not {width}")
        features_PD = torch.cat([torch.zeros(self.before, width), sincos_grid(self.side, self.side, width)])
        return sincos(torch.arange(self.queries), width), features_PD

    def forward(self, features_MPD: Tensor) -> Tensor:
        places_SD = torch.cat(self.tables(features_MPD.shape[2]))
        keys = self.queries + features_MPD.shape[1]
        if len(places_SD) != keys:
            raise ValueError(
                f"there are places for {self.queries} queries and {self.before} + {self.side} x {self.side} features, "
                f"but {keys} of both came; the encoder and the connector disagree on the grid"
            )
        return places_SD.to(features_MPD)


class QueryLayer(nn.Module):
    """What layers of learned queries share: x = q' + attn(q', keys);  x + swiglu(norm_mlp(x)), with q' the normed queries.

    Features are never updated: each layer norms the encoder's anew.

    Args:
        eps: of the norm inside the feed-forward.
    """

    def __init__(self, dim: int, *, hidden: int, heads: int, eps: float):
        super().__init__()
        self.head_dim = dim // heads
        self.norm_queries, self.norm_features, self.norm_mlp = (nn.LayerNorm(dim, 1e-5) for _ in range(3))
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.mlp = SwiGlu(dim, hidden, bias=True, norm=nn.LayerNorm(hidden, eps))

    def answered(self, x_MQD: Tensor, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        """x is the stream; q (M, Q, D), k and v (M, S, D) are projected to queries, keys and values.

        Args:
            visible: bool, broadcastable to (M, N, Q, S); None for all.
        """
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection, x in ((self.q, q), (self.k, k), (self.v, v))
        )
        x_MQD = x_MQD + self.o(attend(q, k, v, visible).transpose(1, 2).flatten(2))
        return x_MQD + self.mlp(self.norm_mlp(x_MQD))


class AbstractorLayer(QueryLayer):
    """Queries see themselves and the features: keys = [q'; norm_features(f)]."""

    def __init__(self, spec: AbstractorSpec):
        super().__init__(spec.dim, hidden=spec.hidden, heads=spec.heads, eps=spec.eps)

    def forward(
        self,
        queries_MQD: Tensor,
        features_MPD: Tensor,
        visible: Tensor | None = None,
        places_SD: Tensor | None = None,
    ) -> Tensor:
        """Args:
        visible: bool (M, 1, 1, Q + P), which keys may be seen; None for all.
        places_SD: what tells queries and keys, not values, where they stand.
        """
        x_MQD = self.norm_queries(queries_MQD)
        keys_MSD = torch.cat([x_MQD, self.norm_features(features_MPD)], 1)
        placed_MSD = keys_MSD if places_SD is None else keys_MSD + places_SD
        return self.answered(x_MQD, placed_MSD[:, : x_MQD.shape[1]], placed_MSD, keys_MSD, visible)


class VisualAbstractor(nn.Module):
    """Learned queries ask the features in every layer; a last learned token says that the picture is over.

    forward: features (M, P, D) -> (M, Q + 1, out)

    Args:
        out: width of the language model.
        join: makes an encoder's features D wide where they are not.
        place: features (M, P, D) -> where queries and features stand (S, D); None where nothing says so (mPLUG-Owl).
    """

    def __init__(
        self, spec: AbstractorSpec, out: int, *, join: nn.Module | None = None, place: nn.Module | None = None
    ):
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(1, spec.queries, spec.dim))
        self.join, self.place = join or nn.Identity(), place
        self.layers = nn.ModuleList(AbstractorLayer(spec) for _ in range(spec.layers))
        self.project = IntoWords(spec.dim, out)
        self.end = nn.Parameter(torch.zeros(1, 1, out))

    def asked(
        self, features_MPD: Tensor, real_MP: Tensor | None = None, *, queries_1QD: Tensor | None = None
    ) -> Tensor:
        """(M, Q, D): the queries after the last layer.

        Args:
            real_MP: bool, features that are not padding; None when all are real.
            queries_1QD: that ask in place of its own.
        """
        features_MPD = self.join(features_MPD)
        x_MQD = (self.queries if queries_1QD is None else queries_1QD).expand(len(features_MPD), -1, -1)
        visible = None
        if real_MP is not None:
            visible = torch.cat([real_MP.new_ones(*x_MQD.shape[:2]), real_MP], 1)[:, None, None]
        places_SD = None if self.place is None else self.place(features_MPD)
        for layer in self.layers:
            x_MQD = layer(x_MQD, features_MPD, visible, places_SD)
        return x_MQD

    def told(self, x_MQD: Tensor) -> Tensor:
        """(M, Q + 1, out): among words, with the end token."""
        return torch.cat([self.project(x_MQD), self.end.expand(len(x_MQD), -1, -1)], 1)

    def forward(self, features_MPD: Tensor, real_MP: Tensor | None = None) -> Tensor:
        return self.told(self.asked(features_MPD, real_MP))


def tokens_for(spec: AbstractorSpec) -> int:
    """Tokens of one picture, whatever its size: the queries and the end token."""
    return spec.queries + 1
