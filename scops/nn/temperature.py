"""A learnt temperature, which starts where it should however the modules around it are initialised, and one that stays."""

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """forward: () -> a scalar"""

    def __init__(self, start: float):
        super().__init__()
        self.start, self.value = start, nn.Parameter(torch.tensor(start))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.value, self.start)

    def forward(self) -> Tensor:
        return self.value


class FixedTemperature(nn.Module):
    """forward: () -> a scalar, on the host; for a system that never learns it."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self) -> Tensor:
        return torch.tensor(self.value)
