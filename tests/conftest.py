"""What every test may use: one tolerance per dtype, random parameters, goldens, batches of plain ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from scops.core.batch import Batch, Example, Span
from scops.data.collate import pad

GOLDENS = Path(__file__).parent / "goldens"
TOLERANCE = {torch.float32: 5e-5}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_grad_enabled(True)


def randomise(module: nn.Module, scale: float = 0.2) -> nn.Module:
    """Every parameter random, norms around one, so that nothing is hidden by a zero or a one."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(0, scale)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return module.eval()


def close(made: Tensor, expected: Tensor) -> bool:
    """Equal within the project's tolerance, with the difference shown when not."""
    assert made.shape == expected.shape, f"{tuple(made.shape)} against {tuple(expected.shape)}"
    difference = (made - expected).abs().max().item()
    assert difference <= TOLERANCE[expected.dtype], f"differs by {difference}"
    return True


class Golden:
    """A reference instance: config, weights, inputs, outputs."""

    def __init__(self, name: str):
        folder = GOLDENS / name
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.weights, self.inputs, self.outputs = (
            load_file(folder / f"{part}.safetensors") for part in ("weights", "inputs", "outputs")
        )


def example(ids: list[int], spans: tuple[tuple, ...] = (), pictures: list[Tensor] | None = None) -> Example:
    """Ids with items at (start, length) or (start, length, places); everything after the first token is learnt."""
    learn = np.ones(len(ids), dtype=bool)
    learn[0] = False
    for start, length, *_ in spans:
        learn[start : start + length] = False
    media = {"image": tuple(p.numpy() for p in pictures)} if pictures else {}
    digests = {"image": tuple(f"{i}" for i in range(len(pictures)))} if pictures else {}
    return Example(np.array(ids), learn, tuple(Span("image", *span) for span in spans), media, digests)


def batch_of(*examples: Example) -> Batch:
    return pad(list(examples), pad_id=0)
