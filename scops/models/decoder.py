"""A system that reads media and text and writes text: encoders -> connectors -> placement -> language model."""

# B rows, T tokens, M media items of all rows, I prepared pictures, P features per picture, Q tokens per item, D width,
# V vocabulary
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from scops.core.batch import Batch, Tiles, Where
from scops.core.layout import WHOLE
from scops.language.model import LanguageModel
from scops.models.beside import Starts
from scops.models.cached import CachedSession, Stepper
from scops.models.compiled import CompiledSteps
from scops.models.encoded import Encoded
from scops.models.shared import PagedSession
from scops.native.steps import steps_of
from scops.nn.attention import Asks, number_slots
from scops.nn.cache import Cache, FixedCache, GrowingCache, bytes_of
from scops.nn.context import Context
from scops.nn.paged import Pages
from scops.nn.tiled import run_tiled
from scops.ops.attention import realise
from scops.ops.masks import Causal, Documents, Mask, Real, Window

Tokens = Tensor | Sequence[Tensor]
"""What a connector makes: (M, Q, D), or (Q, D) of each item where items differ in length."""


class Placement(Protocol):
    """Where a modality's tokens go: into the sequence, or beside it.

    Args:
        memory: the name of the memory beside the sequence; "" in it.
    """

    memory: str

    def place(
        self, x_BTD: Tensor, tokens_MQD: Tokens, where: Where, ctx: Context, documents: Starts
    ) -> tuple[Tensor, Context]: ...


class Inline:
    """Over the placeholders; the processor has already written one placeholder per token."""

    memory = ""

    def place(
        self, x_BTD: Tensor, tokens_MQD: Tokens, where: Where, ctx: Context, documents: Starts
    ) -> tuple[Tensor, Context]:
        tokens_RD = tokens_MQD.flatten(0, 1) if isinstance(tokens_MQD, Tensor) else torch.cat([*tokens_MQD])
        if len(tokens_RD) != len(where.index_R):
            made = " + ".join(str(len(tokens_QD)) for tokens_QD in tokens_MQD)
            raise ValueError(
                f"the text has room for {len(where.index_R)} media tokens ({len(where.row_M)} items), but the "
                f"connector made {made} = {len(tokens_RD)}; the layout and the connector disagree on tokens per item"
            )
        flat = x_BTD.flatten(0, 1).index_copy(0, where.index_R, tokens_RD.to(x_BTD.dtype))
        return flat.unflatten(0, x_BTD.shape[:2]), ctx


class MediaInput(nn.Module):
    """One modality: encoder, connector, and where the result goes."""

    def __init__(self, encoder: nn.Module, connector: nn.Module, placement: Placement):
        super().__init__()
        self.encoder, self.connector, self.placement = encoder, connector, placement


