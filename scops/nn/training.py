"""How blocks are computed where something learns: as they are, run again on the way back, compiled by torch."""

# B rows, T tokens, D width
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scops.native.library import compiler
from scops.nn.block import Block
from scops.nn.context import Context
from scops.ops.untraced import leave_out

Forward = Callable[[Block, Tensor, Context], Tensor]


def train_blocks(module: nn.Module, *, again: int = 0, compiled: bool = False) -> None:
    """From now on; the other way round with the defaults.

    Blocks before all that learns keep nothing in any case, and are left alone, as all are where nothing learns.

    Args:
        again: every so manieth block, the first included, keeps its input alone and is run again on the way back
            (arXiv 1604.06174); 0 for none. Gradients are the same to the bit, dropout included.
        compiled: at the first use, for any number of rows and tokens.
    Raises:
        ValueError: torch finds nothing to compile with.
    """
    if compiled and next(module.parameters()).device.type == "cpu" and compiler() is None:
        raise ValueError("blocks cannot be compiled without a C++ compiler; install g++ or clang++, or name one in CXX")
    if compiled:
        leave_out()
    forward = torch.compile(Block.forward, dynamic=True) if compiled else Block.forward
    twice = partial(_again, partial(_anew, forward) if compiled else forward)
    blocks = [block for block in module.modules() if isinstance(block, Block)]
    for number, block in enumerate(blocks):
        block.__dict__.pop("forward", None)
        is_again = again > 0 and number % again == 0
        if compiled or is_again:  # on the object, so that it survives a deep copy
            block.forward = MethodType(partial(_learning, twice if is_again else forward), block)


def _learning(inside: Forward, block: Block, x_BTD: Tensor, ctx: Context) -> Tensor:
    """In place of a block's `forward`."""
    learns = x_BTD.requires_grad or any(p.requires_grad for p in block.parameters())
    if not learns or not torch.is_grad_enabled() or ctx.cache is not None:
        return Block.forward(block, x_BTD, ctx)
    return inside(block, x_BTD, ctx)


def _again(forward: Forward, block: Block, x_BTD: Tensor, ctx: Context) -> Tensor:
    return checkpoint(forward, block, x_BTD, ctx, use_reentrant=False)


def _anew(forward: Forward, block: Block, x_BTD: Tensor, ctx: Context) -> Tensor:
    """With nothing worked out before: what is there already would make the second run another graph than the first."""
    return forward(block, x_BTD, replace(ctx))
