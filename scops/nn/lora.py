"""Low-rank adapters (LoRA, arXiv 2106.09685): W + alpha / rank * B A, around a projection whose own paths stay the same."""

# r rank
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scops.core.glob import covered
from scops.core.stage import Lora


class LoRA(nn.Module):
    """W x + bias + alpha / rank * B A dropout(x); starts as the projection it wraps, because B is zero.

    forward: (..., in) -> (..., out), in the dtype of x

    Args:
        base: its `weight` and `bias` become this module's own, so that their paths do not change.
        dropout: share of the adapter's input that is dropped in training.
        dtype: in which A and B are kept and moved, whatever the base is kept in; products are in the dtype of x.
    """

    def __init__(
        self, base: nn.Linear, rank: int, *, alpha: float, dropout: float = 0.0, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if not 0 < rank <= min(base.in_features, base.out_features):
            raise ValueError(f"LoRA of rank {rank} around a projection {base.in_features} -> {base.out_features}")
        self.in_features, self.out_features = base.in_features, base.out_features
        self.rank, self.alpha, self.scale = rank, alpha, alpha / rank
        self.weight, self.bias = base.weight, base.bias
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, dtype=dtype, device=base.weight.device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, dtype=dtype, device=base.weight.device))
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.lora_a.to(x.dtype), (self.lora_b * self.scale).to(x.dtype)
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(self.dropout(x), a), b)

    def merged(self) -> nn.Linear:
        """One plain projection that does the same, in the base's dtype."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        grown = self.weight.detach().to(self.lora_a.dtype) + self.scale * (self.lora_b @ self.lora_a).detach()
        plain.weight = nn.Parameter(grown.to(self.weight.dtype), requires_grad=self.weight.requires_grad)
        plain.bias = self.bias
        return plain.train(self.training)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, rank {self.rank}, alpha {self.alpha}"


def add(module: nn.Module, spec: Lora) -> list[str]:
    """Wrap every nn.Linear that the spec's globs cover; returns their paths.

    Raises:
        ValueError: a glob that covers no projection, or one that has another adapter already.
    """
    # every path of a shared projection, so that all of them see the same adapter
    known = {p: m for p, m in module.named_modules(remove_duplicate=False) if isinstance(m, nn.Linear | LoRA)}
    paths = covered(spec.targets, known, "LoRA targets")
    made: dict[int, LoRA] = {}
    for path in paths:
        base = known[path]
        if isinstance(base, nn.Linear):
            if id(base) not in made:
                made[id(base)] = LoRA(base, spec.rank, alpha=spec.alpha, dropout=spec.dropout)
            _put(module, path, made[id(base)].train(base.training))
        elif (base.rank, base.alpha) != (spec.rank, spec.alpha):
            raise ValueError(
                f"{path} has an adapter of rank {base.rank} and alpha {base.alpha} already; "
                f"the stage asks for rank {spec.rank} and alpha {spec.alpha}"
            )
        else:
            base.dropout.p = spec.dropout
    return paths


def merge(module: nn.Module) -> dict[str, LoRA]:
    """Swap every adapter for the plain projection that does the same; returns what `unmerge` puts back."""
    removed = {p: m for p, m in module.named_modules(remove_duplicate=False) if isinstance(m, LoRA)}
    plain = {id(adapter): adapter.merged() for adapter in removed.values()}
    for path, adapter in removed.items():
        _put(module, path, plain[id(adapter)])
    return removed


def unmerge(module: nn.Module, removed: Mapping[str, LoRA]) -> None:
    """Put adapters back where `merge` took them from, bit for bit."""
    for path, adapter in removed.items():
        _put(module, path, adapter.train(module.get_submodule(path).training))


def adapters(module: nn.Module) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """By path of the projection, its A (rank, in) and B (out, rank)."""
    return {p: (m.lora_a, m.lora_b) for p, m in module.named_modules() if isinstance(m, LoRA)}


def _put(module: nn.Module, path: str, child: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    if not name:
        raise ValueError("LoRA wraps projections inside a module, not the module itself")
    setattr(module.get_submodule(parent), name, child)
