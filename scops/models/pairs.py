"""Heads that compare pictures with texts, on top of any encoder that reads texts alone and with pictures."""

# N pairs, T tokens, P features per picture, E width of the common space, D width, R masked words, V vocabulary
from torch import Tensor, nn
from torch.nn.functional import normalize

from scops.core.pairs import Pairing
from scops.language.bert import BertHead
from scops.nn.temperature import Temperature


class PairHeads(nn.Module):
    """First tokens into a common space, a verdict from the fused first token, and words for masks (ALBEF, 2107.07651, 3.2).

    Args:
        picture_dim, text_dim: widths of what is compared.
        words: fills in masked words; None for a system that never learnt to.
    """

    def __init__(self, numbers: Pairing, *, picture_dim: int, text_dim: int, words: BertHead | None):
        super().__init__()
        self.numbers, self.temperature = numbers, Temperature(numbers.temperature)
        self.picture, self.text = nn.Linear(picture_dim, numbers.space), nn.Linear(text_dim, numbers.space)
        self.match = nn.Linear(text_dim, 2)
        if words is not None:
            self.words = words

    def picture_vectors(self, pictures_NPD: Tensor) -> Tensor:
        """(N, 1, E)"""
        return normalize(self.picture(pictures_NPD[:, :1]), dim=-1)

    def text_vectors(self, states_NTD: Tensor) -> Tensor:
        """(N, E)"""
        return normalize(self.text(states_NTD[:, 0]), dim=-1)

    def verdicts(self, fused_NTD: Tensor) -> Tensor:
        """(N, 2)"""
        return self.match(fused_NTD[:, 0])

    def fill(self, fused_NTD: Tensor, index_R: Tensor, words_VD: Tensor) -> Tensor:
        """(R, V)"""
        return self.words(fused_NTD.flatten(0, 1)[index_R], words_VD)
