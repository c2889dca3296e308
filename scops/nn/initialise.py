"""How fresh parameters start: small normal weights, as BERT and most of the field since (arXiv 1810.04805, its code)."""

from torch import nn


def initialise(module: nn.Module, *, std: float = 0.02) -> None:
    """Linear, convolution and embedding weights N(0, std), biases 0, norms 1 and 0, bare parameters truncated N(0, std)."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
            bias = getattr(part, "bias", None)
            if bias is not None:
                nn.init.zeros_(bias)
        elif isinstance(part, nn.LayerNorm | nn.RMSNorm | nn.BatchNorm2d):
            part.reset_parameters()
        else:
            for parameter in part.parameters(recurse=False):
                nn.init.trunc_normal_(parameter, std=std)
