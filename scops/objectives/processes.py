"""The rows of all processes, of which each brings its own number."""

# N rows of this process, W rows of all
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed


def several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def gathered(x_N: Tensor) -> Tensor:
    """Without gradient."""
    return together(x_N.detach(), counts(len(x_N), x_N.device)) if several() else x_N


def counts(rows: int, device: torch.device) -> tuple[int, ...]:
    """How many each process has, on the host."""
    found = [torch.zeros((), dtype=torch.long, device=device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, torch.tensor(rows, device=device))
    return tuple(torch.stack(found).tolist())


def together(x_N: Tensor, rows: Sequence[int]) -> Tensor:
    """(W, ...), process by process; gradients go back to whose rows they are.

    Args:
        rows: of each process.
    """
    return _Together.apply(x_N, tuple(rows))


def words(mine: Sequence[str]) -> list[str]:
    """Of all processes."""
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, list(mine))
    return [word for some in found for word in some]


class _Together(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_N: Tensor, rows: tuple[int, ...]) -> Tensor:
        ctx.rows = rows
        wide = torch.cat([x_N, x_N.new_zeros(max(rows) - len(x_N), *x_N.shape[1:])]).contiguous()
        pieces = [torch.empty_like(wide) for _ in rows]
        distributed.all_gather(pieces, wide)
        return torch.cat([piece[:count] for piece, count in zip(pieces, rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total_W = grads[0].contiguous()
        distributed.all_reduce(total_W)
        return total_W.split(ctx.rows)[distributed.get_rank()], None
