"""Q-Former (BLIP-2, arXiv 2301.12597, section 3.1; salesforce/LAVIS, lavis/models/blip2_models/Qformer.py).

A BERT whose stream is [queries; text]. Both share self-attention; the queries alone ask the picture, in every second block, and
each has feed-forwards of its own. Who sees whom makes the difference between its uses.
"""

# M pictures, P features per picture, Q queries, T tokens of text, S = Q + T, D width, V vocabulary
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scops.core.batch import Tiles, Words
from scops.language.bert import BertSpec, cross_attention, feed_forward, self_attention
from scops.nn.block import Contextual, PostNorm
from scops.nn.context import Context, Memory
from scops.nn.initialise import IntoWords
from scops.nn.tiled import Tiled

PICTURE = "picture"
"""The memory that the queries ask."""


@dataclass(frozen=True)
class QFormerSpec:
    """The numbers of one Q-Former.

    Args:
        width: of the features that it asks.
        every: blocks from one that asks to the next, the first included.
        vocab: 0 for one that reads no text.
        context: longest text in tokens.
    """

    dim: int = 768
    hidden: int = 3072
    layers: int = 12
    heads: int = 12
    queries: int = 32
    width: int = 1408
    every: int = 2
    vocab: int = 0
    context: int = 512
    eps: float = 1e-12

    @property
    def bert(self) -> BertSpec:
        return BertSpec(
            self.dim, self.hidden, self.layers, self.heads, self.vocab, self.context, segments=0, eps=self.eps,
            memory_dim=self.width,
        )  # fmt: skip


class QFormerBlock(Contextual):
    """Self-attention over all; then the queries ask and go through their feed-forward, the text through its own.

    Args:
        cross: None in a block that does not ask; text: None where there is no text.
    """

    def __init__(self, attn: PostNorm, cross: PostNorm | None, query: PostNorm, text: PostNorm | None):
        super().__init__()
        self.attn = attn
        if cross is not None:
            self.cross = cross
        self.query = query
        if text is not None:
            self.text = text

    def forward(self, x_MSD: Tensor, ctx: Context) -> Tensor:
        """What stands in front is query, as many as `positions_BT` do not count."""
        x_MSD = self.attn(x_MSD, ctx)
        assert ctx.positions_BT is not None
        text = ctx.positions_BT.shape[1]
        x_MQD, x_MTD = x_MSD.split([x_MSD.shape[1] - text, text], 1)
        if x_MQD.shape[1]:
            if "cross" in self._modules:
                x_MQD = self.cross(x_MQD, ctx)
            x_MQD = self.query(x_MQD, ctx)
        return torch.cat([x_MQD, self.text(x_MTD, ctx)], 1) if text else x_MQD


class QFormer(nn.Module):
    """Learned queries, words and the blocks.

    forward: features (M, P, D) -> (M, Q, D); with words (M, Q + T, D), queries first, where all see all but padding.
    """

    def __init__(self, spec: QFormerSpec):
        super().__init__()
        self.spec = spec
        self.queries = nn.Parameter(torch.zeros(1, spec.queries, spec.dim))
        if spec.vocab:
            self.words, self.positions = nn.Embedding(spec.vocab, spec.dim), nn.Embedding(spec.context, spec.dim)
        self.norm = nn.LayerNorm(spec.dim, spec.eps)
        self.blocks = nn.ModuleList(block(spec, number) for number in range(spec.layers))

    def forward(self, features_MPD: Tensor, words: Words | None = None) -> Tensor:
        if words is None:
            return self._run(self._queries(features_MPD), None, features_MPD, None)
        seen_MS = torch.cat([words.real_IT.new_ones(len(features_MPD), self.spec.queries), words.real_IT], 1)
        return self._run(self._queries(features_MPD), self._text(words.ids_IT), features_MPD, seen_MS[:, None, None])

    def read(self, words: Words) -> Tensor:
        """(M, T, D): the text alone, in both directions."""
        text_MTD = self._text(words.ids_IT)
        return self._run(text_MTD[:, :0], text_MTD, None, words.real_IT[:, None, None])

    def written(self, features_MPD: Tensor, words: Words) -> Tensor:
        """(M, Q + T, D): the queries see no text; a word sees the queries and what stands before it."""
        queries, text = self.spec.queries, words.ids_IT.shape[1]
        seen_SS = torch.ones(queries + text, queries + text, dtype=torch.bool, device=features_MPD.device).tril()
        seen_SS[:, :queries] = True
        return self._run(self._queries(features_MPD), self._text(words.ids_IT), features_MPD, seen_SS[None, None])

    def _run(self, x_MQD: Tensor, text_MTD: Tensor | None, features_MPD: Tensor | None, seen: Tensor | None) -> Tensor:
        x_MSD = self.norm(x_MQD if text_MTD is None else torch.cat([x_MQD, text_MTD], 1))
        memories = {} if features_MPD is None else {PICTURE: whole(features_MPD)}
        places_MT = torch.arange(x_MSD.shape[1] - x_MQD.shape[1], device=x_MSD.device).expand(len(x_MSD), -1)
        ctx = Context(places_MT, seen, memories=memories)
        for layer in self.blocks:
            x_MSD = layer(x_MSD, ctx)
        return x_MSD

    def _queries(self, features_MPD: Tensor) -> Tensor:
        return self.queries.expand(len(features_MPD), -1, -1)

    def _text(self, ids_MT: Tensor) -> Tensor:
        if not self.spec.vocab:
            raise ValueError("words came with the pictures, but this Q-Former was built without words (vocab 0)")
        tokens = ids_MT.shape[1]
        if tokens > self.spec.context:
            raise ValueError(
                f"a text of {tokens} tokens came with a picture, but the Q-Former reads {self.spec.context}"
            )
        return self.words(ids_MT) + self.positions(torch.arange(tokens, device=ids_MT.device))


def whole(features_MPD: Tensor) -> Memory:
    """A memory of one item per row, seen by all."""
    rows, places, _ = features_MPD.shape
    return Memory(features_MPD, torch.ones(rows, places, dtype=torch.long, device=features_MPD.device))


def block(spec: QFormerSpec, number: int) -> QFormerBlock:
    bert = spec.bert
    return QFormerBlock(
        self_attention(bert),
        cross_attention(bert, PICTURE) if number % spec.every == 0 else None,
        query=feed_forward(bert),
        text=feed_forward(bert) if spec.vocab else None,
    )


class QFormerConnector(Tiled):
    """project(queries of the Q-Former that asks norm(features)), with words where they come with the pictures.

    forward: features (M, P, D) -> (M, Q, out)

    Args:
        out: width of the language model.
        eps: of the norm of the features (LAVIS: `ln_vision`).
    """

    def __init__(self, spec: QFormerSpec, out: int, *, eps: float = 1e-5):
        super().__init__()
        self.norm, self.qformer = nn.LayerNorm(spec.width, eps), QFormer(spec)
        self.project = IntoWords(spec.dim, out)

    def forward(self, features_MPD: Tensor, tiles: Tiles) -> Tensor:
        x_MSD = self.qformer(self.norm(features_MPD), tiles.words)
        return self.project(x_MSD[:, : self.qformer.spec.queries])


def tokens_for(spec: QFormerSpec) -> int:
    """Tokens of one picture, whatever its size."""
    return spec.queries
