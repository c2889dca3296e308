"""A system that reads pictures and a prompt with an encoder and writes the reply with a decoder that asks what was read."""

# B rows, T tokens, M media items of all rows, I prepared pictures, P features per picture, Q tokens per item,
# S memory slots, D width, V vocabulary
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from scops.core.batch import Batch, Example
from scops.core.pairs import Comparing, Pairing, Texts
from scops.models.cached import CachedSession
from scops.models.decoder import MediaInput, connected, encoded
from scops.models.encoded import Encoded
from scops.models.pairs import PairHeads, matches, similarities
from scops.models.replies import prompts_of, replies_of
from scops.models.shared_replies import Replier, SharedReplies
from scops.nn.attention import number_slots
from scops.nn.cache import Cache, FixedCache, GrowingCache, bytes_of
from scops.nn.context import Context, Memory
from scops.nn.paged import Pages
from scops.ops.masks import Causal

READ = "read"
"""The memory that a decoder asks: what the encoder made."""


class Writer(Protocol):
    """A language model whose blocks ask the memory READ; positions begin anew with the reply."""

    window: int | None

    def embed(self, ids: Tensor) -> Tensor: ...

    def hidden(self, x_BTD: Tensor, ctx: Context) -> Tensor: ...

    def logits(self, x: Tensor) -> Tensor: ...


class Encoder(Protocol):
    """Reads prompts: words among which media stand, and media beside them by kind. A kind of which the batch has no item is
    left out of the memories."""

    def embed(self, ids: Tensor) -> Tensor: ...

    def __call__(self, words_BTD: Tensor, real_BT: Tensor, memories: Mapping[str, Memory]) -> Memory:
        """All that a decoder may ask."""
        ...


class Reader(Protocol):
    """An encoder that reads texts alone, and together with pictures."""

    @property
    def words(self) -> Tensor:
        """(V, D): what masked words are told by."""
        ...

    def read(self, ids_BT: Tensor, real_BT: Tensor) -> Tensor: ...

    def fused(self, texts: Texts, pictures_NPD: Tensor) -> Tensor: ...


