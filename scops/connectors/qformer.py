"""Q-Former (BLIP-2, arXiv 2301.12597, section 3.1; salesforce/LAVIS, lavis/models/blip2_models/Qformer.py).

A BERT whose stream is [queries; text]. Both share self-attention; the queries alone ask the picture, in every second block, and
each has feed-forwards of its own. Who sees whom makes the difference between its uses.
"""

# M pictures, P features per picture, Q queries, T tokens of text, S = Q + T, D width, V vocabulary, L blocks, B rows of text
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from scops.core.batch import Tiles, Words
from scops.language.bert import BertSpec, cross_attention, feed_forward, self_attention
from scops.nn.attention import SelfAttention, answers
from scops.nn.block import Contextual, PostNorm
from scops.nn.cache import Pair
from scops.nn.context import Context, Memory
from scops.nn.initialise import IntoWords
from scops.nn.tiled import Tiled
from scops.ops.attention import Visible, attend, side_by_side
from scops.ops.masks import earlier

PICTURE = "image"
"""The memory that the queries ask."""
QUERIES = "queries {}"
"""The memory that a text's self-attention asks in a block of that number while it is written: the queries before the block."""


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


class SharedAttention(Contextual):
    """norm(x + o(a)), a found in the stream, and by the same softmax in queries beside it.

    Args:
        number: of its block.
    """

    def __init__(self, norm: nn.Module, body: SelfAttention, number: int):
        super().__init__()
        self.norm, self.body, self.memory = norm, body, QUERIES.format(number)

    @property
    def slot(self) -> int:
        return self.body.slot

    def of_items(self, features_BSD: Tensor) -> Pair:
        k, v = (self.body.heads(project, features_BSD, Context()) for project in (self.body.k, self.body.v))
        return k, v

    def at(self, k_BKSH: Tensor, positions_BS: Tensor) -> Tensor:
        return k_BKSH  # no place is written into them

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        if self.memory not in ctx.memories:
            return self.norm(x_BTD + self.body(x_BTD, ctx))
        q, *own = self.body.projected(x_BTD, ctx)
        text = own if ctx.cache is None else ctx.cache.append(self.slot, *own)
        queries = answers(self, ctx)
        sizes = queries[0].shape[2], text[0].shape[2]
        visible = ctx.once(("queries and text", sizes), lambda: self.visible(q, sizes, ctx))
        k, v = (torch.cat([x, y.to(x.dtype)], 2) for x, y in zip(queries, text, strict=True))
        return self.norm(x_BTD + self.body.out(attend(q, k, v, visible), ctx))

    def visible(self, q_BNTH: Tensor, sizes: tuple[int, int], ctx: Context) -> Visible:
        beside, (rows, _, tokens, _) = ctx.memories[self.memory].visible(earlier), q_BNTH.shape
        return side_by_side(beside, ctx.visible, rows=rows, queries=tokens, keys=sizes, device=q_BNTH.device)


class QFormerBlock(Contextual):
    """Self-attention over all; then the queries ask and go through their feed-forward, the text through its own.

    Args:
        cross: None in a block that does not ask; text: None where there is no text.
    """

    def __init__(self, attn: SharedAttention, cross: PostNorm | None, query: PostNorm, text: PostNorm | None):
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

    def before(self, features_MPD: Tensor) -> Tensor:
        """(M, Q, L D): the queries as they enter each block, which is what a text that is written sees of them."""
        x_MQD, entered = self.norm(self._queries(features_MPD)), []
        no_text_M0 = torch.zeros(len(x_MQD), 0, dtype=torch.long, device=x_MQD.device)
        ctx = Context(no_text_M0, memories={PICTURE: whole(features_MPD)})
        for layer in self.blocks:
            entered.append(x_MQD)
            x_MQD = layer(x_MQD, ctx)
        return torch.cat(entered, -1)

    def write(self, words_BTD: Tensor, ctx: Context) -> Tensor:
        """(B, T, D): words at the context's positions; `beside` puts the queries they see into the context."""
        assert ctx.positions_BT is not None, "a text that is written needs positions in the context"
        x_BTD = self.norm(words_BTD + self.positions(ctx.positions_BT))
        for layer in self.blocks:
            x_BTD = layer(x_BTD, ctx)
        return x_BTD

    def _run(self, x_MQD: Tensor, text_MTD: Tensor | None, features_MPD: Tensor | None, seen: Tensor | None) -> Tensor:
        x_MSD = self.norm(x_MQD if text_MTD is None else torch.cat([x_MQD, text_MTD], 1))
        places_MT = torch.arange(x_MSD.shape[1] - x_MQD.shape[1], device=x_MSD.device).expand(len(x_MSD), -1)
        memories = {} if features_MPD is None else {PICTURE: whole(features_MPD)}
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


def beside(queries: Memory, blocks: int) -> dict[str, Memory]:
    """By name the memories of all blocks, of one of `before` (B, S, L D) or, once all keys are kept, of none."""
    kept = queries.features_BSD
    parts = [None] * blocks if kept is None else kept.unflatten(-1, (blocks, -1)).unbind(-2)
    return {QUERIES.format(number): replace(queries, features_BSD=part) for number, part in enumerate(parts)}


def block(spec: QFormerSpec, number: int) -> QFormerBlock:
    bert = spec.bert
    attn = self_attention(bert)
    return QFormerBlock(
        SharedAttention(attn.norm, cast(SelfAttention, attn.body), number),
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
