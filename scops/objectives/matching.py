"""Does this text belong to this picture? Asked of pairs and of the hardest strangers (ALBEF, arXiv 2107.07651, section 3.2)."""

# N pairs, R questions
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scops.objectives.contrastive import likeness
from scops.objectives.pair_work import Work


def matching(work: Work) -> Tensor:
    """Cross-entropy of two verdicts: every pair, every text with another picture, every picture with another text.

    Strangers are drawn by likeness, with torch's generator of the device. Pairs with one and the same picture are no
    strangers; a pair that has none is asked about alone.
    """
    strangers = _strangers(work)
    pair_N = torch.arange(len(work.kept), device=work.pictures_NPD.device)
    lonely = [row for row, others in enumerate(strangers) if not any(others)]
    met_N = pair_N[[row for row in range(len(strangers)) if row not in lonely]]
    picture_R = text_R = pair_N
    if len(met_N):
        may_NN = torch.tensor(strangers, device=pair_N.device)[met_N]
        to_texts_NN, to_pictures_NN = (scores[met_N] for scores in _scores(work))
        picture_R = torch.cat([pair_N, drawn(to_pictures_NN, may_NN, work.pairing.floor), met_N])
        text_R = torch.cat([pair_N, met_N, drawn(to_texts_NN, may_NN, work.pairing.floor)])
    said_R2 = work.system.verdicts(work.pictures_NPD[picture_R], work.texts.select(text_R))
    return cross_entropy(said_R2.float(), (torch.arange(len(said_R2), device=said_R2.device) < len(pair_N)).long())


@torch.no_grad()
def drawn(scores_NN: Tensor, may_NN: Tensor, floor: float) -> Tensor:
    """For each row one of those that it may meet, by softmax of the scores plus the floor."""
    chances_NN = scores_NN.float().softmax(-1) + floor
    chances_NN = chances_NN.clamp_min(torch.finfo(chances_NN.dtype).tiny).masked_fill(~may_NN, 0)
    return torch.multinomial(chances_NN, 1)[:, 0]


def _strangers(work: Work) -> list[list[bool]]:
    """(N, N) on the host: whether two pairs have different pictures."""
    digests = work.batch.digests
    known = [digests[kind][item] if digests.get(kind) else at for at, (kind, item) in enumerate(work.kept.values())]
    pairs = range(len(known))
    return [[a != b and known[a] != known[b] for b in pairs] for a in pairs]


@torch.no_grad()
def _scores(work: Work) -> tuple[Tensor, Tensor]:
    """Within the batch, both directions."""
    if work.scores is not None:
        return work.scores[0][:, : len(work.kept)], work.scores[1][:, : len(work.kept)]
    pictures_NQE, texts_NE = work.system.picture_vectors(work.pictures_NPD), work.system.text_vectors(work.texts)
    scores_NN = likeness(pictures_NQE, texts_NE) / work.system.temperature
    return scores_NN, scores_NN.T
