"""Reading the tokens of pictures as the words of their answers."""

import torch

from scops.core.batch import Example
from scops.data.collate import pad
from scops.objectives import COUNTS, word_reading
from scops.objectives.word_reading import PULL, SHARPNESS
from tests.objectives.rows import example
from tests.train.toy import QUERIES, Toy


def slow(system: Toy, examples: list[Example]) -> torch.Tensor:
    """Word by word, in loops, by plain distances."""
    batches = [pad([e], pad_id=0) for e in examples]
    read = [b.targets.ids_R[:QUERIES] for b in batches]
    words = {int(w): system.embed(w) for ids in read for w in ids}
    everything = torch.stack(list(words.values()))
    variance = (everything - everything.mean(0)).square().sum(-1).mean()
    total = torch.zeros(())
    for batch, ids in zip(batches, read, strict=True):
        for token, word in zip(system.connect(batch)["image"][0], ids.tolist(), strict=False):
            distances = {w: (token - e).square().sum() / variance for w, e in words.items()}
            shares = torch.stack([-SHARPNESS * d for d in distances.values()]).softmax(0)
            total = total - shares[list(words).index(word)].log() + PULL * distances[word]
    return total


def test_equals_the_slow_twin_with_answers_shorter_and_longer_than_a_picture():
    system = Toy().eval()
    rows = [example([3, 4]), example([5]), example([3, 4, 9, 11, 2], lead=5), example([6, 7, 8])]
    batch = pad(rows, pad_id=0)
    loss = word_reading(system, batch, {})
    assert (loss.count, loss.unit) == (2 + 1 + QUERIES + 3, "word")
    assert COUNTS["word_reading"](batch) == loss.count
    torch.testing.assert_close(loss.sum, slow(system, rows))


def test_tokens_end_at_their_words():
    system = Toy().eval()
    batch = pad([example([3, 4]), example([5, 11]), example([6, 7])], pad_id=0)
    mover = torch.optim.Adam(system.image.connector.parameters(), 0.05)
    apart = lambda: (
        (system.connect(batch)["image"][:, :2].flatten(0, 1) - system.embed(batch.targets.ids_R)).norm().item()
    )
    first = apart()
    for _ in range(60):
        mover.zero_grad()
        word_reading(system, batch, {}).sum.backward()
        mover.step()
    assert apart() < 0.75 * first
    loss = word_reading(system, batch, {})
    assert loss.parts["accuracy"][0].item() == loss.count == 6
