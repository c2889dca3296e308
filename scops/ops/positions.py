"""Fixed sine and cosine positions."""

# P positions, D width
import torch
from torch import Tensor


def sincos(positions_P: Tensor, width: int, *, base: float = 10000.0) -> Tensor:
    """(P, D): sines in the first half, cosines in the second, frequency base ** (-i / (D / 2)); float64 inside, float32 out."""
    half = torch.arange(width // 2, dtype=torch.float64, device=positions_P.device) / (width / 2)
    angles = positions_P.double()[:, None] / base**half
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_grid(rows: int, columns: int, width: int) -> Tensor:
    """(rows * columns, D), row-major: first half of the channels from the column, second half from the row (MAE, arXiv 2111.06377)."""
    column = sincos(torch.arange(columns), width // 2).repeat(rows, 1)
    row = sincos(torch.arange(rows), width // 2).repeat_interleave(columns, 0)
    return torch.cat([column, row], dim=1)
