"""The alignment of pictures with the words of their answers."""

import torch
from torch.nn import functional as F

from scops.core.batch import Example
from scops.data.collate import pad
from scops.objectives import word_alignment
from tests.objectives.rows import example
from tests.train.toy import Toy


def slow(system: Toy, examples: list[Example]) -> torch.Tensor:
    """Pair by pair, in loops."""
    batches = [pad([e], pad_id=0) for e in examples]
    pictures = [F.normalize(system.connect(b)["image"][0].mean(0), dim=0) for b in batches]
    words = [F.normalize(system.embed(b.targets.ids_R).mean(0), dim=0) for b in batches]
    answers = [tuple(b.targets.ids_R.tolist()) for b in batches]
    total = torch.zeros(())
    for i in range(len(examples)):
        for scores in ([pictures[i] @ w / 0.07 for w in words], [words[i] @ p / 0.07 for p in pictures]):
            shares = torch.stack(scores).softmax(0)
            total = total - sum(s for s, a in zip(shares, answers, strict=True) if a == answers[i]).log() / 2
    return total


def test_equals_the_slow_twin_with_equal_answers_as_positives():
    system = Toy().eval()
    pairs = [example([3, 4]), example([5]), example([3, 4], lead=5), example([4, 3]), example([6, 7, 8])]
    loss = word_alignment(system, pad(pairs, pad_id=0), {})
    assert (loss.count, loss.unit) == (5, "pair")
    torch.testing.assert_close(loss.sum, slow(system, pairs))


def test_only_the_connector_need_learn_and_does():
    system = Toy().eval()
    batch = pad([example([3, 4]), example([5]), example([6, 7])], pad_id=0)
    mover = torch.optim.Adam(system.image.connector.parameters(), 0.05)
    first = word_alignment(system, batch, {}).sum.item()
    for _ in range(30):
        mover.zero_grad()
        word_alignment(system, batch, {}).sum.backward()
        mover.step()
    loss = word_alignment(system, batch, {})
    assert loss.sum.item() < first / 4
    assert loss.parts["accuracy"][0].item() == 3
