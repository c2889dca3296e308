"""Few new tokens through a language model: sub-layers that the kernels know in one call, all others as they are."""

# B rows, T new tokens, R real ones of all rows, D width, V vocabulary, L pages per row
import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from scops.language.model import LanguageModel
from scops.language.qwen import Sharpened
from scops.native.library import library
from scops.native.matrix import FORMATS, MOST_ROWS, matrix_of, product
from scops.native.pages import PagesStruct
from scops.native.sublayers import Known, Told, Turns, norm_step, planned
from scops.nn.block import Routed, run
from scops.nn.cache import Paged
from scops.nn.context import Context
from scops.ops.masks import Behind, Causal


@dataclass(frozen=True)
class Tokens:
    """New tokens, each as a row of its own: a later one of the same row finds the keys of the earlier ones in the pages.

    Args:
        real_R: which of all B x T are no padding; None when all are.
        table_RL, before_R: pages of each, and how many tokens of its row stand before it.
    """

    cache: Paged
    real_R: Tensor | None
    table_RL: Tensor
    before_R: Tensor
    positions_R1: Tensor | None

    @classmethod
    def of(cls, cache: Paged, tokens: int, positions_BT: Tensor | None) -> "Tokens":
        if tokens == 1:
            return cls(cache, None, cache.table_BL.contiguous(), cache.lengths_B.contiguous(), positions_BT)
        rows, new_T = len(cache.lengths_B), torch.arange(tokens)
        real_R = (new_T < cache.tokens_B[:, None]).flatten().nonzero()[:, 0]
        row_R, before_R = real_R // tokens, (cache.lengths_B[:, None] + new_T).flatten()[real_R]
        positions_R1 = None if positions_BT is None else positions_BT.expand(rows, -1).flatten()[real_R, None]
        padded = len(real_R) < rows * tokens
        return cls(cache, real_R if padded else None, cache.table_BL[row_R], before_R, positions_R1)


class Steps:
    """A language model's steps, planned once; its weights must stay where they are as long as this is used."""

    def __init__(self, language: LanguageModel):
        self.language = language
        sublayers = [sublayer for block in language.blocks for sublayer in planned(block)]
        sublayers.append(norm_step(language.norm) or language.norm)
        self.known = [isinstance(sublayer, Known) for sublayer in sublayers[:-1]]
        self.runs = [
            Told(list(cast(Iterable[Known], some))) if known else list(cast(Iterable[nn.Module], some))
            for known, some in groupby(sublayers, key=lambda sublayer: isinstance(sublayer, Known))
        ]
        self.turns = Turns()
        parts = list(language.modules())
        self.routed = any(isinstance(part, Routed) for part in parts)
        self.trained = min((part.trained for part in parts if isinstance(part, Sharpened)), default=None)
        self.head = matrix_of(language.projection())
        self.room = torch.empty(0, dtype=torch.uint8)
        self.brief = bool(cast(ctypes.CDLL, library()).multiplies_bfloat16())

    def takes(self, x_BTD: Tensor, ctx: Context) -> bool:
        """Few tokens, a cache with pages, and nothing to be differentiated.

        Of routed parts the first expert alone; nothing beyond a trained length, where queries and ropes change.

        Several tokens per row only where the processor multiplies bfloat16; torch's float32 products are better for many.
        """
        if x_BTD.dtype not in FORMATS or x_BTD.shape[:2].numel() > MOST_ROWS or torch.is_grad_enabled():
            return False
        if (self.routed and ctx.route is not None) or self._is_beyond(ctx):
            return False
        one = x_BTD.shape[1] == 1 or (x_BTD.dtype is torch.bfloat16 and self.brief)
        return one and isinstance(ctx.visible, Causal | Behind) and hasattr(ctx.cache, "pages")

    def _is_beyond(self, ctx: Context) -> bool:
        if ctx.stretch_BT is not None and ctx.stretch_BT.any():
            return True
        return self.trained is not None and ctx.positions_BT is not None and int(ctx.positions_BT.max()) >= self.trained

    def hidden(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        """As LanguageModel.hidden."""
        if not self.takes(x_BTD, ctx):
            return self.language.hidden(x_BTD, ctx)
        tokens = Tokens.of(cast(Paged, ctx.cache), x_BTD.shape[1], ctx.positions_BT)
        x_BTD = run(self.language.enter, x_BTD, ctx).clone(memory_format=torch.contiguous_format)
        self.turns.at(tokens.positions_R1)
        for some in self.runs:
            if isinstance(some, Told):
                x_RD = x_BTD.flatten(0, 1) if tokens.real_R is None else x_BTD.flatten(0, 1)[tokens.real_R]
                self._run(some, x_RD, tokens)
                if tokens.real_R is not None:
                    x_BTD.flatten(0, 1)[tokens.real_R] = x_RD
            else:
                for sublayer in some:
                    x_BTD = run(sublayer, x_BTD, ctx)
                x_BTD = x_BTD.contiguous()
        return x_BTD

    def _run(self, told: Told, x_RD: Tensor, tokens: "Tokens") -> None:
        """Sub-layers that the kernels know, one behind the other, in place."""
        kernels, layers = cast(ctypes.CDLL, library()), told(tokens.cache, x_RD.dtype, self.turns)
        brief, window = x_RD.dtype is torch.bfloat16, self.language.window or 0
        of_all = tokens.table_RL.data_ptr(), tokens.before_R.data_ptr(), tokens.table_RL.shape[1], window
        pages = PagesStruct(tokens.cache.page, 0, 0, brief, None, None, *of_all)
        work, threads = (layers, len(layers), ctypes.byref(pages), len(x_RD)), torch.get_num_threads()
        size = kernels.steps_room(*work)
        if self.room.numel() < size:
            self.room = torch.empty(size, dtype=torch.uint8)
        kernels.steps(*work, x_RD.data_ptr(), brief, self.room.data_ptr(), threads)

    def logits(self, x_BD: Tensor) -> Tensor:
        """As LanguageModel.logits."""
        if self.head is None or len(x_BD) > MOST_ROWS or x_BD.dtype not in FORMATS or torch.is_grad_enabled():
            return self.language.logits(x_BD)
        return product(self.head, x_BD, x_BD.dtype)


def steps_of(language: LanguageModel) -> Steps | None:
    """None where kernels cannot be had, or would do nothing here."""
    if next(language.parameters()).device.type != "cpu" or library() is None:
        return None
    steps = Steps(language)
    return steps if any(steps.known) else None
