"""A gate that starts closed: what stands behind it has no part in anything until it is learnt (Flamingo, arXiv 2204.14198, 2.2)."""

import torch
from torch import Tensor, nn


class TanhGate(nn.Module):
    """forward: x -> x tanh(weight)

    Args:
        width: 1 for one number, that of x for one per channel.
    """

    def __init__(self, width: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.tanh()
