"""Let the i-th token of a picture be read as the i-th word of its answer: it is to lie nearest to that word's embedding.

Ours. A picture's tokens become words that a language model can already read, without a pass through the language model.
Each is told apart from the other words of the batch only, so that no full vocabulary is computed; and it is pulled to its
word, because what only points the same way grows many times longer than any word, and is read badly.
"""

# B rows, T tokens, D width, Q tokens per item, R words that are read, W different ones among them
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scops.core.batch import Batch
from scops.core.loss import Loss
from scops.core.system import Decoder
from scops.objectives.next_token import targets_of
from scops.objectives.pairs import Place, pairs_of

SHARPNESS = 8.0
"""Of the softmax over squared distances, in units of the words' own variance."""
PULL = 0.3


@dataclass(frozen=True)
class Reading:
    """The first `length` tokens of a picture are to be read as the targets from `start` on."""

    place: Place
    start: int
    length: int


def word_reading(system: Decoder, batch: Batch, state: dict[str, Tensor]) -> Loss:
    """Cross-entropy over distances plus the pull, in float32, summed over words; parts: `accuracy`.

    An answer longer than a picture has tokens is read as far as it has.
    """
    readings, targets = _readings(batch), targets_of(batch)
    if not readings:
        return Loss(torch.zeros((), device=batch.ids_BT.device), 0, "word")
    made = system.connect(batch)
    tokens_RD = torch.cat([made[r.place[0]][r.place[1], : r.length] for r in readings]).float()
    ids_R = torch.cat([targets.ids_R[r.start : r.start + r.length] for r in readings])
    words_W, word_R = ids_R.unique(return_inverse=True)
    words_WD = system.embed(words_W).float()
    variance = words_WD.detach().var(0, correction=0).sum().clamp(min=1e-12)
    near_RW = (2 * tokens_RD @ words_WD.T - words_WD.square().sum(-1)) / variance  # less what is equal for all words
    apart = (tokens_RD - words_WD.detach()[word_R]).square().sum() / variance
    hits = (near_RW.detach().argmax(-1) == word_R).sum()
    loss = F.cross_entropy(SHARPNESS * near_RW, word_R, reduction="sum") + PULL * apart
    return Loss(loss, len(ids_R), "word", {"accuracy": (hits, len(ids_R))})


def read_words(batch: Batch) -> int:
    return sum(reading.length for reading in _readings(batch))


def _readings(batch: Batch) -> list[Reading]:
    """Rows with exactly one picture and at least one target."""
    found, count_B = [], targets_of(batch).count_B
    for row, (kind, item) in pairs_of(batch, "word_reading").items():
        length = min(count_B[row], batch.where[kind].length_M[item])
        if length:
            found.append(Reading((kind, item), sum(count_B[:row]), length))
    return found
