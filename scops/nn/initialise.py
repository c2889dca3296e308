"""How fresh parameters start: weights that keep the size of what passes through them (LeCun et al., Efficient BackProp, 4.6)."""

import torch
from torch import nn

from scops.nn.gate import TanhGate
from scops.nn.temperature import Temperature

EMBEDDING = 0.05
"""Standard deviation of what stands in the sequence at first: word embeddings, and media tokens among them."""
BARE = 0.02


class IntoWords(nn.Linear):
    """A projection whose results stand among word embeddings; they start as small as those."""


def begin(part: nn.Module, device: torch.device | str) -> None:
    """First numbers for what stands on the meta device; a module that was made with numbers of its own keeps them."""
    if all(tensor.is_meta for tensor in (*part.parameters(), *part.buffers())):
        initialise(part.to_empty(device=device))
        return
    for child in part.children():
        begin(child, device)


def initialise(module: nn.Module) -> None:
    """Linear and convolution weights N(0, 1 / inputs), biases 0, norms 1 and 0, gates closed, temperatures as they say,
    embeddings and bare parameters small.

    A fixed 0.02, as published for widths of about a thousand, leaves narrow systems all but deaf to their input at first.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.normal_(
                part.weight, std=part.weight[0].numel() ** -0.5 * (EMBEDDING if isinstance(part, IntoWords) else 1)
            )
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=EMBEDDING)
        elif isinstance(part, nn.LayerNorm | nn.RMSNorm | nn.BatchNorm2d | Temperature | TanhGate):
            part.reset_parameters()
        else:
            for parameter in part.parameters(recurse=False):
                nn.init.trunc_normal_(parameter, std=BARE)
