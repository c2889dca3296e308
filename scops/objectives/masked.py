"""Fill in masked words with the picture in view (BERT, arXiv 1810.04805, 3.1; ALBEF, arXiv 2107.07651, 3.2 and 3.3)."""

# N pairs, T tokens, R masked words, V vocabulary
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scops.objectives.pair_work import Work


def masked(work: Work) -> Tensor:
    """Cross-entropy of the masked words of all pairs, mixed with that to the shadow weights' own answers."""
    ids_NT, real_NT = work.captions
    shown_NT, masked_NT = mask_words(
        ids_NT, real_NT, share=work.pairing.masked, mask=work.pairing.mask, vocabulary=work.system.vocabulary
    )
    index_R = masked_NT.flatten().nonzero()[:, 0]
    if not len(index_R):
        return work.pictures_NPD.sum() * 0.0
    said_RV = work.system.filled(work.pictures_NPD, work.system.texts(shown_NT, real_NT), index_R).float()
    loss = cross_entropy(said_RV, ids_NT.flatten()[index_R])
    if not work.alpha:
        return loss
    theirs_RV = work.asked("filled", work.shadow_pictures_NPD, work.asked("texts", shown_NT, real_NT), index_R).float()
    soft = -(theirs_RV.softmax(-1) * said_RV.log_softmax(-1)).sum(-1).mean()
    return (1 - work.alpha) * loss + work.alpha * soft


def mask_words(ids_NT: Tensor, real_NT: Tensor, *, share: float, mask: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Texts with some words hidden, and which: of the chosen 80% are masked, 10% replaced by any word, 10% left.

    The first token is never chosen, nor is padding. Drawn with torch's generator of the device.
    """
    chosen_NT = (torch.rand(ids_NT.shape, device=ids_NT.device) < share) & real_NT
    chosen_NT[:, 0] = False
    fate_NT = torch.rand(ids_NT.shape, device=ids_NT.device)
    any_NT = torch.randint(vocabulary, ids_NT.shape, device=ids_NT.device)
    shown_NT = ids_NT.masked_fill(chosen_NT & (fate_NT < 0.8), mask)
    return torch.where(chosen_NT & (fate_NT >= 0.9), any_NT, shown_NT), chosen_NT
