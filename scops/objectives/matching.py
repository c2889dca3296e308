"""Does this text belong to this picture? Asked of pairs and of the hardest strangers (ALBEF, arXiv 2107.07651, section 3.2)."""

# N pairs, W pairs of all processes, R questions
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from scops.core.pairs import Texts, likeness
from scops.objectives.pair_work import Work
from scops.objectives.processes import gathered


def matching(work: Work) -> Tensor:
    """Cross-entropy of two verdicts: every pair, every text with another picture, every picture with another text.

    Strangers are drawn by likeness, with torch's generator of the device, where there is no queue from the pairs of all processes.
    Pairs with one and the same picture are no strangers; a pair that has none is asked about alone.
    """
    strangers = [[not same for same in row] for row in work.same]
    own_N = work.first + torch.arange(len(work.kept), device=work.pictures_NPD.device)
    met = [row for row, others in enumerate(strangers) if any(others)]
    picture_R = text_R = own_N
    if met:
        may_NW = torch.tensor(strangers, device=own_N.device)[met]
        to_texts_NW, to_pictures_NW = (scores[met] for scores in _scores(work))
        picture_R = torch.cat([own_N, drawn(to_pictures_NW, may_NW, work.pairing.floor), own_N[met]])
        text_R = torch.cat([own_N, own_N[met], drawn(to_texts_NW, may_NW, work.pairing.floor)])
    said_R2 = work.system.verdicts(work.all(work.pictures_NPD)[picture_R], _texts(work).select(text_R))
    return cross_entropy(said_R2.float(), (torch.arange(len(said_R2), device=said_R2.device) < len(own_N)).long())


@torch.no_grad()
def drawn(scores_NW: Tensor, may_NW: Tensor, floor: float) -> Tensor:
    """For each row one of those that it may meet, by softmax of the scores plus the floor."""
    chances_NW = scores_NW.float().softmax(-1) + floor
    chances_NW = chances_NW.clamp_min(torch.finfo(chances_NW.dtype).tiny).masked_fill(~may_NW, 0)
    return torch.multinomial(chances_NW, 1)[:, 0]


def _texts(work: Work) -> Texts:
    """Those of all processes, padded to one length."""
    if len(work.counts) == 1:
        return work.texts
    texts = work.texts
    most = int(gathered(torch.tensor([texts.ids_NT.shape[1]], device=texts.ids_NT.device)).max())
    behind = (0, most - texts.ids_NT.shape[1])
    return Texts(
        work.all(pad(texts.ids_NT, behind)),
        work.all(pad(texts.real_NT, behind)),
        work.all(pad(texts.states_NTD, (0, 0, *behind))),
    )


@torch.no_grad()
def _scores(work: Work) -> tuple[Tensor, Tensor]:
    """Of this process's pairs with those of all, both directions."""
    if work.scores is not None:
        to_texts_NK, to_pictures_NK = work.scores
        return to_texts_NK[:, : sum(work.counts)], to_pictures_NK[:, : sum(work.counts)]
    pictures_NQE, texts_NE = work.system.picture_vectors(work.pictures_NPD), work.system.text_vectors(work.texts)
    to_texts_NW, to_pictures_NW = (
        likeness(pictures_NQE, work.all(texts_NE)),
        likeness(work.all(pictures_NQE), texts_NE).T,
    )
    return to_texts_NW / work.system.temperature, to_pictures_NW / work.system.temperature
