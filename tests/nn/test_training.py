"""Blocks that are run again on the way back, or compiled: the same gradients from less that is kept, or in less time."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from scops.core.batch import Batch
from scops.core.stage import Lora
from scops.data.collate import pack, pad
from scops.nn import lora
from scops.nn.training import train_blocks
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
    train_blocks(again, again=1)
    (theirs, whole), (ours, less) = step(plain, batch), step(again, batch)
    assert any(g is not None and g.any() for g in theirs)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert less < 0.6 * whole


def test_every_second_block_keeps_less_than_none_and_more_than_all() -> None:
    plain, batch, found = system(torch.float32), pad(list(rows().values()), pad_id=0), []
    for again in (0, 2, 1):
        module = copy.deepcopy(plain)
        train_blocks(module, again=again)
        found.append(step(module, batch))
    (theirs, most), *others = found
    for ours, _ in others:
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert most > found[1][1] > found[2][1]


def still(dtype: torch.dtype) -> nn.Module:
    """Without dropout: compiled, other numbers are dropped."""
    made = system(dtype)
    for part in made.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return made


@pytest.mark.parametrize(("dtype", "again"), [(torch.float32, 0), (torch.bfloat16, 2)])
def test_traced_blocks_make_the_same_gradients_and_are_traced_once(monkeypatch, dtype: torch.dtype, again: int) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # traced, but not compiled
    plain, traced = still(dtype), still(dtype)
    traced.load_state_dict(plain.state_dict())
    train_blocks(traced, again=again, compiled=True)
    assert traced.state_dict().keys() == plain.state_dict().keys()
    seen = list(rows().values())
    graphs = []
    for _ in range(4):
        words = [example(torch.randint(4, 40, (int(n),)).tolist()) for n in torch.randint(3, 20, (6,))]
        batch = pack([*seen, *words], capacity=60, pad_id=0)
        assert len(batch.ids_BT) > 1, "a row alone is a graph of its own"
        batch = Batch(**{**batch.__dict__, "media": {k: m.to(dtype) for k, m in batch.media.items()}})
        (theirs, _), (ours, _) = step(plain, batch), step(traced, batch)
        made, wanted = (torch.cat([g.flatten().float() for g in grads if g is not None]) for grads in (ours, theirs))
        assert (made - wanted).norm() < {torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype] * wanted.norm()
        plain.zero_grad(), traced.zero_grad()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[3] == graphs[2], f"traced again: {graphs}"


def test_without_a_compiler_it_says_so(monkeypatch) -> None:
    monkeypatch.setattr("scops.nn.training.compiler", lambda: None)
    with pytest.raises(ValueError, match=r"without a C\+\+ compiler"):
        train_blocks(system(torch.float32), compiled=True)


def test_it_can_be_taken_back_and_copied() -> None:
    module = system(torch.float32)
    train_blocks(module, again=1)
    other = copy.deepcopy(module)
    block = other.language.blocks[0]
    assert block.forward.__self__ is block
    train_blocks(module)
    assert "forward" not in module.language.blocks[0].__dict__


@pytest.mark.parametrize("on", [True, False])
def test_what_stands_before_all_that_learns_keeps_nothing(on: bool) -> None:
    sizes = []
    for layers in (2, 5):
        spec = llama.Spec(llama.LlamaSpec(**(LANGUAGE | {"layers": layers, "tied": False})))
        module = randomise(llama.build(spec)).requires_grad_(False).train()
        module.language.blocks[-1].requires_grad_(True)
        train_blocks(module, again=on)
        batch = pad([example([5, 6, 7, 8, 9])], pad_id=0)
        sizes.append(kept(lambda module=module, batch=batch: module.hidden(batch))[1])
    assert sizes[0] == sizes[1] > 0


def test_a_frozen_encoder_keeps_nothing() -> None:
    module, batch = system(torch.float32), pad(list(rows().values()), pad_id=0)
    features, size = kept(lambda: module.encode(batch)["image"])
    assert size == 0
    assert not features.requires_grad
