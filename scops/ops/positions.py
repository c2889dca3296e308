"""Fixed sine and cosine positions, and learned ones that go to another grid."""

# P positions, D width
from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import interpolate


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


def spread(table: Tensor, tokens: int, by: str = "bicubic") -> Tensor:
    """Learned positions (..., P, D) of a square grid, brought to one of so many tokens; that of a class token in front stays.

    The counts say whether there is a class token. In float32, a cell's middle being its place (align_corners off), as in
    salesforce/LAVIS lavis/models/eva_vit.py and X-PLUG/mPLUG-Owl mPLUG-Owl2/mplug_owl2/model/visual_encoder.py.

    Args:
        tokens: with the class token.
        by: a filter of torch, "bicubic" or "bilinear".
    Raises:
        ValueError: one of the two counts is no square grid.
    """
    found = table.shape[-2]
    if found == tokens:
        return table
    before = next((count for count in (0, 1) if _is_square(found - count) and _is_square(tokens - count)), None)
    if before is None:
        raise ValueError(
            f"{found} positions cannot become {tokens}: they are no two squares, with a class token or without"
        )
    (old, new), leading = (isqrt(count - before) for count in (found, tokens)), table.shape[:-2]
    kept, grid = table.reshape(-1, *table.shape[-2:]).split([before, old * old], 1)
    grid = interpolate(grid.mT.unflatten(2, (old, old)).float(), (new, new), mode=by, align_corners=False)
    return torch.cat([kept, grid.flatten(2).mT.to(table)], 1).reshape(*leading, tokens, table.shape[-1])


def _is_square(count: int) -> bool:
    return count > 0 and isqrt(count) ** 2 == count
