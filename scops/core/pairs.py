"""What objectives that tell pairs of picture and text apart may ask of a system, and the numbers that it learns them with."""

# N pairs, K texts, T tokens, P features per picture, Q picture vectors per pair, E width of the common space, D width,
# R masked words
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from scops.core.batch import Batch
from scops.core.system import Decoder


@dataclass(frozen=True)
class Pairing:
    """Numbers of the contrastive, matching and masked-word objectives; the defaults are ALBEF's (arXiv 2107.07651, 3.4).

    Args:
        space: width of the common space.
        temperature: at the start; learnt, and held between `coldest` and `warmest`.
        momentum: of the shadow weights; 0 for none, then pictures and texts of the batch itself stand in their place.
        queue: pairs of former batches that stand beside those of the batch; 0 for none, then those of all processes do.
        alpha: share of the shadow's opinion in the targets; it grows from 0 over `ramp` steps.
        smoothing: share of the pairs' own targets that is spread over all candidates (BLIP-2: 0.1).
        floor: added to the chance of every candidate when negatives are drawn (BLIP: 1e-4).
        lm_smoothing: the same for words that are written (BLIP-2: 0.1).
        masked: share of words that are masked; `mask` is the id of the mask.
        likeness: share of the cosine in what retrieval ranks by, beside the verdict's score (BLIP-2: 1).
        shadowed: globs of the paths that have shadow weights.
    """

    space: int = 256
    temperature: float = 0.07
    coldest: float = 0.001
    warmest: float = 0.5
    momentum: float = 0.995
    queue: int = 65536
    alpha: float = 0.4
    ramp: int = 0
    smoothing: float = 0.0
    lm_smoothing: float = 0.0
    floor: float = 0.0
    masked: float = 0.15
    mask: int = 103
    likeness: float = 0.0
    shadowed: tuple[str, ...] = ("image", "encoder", "pairs")


@dataclass(frozen=True)
class Texts:
    """Texts of pairs, read alone.

    Args:
        real_NT: which tokens are no padding.
    """

    ids_NT: Tensor
    real_NT: Tensor
    states_NTD: Tensor

    def select(self, rows_R: Tensor) -> "Texts":
        return replace(
            self, ids_NT=self.ids_NT[rows_R], real_NT=self.real_NT[rows_R], states_NTD=self.states_NTD[rows_R]
        )


class Comparing(Decoder, Protocol):
    """A system that compares pictures with texts. It is also an nn.Module."""

    @property
    def pairing(self) -> Pairing: ...

    @property
    def temperature(self) -> Tensor: ...

    @property
    def vocabulary(self) -> int:
        """Words that a mask may hide."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]: ...

    def captions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of every row, the ids of its text as the text encoder reads it (B, T), and which are no padding."""
        ...

    def texts(self, ids_NT: Tensor, real_NT: Tensor) -> Texts:
        """Read without pictures."""
        ...

    def picture_vectors(self, pictures_NPD: Tensor) -> Tensor:
        """(N, Q, E), of length one; several where the best of them counts (BLIP-2)."""
        ...

    def text_vectors(self, texts: Texts) -> Tensor:
        """(N, E), of length one."""
        ...

    def verdicts(self, pictures_NPD: Tensor, texts: Texts) -> Tensor:
        """(N, 2): scores that picture and text do not belong together, and that they do."""
        ...

    def filled(self, pictures_NPD: Tensor, texts: Texts, index_R: Tensor) -> Tensor:
        """(R, V): scores of words at flat positions of the texts, with the pictures in view."""
        ...


def likeness(pictures_NQE: Tensor, texts_KE: Tensor) -> Tensor:
    """(N, K): that of the picture vector which is nearest to the text."""
    return torch.einsum("nqe,ke->nqk", pictures_NQE, texts_KE).amax(1)
