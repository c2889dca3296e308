"""Feed-forward layers."""

# D width, F hidden width
from torch import Tensor, nn
from torch.nn.functional import relu, silu

from scops.native.learning import SwiGluGate, takes


class FeedForward(nn.Module):
    """down(activation(up(x)))"""

    def __init__(self, up: nn.Module, activation: nn.Module, down: nn.Module):
        super().__init__()
        self.up, self.activation, self.down = up, activation, down

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class Gated(nn.Module):
    """down(activation(gate(x)) * up(x)) (arXiv 2002.05202)"""

    def __init__(self, gate: nn.Module, activation: nn.Module, up: nn.Module, down: nn.Module):
        super().__init__()
        self.gate, self.activation, self.up, self.down = gate, activation, up, down

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))


class SwiGlu(nn.Module):
    """down(norm(silu(gate(x)) * up(x))) (arXiv 2002.05202).

    Args:
        norm: of the hidden width; EVA-02 and the Owl abstractor have one, LLaMA has none.
    """

    def __init__(self, dim: int, hidden: int, *, bias: bool = False, norm: nn.Module | None = None):
        super().__init__()
        self.gate, self.up = nn.Linear(dim, hidden, bias=bias), nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)
        self.norm = norm or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate(x), self.up(x)
        return self.down(self.norm(SwiGluGate.apply(gate, up) if takes(gate, up) else silu(gate) * up))


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x) (OpenAI CLIP)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class SquaredRelu(nn.Module):
    """max(x, 0) ** 2 (Primer, arXiv 2109.08668)."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(x).square()
