"""A Q-Former that compares pictures with texts and writes captions (BLIP-2, arXiv 2301.12597, section 3.2).

salesforce/LAVIS, lavis/models/blip2_models/blip2_qformer.py. One BERT is read in three ways: queries and text each alone (what is
alike), both together (what belongs together), and the text word by word behind the queries (captions).
"""

# B rows, T tokens, M media items of all rows, N pairs, P features per picture, Q queries per picture, S queries of a row,
# L blocks, E width of the common space, D width, R masked words, V vocabulary
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from scops.connectors.qformer import QFormer, beside
from scops.core.batch import Batch, Example, Words
from scops.core.pairs import Comparing, Pairing, Texts
from scops.language.bert import BertHead
from scops.models.beside import remembered
from scops.models.cached import CachedSession
from scops.models.decoder import MediaInput, connected, encoded
from scops.models.encoded import Encoded
from scops.models.encoder_decoder import Replying
from scops.models.pairs import PairHeads, matches, similarities
from scops.models.shared_replies import SharedReplies
from scops.nn.attention import number_slots
from scops.nn.cache import Cache, FixedCache, GrowingCache, bytes_of
from scops.nn.context import Context, Memory
from scops.nn.paged import Pages
from scops.ops.masks import Causal


@dataclass(frozen=True, eq=False)
class Captioner:
    """The Q-Former as what writes.

    Args:
        head: None in a system that only compares.
    """

    qformer: QFormer
    head: BertHead | None
    window: int | None = None

    def embed(self, ids: Tensor) -> Tensor:
        return self.qformer.words(ids)

    def hidden(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        return self.qformer.write(x_BTD, ctx)

    def logits(self, x: Tensor) -> Tensor:
        if self.head is None:
            raise ValueError(
                "this system compares pictures with texts and has no head that writes (transformers' folders hold none); "
                "ask it with score or retrieve, or load the authors' file"
            )
        return self.head(x, self.qformer.words.weight)


class QueryPairs(nn.Module):
    """Satisfies scops.core.pairs.Comparing. A row is one text, all of which sees the queries of all of the row's pictures.

    Args:
        image: its connector norms the features that the queries ask.
        lm_head: scores words; None for a system that only compares.
        opens: the id of the first token of a text that is read; one that is written brings its own.
    """

    kinds: tuple[str, ...] = ("image",)

    def __init__(self, image: MediaInput, qformer: QFormer, pairs: PairHeads, *, lm_head: BertHead | None, opens: int):
        super().__init__()
        self.image, self.qformer, self.pairs, self.opens = image, qformer, pairs, opens
        if lm_head is not None:
            self.lm_head = lm_head
        number_slots(self)

    @property
    def writer(self) -> Captioner:
        return Captioner(self.qformer, cast(BertHead | None, self._modules.get("lm_head")))

    def input(self, kind: str) -> MediaInput:
        return cast(MediaInput, self.get_submodule(kind))

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """By kind (M, P, D): features that the batch brings, or what the encoder makes of its pictures."""
        return encoded(self, batch)

    def connect(self, batch: Batch) -> dict[str, Any]:
        """By kind (M, P, D): what the queries ask."""
        return connected(self, batch) | dict(batch.connected)

    def read(self, batch: Batch) -> Memory:
        """The queries of each row's pictures as they enter each block (B, S, L D); none see each other's."""
        if batch.packed:
            raise ValueError("a Q-Former writes one text per row, but this batch is packed; leave out `packing`")
        rows, made = len(batch.ids_BT), self.connect(batch).get("image")
        if made is None:
            width, like = self.qformer.spec.dim * self.qformer.spec.layers, self.qformer.queries
            nothing_B0 = torch.zeros(rows, 0, dtype=torch.long, device=like.device)
            return Memory(like.new_zeros(rows, 0, width), nothing_B0)
        queries_MQD = self.qformer.before(made)
        found = remembered(queries_MQD, batch.where["image"], batch.documents, tokens=batch.ids_BT.shape[1])
        return replace(found, positions_BS=None, met_BT=None)

    def embed(self, ids: Tensor) -> Tensor:
        return self.writer.embed(ids)

    def hidden(self, batch: Batch) -> Tensor:
        """(B, T, D)"""
        memories = beside(self.read(batch), self.qformer.spec.layers)
        return self.writer.hidden(self.embed(batch.ids_BT), Context(batch.positions_BT, Causal(), memories=memories))

    def head(self, x: Tensor) -> Tensor:
        return self.writer.logits(x)

    def forward(self, batch: Batch) -> Tensor:
        """(B, T, V)"""
        return self.head(self.hidden(batch))

    def compile_steps(self) -> None:
        raise ValueError("steps of a Q-Former are not compiled by torch; leave it as it is")

    # Writing, as scops.core.system.Decoder says -----------------------------------------------------------------------

    def session(self, batch: Batch, capacity: int) -> CachedSession:
        return self.cached(batch, FixedCache(len(batch.ids_BT), capacity, device=batch.ids_BT.device))

    def cached(self, batch: Batch, cache: Cache) -> CachedSession:
        """The pictures are read once; then the texts grow."""
        return CachedSession(Replying(self, self.read(batch)), batch, cache)

    def begin(self, ids_BT: Tensor, positions_BT: Tensor, memory: Memory, cache: Cache) -> tuple[Tensor, Context]:
        """Words and what they may know, behind those that the cache holds."""
        memories = beside(memory, self.qformer.spec.layers)
        return self.embed(ids_BT), Context(positions_BT, cache.visible(ids_BT.shape[1]), memories=memories, cache=cache)

    def opening(self, example: Example) -> int:
        """The whole row is one text."""
        return 0

    def shared(self, tokens: int, *, page: int, media_bytes: int) -> SharedReplies:
        """As scops.core.system.Decoder says; of equal beginnings pictures alone are shared."""
        pages = Pages(tokens // page, size=page, device=self.qformer.queries.device)
        return SharedReplies(self, pages, Encoded(self.kept, media_bytes))

    def kept(self, batch: Batch) -> dict[str, list[tuple[Tensor, ...]]]:
        """By kind and item, what outlives a forward: features (P, D)."""
        return {kind: [(x_PD,) for x_PD in x_MPD] for kind, x_MPD in self.connect(batch).items()}

    @torch.no_grad()
    def token_bytes(self) -> int:
        """Found by writing one token."""
        device = self.qformer.queries.device
        cache, id_11 = GrowingCache(1, device=device), torch.zeros(1, 1, dtype=torch.long, device=device)
        self.writer.hidden(self.embed(id_11), Context(torch.zeros_like(id_11), cache=cache))
        return bytes_of(cache.slots)

    # Comparing, as scops.core.pairs.Comparing says -------------------------------------------------------------------

    @property
    def pairing(self) -> Pairing:
        return self.pairs.numbers

    @property
    def temperature(self) -> Tensor:
        return self.pairs.temperature()

    @property
    def vocabulary(self) -> int:
        return len(self.qformer.words.weight)

    def captions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        lengths_B1 = torch.tensor(batch.lengths, device=batch.ids_BT.device)[:, None]
        real_BT = torch.arange(batch.ids_BT.shape[1], device=batch.ids_BT.device) < lengths_B1
        ids_BT = batch.ids_BT.masked_fill(~real_BT, 0)
        ids_BT[:, 0] = self.opens
        return ids_BT, real_BT

    def texts(self, ids_NT: Tensor, real_NT: Tensor) -> Texts:
        return Texts(ids_NT, real_NT, self.qformer.read(Words(ids_NT, real_NT)))

    def picture_vectors(self, pictures_NPD: Tensor) -> Tensor:
        return self.pairs.picture_vectors(self.qformer(pictures_NPD))

    def text_vectors(self, texts: Texts) -> Tensor:
        return self.pairs.text_vectors(texts.states_NTD)

    def verdicts(self, pictures_NPD: Tensor, texts: Texts) -> Tensor:
        """The mean of what the queries say when they have read the text."""
        fused_NSD = self.qformer(pictures_NPD, Words(texts.ids_NT, texts.real_NT))
        return self.pairs.verdicts(fused_NSD[:, : self.qformer.spec.queries])

    def filled(self, pictures_NPD: Tensor, texts: Texts, index_R: Tensor) -> Tensor:
        raise ValueError("a Q-Former learns no masked words; its objectives are contrastive, matching and generation")

    def similarities(self, batch: Batch) -> Tensor:
        return similarities(cast(Comparing, self), batch)

    def matches(self, batch: Batch) -> Tensor:
        return matches(cast(Comparing, self), batch)
