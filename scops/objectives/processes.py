"""What processes tell each other: whose number is which, plain values, sums, and the rows of all.

Alone, a process is told what it says.
"""

# N rows of this process, W rows of all
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed


def place() -> tuple[int, int]:
    """This process's number and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def of_all(value: Any) -> list[Any]:
    """One plain value per process, on all of them."""
    values = [value] * place()[1]
    if len(values) > 1:
        distributed.all_gather_object(values, value)
    return values


def summed(value: Any, device: torch.device) -> Any:
    """The sum of a number of each."""
    if place()[1] == 1:
        return value
    tensor = torch.tensor(value, device=device, dtype=torch.int64 if isinstance(value, int) else torch.float64)
    distributed.all_reduce(tensor)
    return tensor.item()


def add_up(tensors: Iterable[Tensor]) -> None:
    """In place, one message per dtype; every process has tensors of the same shapes."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for some in by_dtype.values():
        flat = torch.cat([tensor.flatten() for tensor in some])
        distributed.all_reduce(flat)
        for tensor, piece in zip(some, flat.split([tensor.numel() for tensor in some]), strict=True):
            tensor.copy_(piece.view_as(tensor))


def counts(rows: int, device: torch.device) -> tuple[int, ...]:
    """How many rows each has, on the host."""
    if place()[1] == 1:
        return (rows,)
    mine = torch.tensor([rows], device=device)
    found = [torch.empty_like(mine) for _ in range(place()[1])]
    distributed.all_gather(found, mine)
    return tuple(torch.cat(found).tolist())


def gathered(x_N: Tensor) -> Tensor:
    """(W, ...), without gradient."""
    return together(x_N.detach(), counts(len(x_N), x_N.device))


def together(x_N: Tensor, rows: Sequence[int]) -> Tensor:
    """(W, ...), process by process; gradients go back to whose rows they are.

    Args:
        rows: of each process; of one alone, they are all.
    """
    return _Together.apply(x_N, tuple(rows)) if len(rows) > 1 else x_N


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
