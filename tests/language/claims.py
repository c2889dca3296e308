"""What the tests of language models claim alike: of prompts of unequal length, beside transformers' and beside themselves."""

# T tokens, V vocabulary
from typing import Any

import torch
from torch import nn

from scops.models.compiled import CompiledSteps
from scops.models.decoder import MultimodalDecoder
from scops.nn.cache import FixedCache
from tests.conftest import batch_of, close, example
from tests.twins import cached_equals_recompute

PROMPTS = [example(ids) for ids in ([1, 2, 3, 4, 5, 6, 7, 8, 9], [4], [5, 6, 7])]


def equals_transformers(system: MultimodalDecoder, theirs: nn.Module, side: str = "") -> bool:
    """Logits of three prompts.

    Args:
        side: at which transformers pads them, "left" or "right"; "" where it reads them one by one.
    """
    rows = [torch.randint(1, 30, (n,)) for n in (23, 1, 8)]
    made = system(batch_of(*(example(row.tolist()) for row in rows)))
    if not side:
        found = [theirs(row[None]).logits[0] for row in rows]
    else:
        here = [slice(23 - len(row), None) if side == "left" else slice(len(row)) for row in rows]
        ids, real = torch.full((3, 23), 3), torch.zeros(3, 23, dtype=torch.long)
        for at, row in enumerate(rows):
            ids[at, here[at]], real[at, here[at]] = row, 1
        logits = theirs(ids, attention_mask=real).logits
        found = [logits[at, place] for at, place in enumerate(here)]
    return all(close(made[at, : len(row)], found[at]) for at, row in enumerate(rows))


def compiled_equals_recompute(system: MultimodalDecoder) -> bool:
    """Steps as torch's compiler takes them, computed without waiting for a compiler."""
    steps = CompiledSteps(system.language, say=lambda words: None)
    steps.compiled = steps._step
    return cached_equals_recompute(system, PROMPTS, FixedCache(3, 20), steps=steps)


def every_parameter_learns(system: Any) -> bool:
    system.train()(batch_of(*PROMPTS)).square().sum().backward()
    still = [name for name, p in system.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still, still
    return True
