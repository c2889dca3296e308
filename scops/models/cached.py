"""Conversations with a cache of their own: a batch is read once, then every row grows by a token a step."""

# B rows, T tokens, V vocabulary, R chosen rows
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from scops.core.batch import Batch
from scops.nn.cache import Cache
from scops.nn.context import Context


class Stepper(Protocol):
    """What runs a language model: itself, or something faster that does the same."""

    def hidden(self, x_BTD: Tensor, ctx: Context, /) -> Tensor: ...

    def logits(self, x_BD: Tensor, /) -> Tensor: ...


class Growing(Protocol):
    """What a session asks of a system: to read a batch, and the words of one token more."""

    @property
    def language(self) -> Any: ...

    def read(self, batch: Batch, cache: Cache) -> tuple[Tensor, Context]: ...

    def embed(self, ids: Tensor) -> Tensor: ...

    def steps(self) -> Stepper: ...


class CachedSession:
    """Reads the batch once, then one token per row and step."""

    def __init__(self, system: Growing, batch: Batch, cache: Cache, *, steps: Stepper | None = None):
        if batch.packed:
            raise ValueError("a session needs one document per row, but this batch is packed")
        self.system, self.cache = system, cache
        cache.reserve(batch.lengths)
        x_BTD, ctx = system.read(batch, cache)
        self.steps = steps or system.steps()
        hidden_BTD = self.steps.hidden(x_BTD, ctx)
        lengths_B = torch.tensor(batch.lengths, device=x_BTD.device)
        cache.advance(lengths_B)
        last_BD = hidden_BTD[torch.arange(len(lengths_B), device=x_BTD.device), lengths_B - 1]
        self.logits_BV = self.steps.logits(last_BD)
        self.position_B = lengths_B
        self.ctx = replace(
            ctx, route=None, stretch_BT=None if ctx.stretch_BT is None else ctx.stretch_BT[:, :1],
            memories={name: memory.behind() for name, memory in ctx.memories.items()},
        )  # fmt: skip

    def step(self, ids_B: Tensor) -> Tensor:
        language = self.system.language
        self.cache.reserve([1] * len(ids_B))
        visible = self.cache.visible(1, language.window)
        ctx = replace(self.ctx, positions_BT=self.position_B[:, None], visible=visible)
        hidden_B1D = self.steps.hidden(self.system.embed(ids_B[:, None]), ctx)
        self.cache.advance(torch.ones_like(ids_B))
        self.position_B = self.position_B + 1
        self.logits_BV = self.steps.logits(hidden_B1D[:, 0])
        return self.logits_BV

    def select(self, rows_R: Tensor) -> None:
        self.cache.select(rows_R)
        self.position_B, self.logits_BV = self.position_B[rows_R], self.logits_BV[rows_R]
        memories = {name: memory.select(rows_R) for name, memory in self.ctx.memories.items()}
        stretch_BT = None if self.ctx.stretch_BT is None else self.ctx.stretch_BT[rows_R]
        self.ctx = replace(self.ctx, memories=memories, stretch_BT=stretch_BT)