class MultimodalDecoder(nn.Module):
    """Satisfies scops.core.system.Decoder. Each keyword is a kind of media; its module stands at that name."""

    def __init__(self, language: LanguageModel, **inputs: MediaInput):
        super().__init__()
        self.kinds = tuple(inputs)
        for kind, module in inputs.items():
            self.add_module(kind, module)
        self.language = language
        self.compiled_steps: CompiledSteps | None = None
        number_slots(self)

    def compile_steps(self) -> None:
        """From here on, sessions' steps of one token are compiled by torch, for each number of rows and capacity once."""
        self.compiled_steps = CompiledSteps(self.language)

    def steps(self) -> Stepper:
        return self.compiled_steps or steps_of(self.language) or self.language

    def input(self, kind: str) -> MediaInput:
        return cast(MediaInput, self.get_submodule(kind))

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """By kind (I, P, D): features that the batch brings, or what the encoder makes of its pictures."""
        return encoded(self, batch)

    def connect(self, batch: Batch) -> dict[str, Any]:
        """By kind Tokens; what the batch brings connected already, perhaps of half an item, as if of one item."""
        made = connected(self, batch)
        return made | {kind: tokens_RD[None] for kind, tokens_RD in batch.connected.items()}

    def embed(self, ids: Tensor) -> Tensor:
        return self.language.words(ids)

    def read(self, batch: Batch, cache: Cache | None = None, visible: Mask | None = None) -> tuple[Tensor, Context]:
        """Embeddings and context of the whole batch: the only place that knows how media enters.

        Args:
            cache: where it holds tokens, the batch stands behind them; its positions say so.
            visible: in place of what the batch's documents let see.
        """
        x_BTD = self.embed(batch.ids_BT)
        rows, tokens = batch.ids_BT.shape
        if cache is not None:
            seen = cache.visible(tokens, self.language.window)
        else:
            mask = visible or (Documents(batch.documents) if batch.packed else Causal())
            if self.language.window is not None and tokens > self.language.window:
                mask = mask & Window(self.language.window)
            seen = realise(mask, rows=rows, queries=tokens, keys=tokens, device=x_BTD.device)
        ctx = Context(batch.positions_BT, seen, batch.route, cache=cache, stretch_BT=self._stretch(batch))
        for kind, tokens_MQD in self.connect(batch).items():
            placement, where = self.input(kind).placement, batch.where[kind]
            x_BTD, ctx = placement.place(x_BTD, tokens_MQD, where, ctx, batch.documents)
        return x_BTD, ctx

    def _stretch(self, batch: Batch) -> Tensor | None:
        """(B, T), as in Context; a language model that learns is not stretched."""
        stretch = self.language.stretch
        if stretch is None or self.language.training:
            return None
        tokens, index_BT = np.unique(batch.opened_BT, return_inverse=True)
        by_tokens = torch.tensor([stretch(count) for count in tokens.tolist()])
        return by_tokens[torch.from_numpy(index_BT).reshape(batch.ids_BT.shape)].to(batch.ids_BT.device)

    def hidden(self, batch: Batch) -> Tensor:
        return self.language.hidden(*self.read(batch))

    def head(self, x: Tensor) -> Tensor:
        return self.language.logits(x)

    def forward(self, batch: Batch) -> Tensor:
        """(B, T, V). Padding on the right sees what stands before it and is seen by none."""
        return self.head(self.hidden(batch))

    def masked(self, batch: Batch) -> Tensor:
        """(B, T, V) with padding hidden from padding too: what references with an attention mask compute."""
        lengths_B1 = torch.tensor(batch.lengths, device=batch.ids_BT.device)[:, None]
        real_BT = torch.arange(batch.ids_BT.shape[1], device=batch.ids_BT.device) < lengths_B1
        x_BTD, ctx = self.read(batch, visible=Causal() & Real(real_BT))
        return self.head(self.language.hidden(x_BTD, ctx))

    def session(self, batch: Batch, capacity: int) -> CachedSession:
        rows = batch.ids_BT.shape[0]
        return CachedSession(self, batch, FixedCache(rows, capacity, device=batch.ids_BT.device))

    def shared(self, tokens: int, *, page: int, media_bytes: int) -> PagedSession:
        pages = Pages(tokens // page, size=page, device=next(self.parameters()).device)
        return PagedSession(self, pages, Encoded(self.kept, media_bytes))

    def asking(self, kind: str) -> tuple[Asks, ...]:
        """Who asks what of this kind stands beside the sequence; nobody where it stands in it."""
        memory = self.input(kind).placement.memory
        modules: Iterable[object] = self.language.modules() if memory else ()
        return tuple(module for module in modules if isinstance(module, Asks) and module.memory == memory)

    def kept(self, batch: Batch) -> dict[str, list[tuple[Tensor, ...]]]:
        """By kind and item, what outlives a forward: its tokens (Q, D), or unplaced keys and values (K, Q, H) of all who ask."""
        made: dict[str, list[tuple[Tensor, ...]]] = {}
        for kind, tokens_MQD in self.connect(batch).items():
            asking = self.asking(kind)
            tensors = [x for one in asking for x in one.of_items(tokens_MQD)] if asking else [tokens_MQD]
            made[kind] = list(zip(*tensors, strict=True))
        return made

    @torch.no_grad()
    def token_bytes(self) -> int:
        """Found by reading one token."""
        device = next(self.parameters()).device
        cache, id_11 = GrowingCache(1, device=device), torch.zeros(1, 1, dtype=torch.long, device=device)
        self.language.hidden(self.embed(id_11), Context(torch.zeros_like(id_11), cache=cache))
        return bytes_of(cache.slots)


class Seeing(Protocol):
    """What has encoders and connectors, by kind of media."""

    kinds: tuple[str, ...]

    def input(self, kind: str) -> Any:
        """A module with the parts `encoder` and `connector`."""
        ...


def encoded(system: Seeing, batch: Batch) -> dict[str, Tensor]:
    """By kind (I, P, D): features that the batch brings, or what the encoder makes of its pictures."""
    unknown = (set(batch.media) | set(batch.features)) - set(system.kinds)
    if unknown:
        raise ValueError(
            f"the batch has media of kind {sorted(unknown)}, but this system reads "
            f"{', '.join(system.kinds) or 'text alone'}"
        )
    made = {
        kind: run_tiled(system.input(kind).encoder, media, _tiles(batch, kind, media))
        for kind, media in batch.media.items()
    }
    return made | dict(batch.features)


def connected(system: Seeing, batch: Batch) -> dict[str, Any]:
    """By kind Tokens: what the connector makes of them."""
    return {
        kind: run_tiled(system.input(kind).connector, f_IPD, _tiles(batch, kind, f_IPD))
        for kind, f_IPD in encoded(system, batch).items()
    }


def _tiles(batch: Batch, kind: str, x: Tensor) -> Tiles:
    return batch.tiles.get(kind) or Tiles.of([(WHOLE,)] * len(x), x.device)
