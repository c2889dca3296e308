"""RMSNorm (arXiv 1910.07467)."""

# D width
from torch import Tensor, nn

from scops.native.learning import RmsNorm, takes


class RMSNorm(nn.RMSNorm):
    """torch's; where it learns on a CPU, one pass over memory each way, which keeps its input alone."""

    def forward(self, x: Tensor) -> Tensor:
        if self.eps is None or self.weight is None or len(self.normalized_shape) > 1 or not takes(x, self.weight):
            return super().forward(x)
        return RmsNorm.apply(x, self.weight, self.eps)