class EncoderDecoder(nn.Module):
    """Satisfies scops.core.system.Decoder. The last assistant's turn of a row is the decoder's, all before is the encoder's.

    Args:
        encoder: an `Encoder`.
        decoder: a `Writer`.
        pairs: compares pictures with texts, for retrieval and pre-training; the encoder is then also a `Reader`. Texts to be
            compared stand where replies do.
        inputs: by kind of media, standing at that name; among the words of the prompt, or beside them.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, *, pairs: PairHeads | None = None, **inputs: MediaInput):
        super().__init__()
        self.kinds = tuple(inputs)
        for kind, module in inputs.items():
            self.add_module(kind, module)
        self.encoder, self.decoder = encoder, decoder
        if pairs is not None:
            self.pairs = pairs
        number_slots(self)

    @property
    def writer(self) -> Writer:
        return cast(Writer, self.decoder)

    @property
    def reader(self) -> Reader:
        return cast(Reader, self.encoder)

    def input(self, kind: str) -> MediaInput:
        return cast(MediaInput, self.get_submodule(kind))

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """By kind (I, P, D): features that the batch brings, or what the encoder makes of its pictures."""
        return encoded(self, batch)

    def connect(self, batch: Batch) -> dict[str, Tensor]:
        """By kind (M, Q, D)."""
        return connected(self, batch) | dict(batch.connected)

    def read(self, batch: Batch) -> Memory:
        """The batch's pictures and prompts, read once; a prompt sees all of its pictures, wherever they stand in it."""
        encoder, ctx = cast(Encoder, self.encoder), Context()
        x_BTD = encoder.embed(batch.ids_BT)
        for kind, tokens in self.connect(batch).items():
            placement, where = self.input(kind).placement, batch.where[kind]
            x_BTD, ctx = placement.place(x_BTD, tokens, where, ctx, batch.documents)
        memories = {name: replace(one, positions_BS=None, met_BT=None) for name, one in ctx.memories.items()}
        return encoder(*prompts_of(batch, x_BTD), memories)

    def embed(self, ids: Tensor) -> Tensor:
        return self.writer.embed(ids)

    def hidden(self, batch: Batch) -> Tensor:
        """(B, T, D): the decoder's states where the reply stands, zeros where the prompt does."""
        replies, memory = replies_of(batch), self.read(batch)
        ctx = Context(replies.positions_BT, Causal(), memories={READ: memory})
        made_BTD = self.writer.hidden(self.embed(replies.ids_BT), ctx)
        rows, tokens = batch.ids_BT.shape
        width, places = replies.ids_BT.shape[1], list(zip(batch.replies, replies.lengths, strict=True))
        made = [np.arange(length) + row * width for row, (_, length) in enumerate(places)]
        there = [np.arange(length) + row * tokens + start for row, (start, length) in enumerate(places)]
        from_R, to_R = (torch.from_numpy(np.concatenate(at)).to(made_BTD.device) for at in (made, there))
        flat = made_BTD.new_zeros(rows * tokens, made_BTD.shape[-1])
        return flat.index_copy(0, to_R, made_BTD.flatten(0, 1)[from_R]).unflatten(0, (rows, tokens))

    def head(self, x: Tensor) -> Tensor:
        return self.writer.logits(x)

    def forward(self, batch: Batch) -> Tensor:
        """(B, T, V); scores have a meaning where the reply stands."""
        return self.head(self.hidden(batch))

    def compile_steps(self) -> None:
        raise ValueError("steps of an encoder-decoder are not compiled by torch; leave it as it is")

    def session(self, batch: Batch, capacity: int) -> CachedSession:
        return self.cached(batch, FixedCache(len(batch.ids_BT), capacity, device=batch.ids_BT.device))

    def cached(self, batch: Batch, cache: Cache) -> CachedSession:
        """The prompts are read once, also by the decoder's cross-attention; then the replies grow."""
        return CachedSession(Replying(self, self.read(batch)), replies_of(batch), cache)

    def begin(self, ids_BT: Tensor, positions_BT: Tensor, memory: Memory, cache: Cache) -> tuple[Tensor, Context]:
        """Words of replies and what the decoder may know, behind those that the cache holds."""
        visible = cache.visible(ids_BT.shape[1], self.writer.window)
        return self.embed(ids_BT), Context(positions_BT, visible, memories={READ: memory}, cache=cache)

    def opening(self, example: Example) -> int:
        """Where what is written begins."""
        if example.reply is None:
            raise ValueError(f"{example.name or 'an example'} does not say where its reply begins")
        return example.reply

    def shared(self, tokens: int, *, page: int, media_bytes: int) -> SharedReplies:
        """As scops.core.system.Decoder says; pages hold replies alone, and a row keeps what its prompt was read as."""
        pages = Pages(tokens // page, size=page, device=next(self.parameters()).device)
        return SharedReplies(self, pages, Encoded(self.kept, media_bytes))

    def kept(self, batch: Batch) -> dict[str, list[tuple[Tensor, ...]]]:
        """By kind and item, what outlives a forward: its features (Q, D)."""
        return {kind: [(x_QD,) for x_QD in x_MQD] for kind, x_MQD in self.connect(batch).items()}

    # Comparing, as scops.core.pairs.Comparing says -------------------------------------------------------------------

    @property
    def heads(self) -> PairHeads:
        if "pairs" not in self._modules:
            raise ValueError("this system was built without heads for pairs (`pairing` of its Spec); it only writes")
        return self.pairs

    @property
    def pairing(self) -> Pairing:
        return self.heads.numbers

    @property
    def temperature(self) -> Tensor:
        return self.heads.temperature()

    @property
    def vocabulary(self) -> int:
        return len(self.reader.words)

    def captions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        replies = replies_of(batch)
        lengths_B1 = torch.tensor(replies.lengths, device=replies.ids_BT.device)[:, None]
        real_BT = replies.positions_BT < lengths_B1
        return replies.ids_BT.masked_fill(~real_BT, 0), real_BT

    def texts(self, ids_NT: Tensor, real_NT: Tensor) -> Texts:
        return Texts(ids_NT, real_NT, self.reader.read(ids_NT, real_NT))

    def picture_vectors(self, pictures_NPD: Tensor) -> Tensor:
        """Of the first token."""
        return self.heads.picture_vectors(pictures_NPD[:, :1])

    def text_vectors(self, texts: Texts) -> Tensor:
        return self.heads.text_vectors(texts.states_NTD)

    def verdicts(self, pictures_NPD: Tensor, texts: Texts) -> Tensor:
        return self.heads.verdicts(self.reader.fused(texts, pictures_NPD)[:, :1])

    def filled(self, pictures_NPD: Tensor, texts: Texts, index_R: Tensor) -> Tensor:
        return self.heads.fill(self.reader.fused(texts, pictures_NPD), index_R, self.reader.words)

    def similarities(self, batch: Batch) -> Tensor:
        return similarities(cast(Comparing, self), batch)

    def matches(self, batch: Batch) -> Tensor:
        return matches(cast(Comparing, self), batch)

    @torch.no_grad()
    def token_bytes(self) -> int:
        """Of a token of the reply; found by writing one."""
        device = next(self.parameters()).device
        cache, id_11 = GrowingCache(1, device=device), torch.zeros(1, 1, dtype=torch.long, device=device)
        nothing = Memory(self.embed(id_11)[:, :0], id_11[:, :0])
        self.writer.hidden(*self.begin(id_11, torch.zeros_like(id_11), nothing, cache))
        return bytes_of(cache.slots)


class Replying:
    """A system whose prompts were read: what a session of replies sees of it."""

    def __init__(self, system: Replier, memory: Memory):
        self.system, self.language, self.memory = system, system.writer, memory

    def embed(self, ids: Tensor) -> Tensor:
        return self.system.embed(ids)

    def steps(self) -> Writer:
        return self.language

    def read(self, batch: Batch, cache: Cache) -> tuple[Tensor, Context]:
        return self.system.begin(batch.ids_BT, batch.positions_BT, self.memory, cache)
