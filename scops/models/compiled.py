"""A step of one token per row as one graph that torch compiles: the same graph however long the context has grown."""

# B rows, K key heads, S tokens of capacity, H head width, D width
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scops.language.model import LanguageModel
from scops.nn.attention import SelfAttention
from scops.nn.cache import FixedCache, Pair
from scops.nn.context import Context
from scops.ops.attention import Visible, attend


class _Room:
    """The cache inside the graph: a new token's place is data, and all of the capacity is looked at."""

    def __init__(self, kept: dict[int, Pair], lengths_B: Tensor, window: int | None):
        self.kept, self.lengths_B, self.window = kept, lengths_B, window

    def places(self, tokens: int) -> Tensor:
        capacity = next(iter(self.kept.values()))[0].shape[2]
        return torch.arange(capacity, device=self.lengths_B.device)[None]

    def attend(
        self, slot: int, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, visible: Visible, bias: Tensor | None = None
    ) -> Tensor:
        k_BKSH, v_BKSH = self.kept[slot]
        row_B = torch.arange(len(self.lengths_B), device=q_BNTH.device)
        k_BKSH[row_B, :, self.lengths_B] = k_BKTH[:, :, 0].to(k_BKSH.dtype)
        v_BKSH[row_B, :, self.lengths_B] = v_BKTH[:, :, 0].to(v_BKSH.dtype)
        key_S, last_B1 = torch.arange(k_BKSH.shape[2], device=q_BNTH.device), self.lengths_B[:, None]
        seen_BS = key_S <= last_B1
        if self.window is not None:
            seen_BS = seen_BS & (last_B1 - key_S < self.window)
        return attend(q_BNTH, k_BKSH, v_BKSH, seen_BS[:, None, None], bias=bias)


class CompiledSteps:
    """In place of `scops.native.steps.Steps`, for systems whose blocks hold self-attention alone.

    On a GPU the graph is also recorded (CUDA graphs), for each cache anew. A graph is made per number of rows and capacity, at its
    first use.

    Args:
        say: is told what is being compiled.
    """

    def __init__(self, language: LanguageModel, *, say: Callable[[str], None] | None = None):
        self.language = language
        self.slots = [m.slot for m in language.blocks.modules() if isinstance(m, SelfAttention)]
        self.say = say or _on_stderr
        self.seen: set[tuple[int, int]] = set()
        mode = "reduce-overhead" if language.embed.weight.is_cuda else None
        self.compiled = torch.compile(self._step, dynamic=False, mode=mode)

    def hidden(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        """As LanguageModel.hidden."""
        cache = ctx.cache
        if x_BTD.shape[1] != 1 or not isinstance(cache, FixedCache) or torch.is_grad_enabled():
            return self.language.hidden(x_BTD, ctx)
        if ctx.memories or ctx.stretch_BT is not None:
            return self.language.hidden(x_BTD, ctx)
        size = len(x_BTD), cache.capacity
        if size not in self.seen:
            self.say(f"compiling a step of {size[0]} rows with room for {size[1]} tokens (once; some ten seconds)")
            self.seen.add(size)
        keys, values = zip(*(cache.slots[slot] for slot in self.slots), strict=True)
        for kept in (*keys, *values):  # written in place: torch records no graph of that unless their addresses stay
            torch._dynamo.mark_static_address(kept)
        assert ctx.positions_BT is not None, "a session knows where its tokens stand"
        return self.compiled(x_BTD, ctx.positions_BT, cache.lengths_B, keys, values)

    def logits(self, x_BD: Tensor) -> Tensor:
        """As LanguageModel.logits."""
        return self.language.logits(x_BD)

    def _step(
        self, x_B1D: Tensor, position_B1: Tensor, lengths_B: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> Tensor:
        kept = dict(zip(self.slots, zip(keys, values, strict=True), strict=True))
        room: Any = _Room(kept, lengths_B, self.language.window)
        return self.language.hidden(x_B1D, Context(position_B1, cache=room))


def _on_stderr(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
