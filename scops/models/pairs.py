"""Heads that compare pictures with texts, on top of any encoder that reads texts alone and with pictures."""

# N pairs, M media items, B rows, T tokens, Q tokens that stand for a picture, E width of the common space, D width,
# R masked words, V vocabulary
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from scops.core.batch import Batch
from scops.core.pairs import Comparing, Pairing, likeness
from scops.language.bert import BertHead
from scops.nn.temperature import Temperature


class PairHeads(nn.Module):
    """Into a common space, a verdict on what was fused, and words for masks (ALBEF, arXiv 2107.07651, 3.2).

    A picture may have several vectors, and several tokens may give the verdict (BLIP-2, arXiv 2301.12597, 3.2).

    Args:
        picture_dim, text_dim: widths of what is compared.
        words: fills in masked words; None for a system that never learnt to.
        temperature: () -> a scalar; one that learns when None.
    """

    def __init__(
        self, numbers: Pairing, *, picture_dim: int, text_dim: int, words: BertHead | None,
        temperature: nn.Module | None = None,
    ):  # fmt: skip
        super().__init__()
        self.numbers, self.temperature = numbers, temperature or Temperature(numbers.temperature)
        self.picture, self.text = nn.Linear(picture_dim, numbers.space), nn.Linear(text_dim, numbers.space)
        self.match = nn.Linear(text_dim, 2)
        if words is not None:
            self.words = words

    def picture_vectors(self, tokens_NQD: Tensor) -> Tensor:
        """(N, Q, E)"""
        return normalize(self.picture(tokens_NQD), dim=-1)

    def text_vectors(self, states_NTD: Tensor) -> Tensor:
        """(N, E), of the first token."""
        return normalize(self.text(states_NTD[:, 0]), dim=-1)

    def verdicts(self, fused_NQD: Tensor) -> Tensor:
        """(N, 2), the mean over the tokens that say it."""
        return self.match(fused_NQD).mean(1)

    def fill(self, fused_NTD: Tensor, index_R: Tensor, words_VD: Tensor) -> Tensor:
        """(R, V)"""
        return self.words(fused_NTD.flatten(0, 1)[index_R], words_VD)


@torch.no_grad()
def similarities(system: Comparing, batch: Batch) -> Tensor:
    """(M, B): cosine of every picture of the batch with every text, -1 to 1; what retrieval sorts by first."""
    vectors_BE = system.text_vectors(system.texts(*system.captions(batch)))
    return likeness(system.picture_vectors(system.connect(batch)["image"]), vectors_BE)


@torch.no_grad()
def matches(system: Comparing, batch: Batch) -> Tensor:
    """(M,): how likely each picture and the text of its row belong together; what retrieval sorts by in the end."""
    texts = system.texts(*system.captions(batch))
    rows_M = torch.tensor(batch.where["image"].row_M, device=batch.ids_BT.device)
    return system.verdicts(system.connect(batch)["image"], texts.select(rows_M)).softmax(-1)[:, 1]
