"""Activation checkpointing (arXiv 1604.06174): a block keeps its input alone and is run again on the way back."""

# B rows, T tokens, D width
from types import MethodType

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scops.nn.block import Block
from scops.nn.context import Context


def checkpoint_blocks(module: nn.Module, on: bool) -> None:
    """Every Block from now on, or none. Gradients are the same to the bit, dropout included.

    Blocks before all that learns keep nothing in any case, and are left alone.
    """
    for block in module.modules():
        if isinstance(block, Block):
            block.__dict__.pop("forward", None)
            if on:
                block.forward = MethodType(_forward, block)  # on the object, so that it survives a deep copy


def _forward(block: Block, x_BTD: Tensor, ctx: Context) -> Tensor:
    """In place of a block's `forward`."""
    learns = x_BTD.requires_grad or any(p.requires_grad for p in block.parameters())
    if not learns or not torch.is_grad_enabled() or ctx.cache is not None:
        return type(block).forward(block, x_BTD, ctx)
    return checkpoint(type(block).forward, block, x_BTD, ctx, use_reentrant=False)
