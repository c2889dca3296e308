"""Blocks that are run again on the way back: the same gradients from less that is kept."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scops.core.batch import Batch
from scops.core.stage import Lora
from scops.data.collate import pack, pad
from scops.nn import lora
from scops.nn.checkpointing import checkpoint_blocks
from scops.objectives import next_token
from scops.systems import llama, mplug_owl
from tests.conftest import example, randomise
from tests.systems.test_mplug_owl import TINY, rows
from tests.tiny import LANGUAGE

ADAPTERS = Lora(("language.blocks.*.attn.body.?",), rank=2, alpha=4.0, dropout=0.4)


def system(dtype: torch.dtype) -> nn.Module:
    made = mplug_owl.build(TINY).to(dtype).requires_grad_(False)
    lora.add(made, ADAPTERS)
    randomise(made)
    made.image.connector.requires_grad_(True)
    return made.train()


def kept(call: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What it makes, and numbers kept for the way back."""
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        made = call()
    return made, sum(sizes)


def step(module: nn.Module, batch: Batch) -> tuple[list[Tensor | None], int]:
    torch.manual_seed(3)  # of dropout
    loss, size = kept(lambda: next_token(module, batch, {}).sum)
    loss.backward()
    return [p.grad for p in module.parameters()], size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [True, False])
def test_gradients_are_the_same_to_the_bit_and_less_is_kept(packed: bool, dtype: torch.dtype) -> None:
    examples = list(rows().values())
    batch = pack(examples, capacity=40, pad_id=0) if packed else pad(examples, pad_id=0)
    batch = Batch(**{**batch.__dict__, "media": {k: m.to(dtype) for k, m in batch.media.items()}})
    plain, again = system(dtype), system(dtype)
    again.load_state_dict(plain.state_dict())
    checkpoint_blocks(again, True)
    (theirs, whole), (ours, less) = step(plain, batch), step(again, batch)
    assert any(g is not None and g.any() for g in theirs)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert less < 0.6 * whole


def test_it_can_be_taken_back_and_copied() -> None:
    module = system(torch.float32)
    checkpoint_blocks(module, True)
    other = copy.deepcopy(module)
    block = other.language.blocks[0]
    assert block.forward.__self__ is block
    checkpoint_blocks(module, False)
    assert "forward" not in module.language.blocks[0].__dict__


@pytest.mark.parametrize("on", [True, False])
def test_what_stands_before_all_that_learns_keeps_nothing(on: bool) -> None:
    sizes = []
    for layers in (2, 5):
        spec = llama.Spec(llama.LlamaSpec(**(LANGUAGE | {"layers": layers, "tied": False})))
        module = randomise(llama.build(spec)).requires_grad_(False).train()
        module.language.blocks[-1].requires_grad_(True)
        checkpoint_blocks(module, on)
        batch = pad([example([5, 6, 7, 8, 9])], pad_id=0)
        sizes.append(kept(lambda module=module, batch=batch: module.hidden(batch))[1])
    assert sizes[0] == sizes[1] > 0


def test_a_frozen_encoder_keeps_nothing() -> None:
    module, batch = system(torch.float32), pad(list(rows().values()), pad_id=0)
    features, size = kept(lambda: module.encode(batch)["image"])
    assert size == 0
    assert not features.requires_grad
