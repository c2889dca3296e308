"""The head and its loss in chunks against the plain way, which makes all scores at once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scops.nn.lora import LoRA
from scops.objectives import head_loss as module
from scops.objectives.head_loss import head_loss
from tests.conftest import close, randomise

WIDTH, VOCABULARY, ROWS = 6, 11, 9


def chunk_of(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4 * VOCABULARY * rows)


def tied() -> tuple[Callable[[Tensor], Tensor], nn.Module]:
    embed = nn.Embedding(VOCABULARY, WIDTH)
    return (lambda x: F.linear(x, embed.weight)), embed


def heads() -> dict[str, Any]:
    frozen = nn.Linear(WIDTH, VOCABULARY).requires_grad_(False)
    biased, adapted = nn.Linear(WIDTH, VOCABULARY), nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)
    adapted = LoRA(adapted, 2, alpha=3.0)
    return {"biased": (biased, biased), "frozen": (frozen, frozen), "adapted": (adapted, adapted), "tied": tied()}


def plain(head: Callable[[Tensor], Tensor], hidden_RD: Tensor, ids_R: Tensor) -> tuple[Tensor, Tensor]:
    losses_R = F.cross_entropy(head(hidden_RD).float(), ids_R, reduction="none")
    return losses_R.sum(), losses_R


def found(loss: Callable, head: Callable, owner: nn.Module, x_RD: Tensor, ids_R: Tensor) -> tuple[list[Tensor], list]:
    """Losses, and gradients through more work before and behind the head."""
    x_RD = x_RD.clone().requires_grad_()
    total, losses_R = loss(head, x_RD * 2, ids_R)
    owner.zero_grad()
    (total / 7).backward()
    return [total.detach(), losses_R.detach(), x_RD.grad], [p.grad for p in owner.parameters()]


@pytest.mark.parametrize("rows", [1, 2, 4, 9, 50])
@pytest.mark.parametrize("name", list(heads()))
def test_chunks_equal_the_plain_loss_and_its_gradients(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk_of(rows, monkeypatch)
    head, owner = heads()[name]
    randomise(owner)
    x_RD, ids_R = torch.randn(ROWS, WIDTH), torch.randint(VOCABULARY, (ROWS,))
    (mine, of_mine), (theirs, of_theirs) = (found(loss, head, owner, x_RD, ids_R) for loss in (head_loss, plain))
    assert all(close(a, b) for a, b in zip(mine, theirs, strict=True))
    assert [g is None for g in of_mine] == [g is None for g in of_theirs]
    assert all(close(a, b) for a, b in zip(of_mine, of_theirs, strict=True) if b is not None)


def test_only_a_head_may_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    chunk_of(2, monkeypatch)
    head = nn.Linear(WIDTH, VOCABULARY)
    x_RD, ids_R = torch.randn(ROWS, WIDTH), torch.randint(VOCABULARY, (ROWS,))
    made = []
    for loss in (head_loss, plain):
        head.zero_grad()
        loss(head, x_RD, ids_R)[0].backward()
        made.append(head.weight.grad.clone())
    assert close(*made)


def test_rows_of_16_bits_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    chunk_of(1, monkeypatch)
    head = randomise(nn.Linear(WIDTH, VOCABULARY))
    x_RD, ids_R = torch.randn(200, WIDTH), torch.randint(VOCABULARY, (200,))
    _, (exact, _) = found(plain, head, head, x_RD, ids_R)
    half = head.bfloat16()
    _, (made, _) = found(head_loss, half, half, x_RD.bfloat16(), ids_R)
    assert made.dtype == torch.bfloat16
    assert (made.float() - exact).abs().max() <= 0.02 * exact.abs().max()


def test_nothing_to_learn_and_nothing_to_differentiate() -> None:
    head = nn.Linear(WIDTH, VOCABULARY)
    total, losses_R = head_loss(head, torch.randn(0, WIDTH).requires_grad_(), torch.zeros(0, dtype=torch.long))
    assert (total.item(), losses_R.shape) == (0.0, (0,))
    total.backward()
    assert not head.weight.grad.any()
    with torch.no_grad():
        total, _ = head_loss(head, torch.randn(3, WIDTH), torch.zeros(3, dtype=torch.long))
    assert not total.requires_grad


def test_scores_of_all_rows_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    chunk_of(2, monkeypatch)
    seen: list[int] = []
    head = nn.Linear(WIDTH, VOCABULARY)
    head.register_forward_hook(lambda _, given, made: seen.append(len(made)))
    kept: list[int] = []
    x_RD = torch.randn(ROWS, WIDTH, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        total, _ = head_loss(head, x_RD, torch.randint(VOCABULARY, (ROWS,)))
    total.backward()
    assert max(seen) == 2
    assert 0 < max(kept) < ROWS * VOCABULARY
