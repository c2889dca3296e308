"""Pictures towards their texts and away from others, in a common space (ALBEF, arXiv 2107.07651, sections 3.2 and 3.3).

Candidates are the pairs of the batch as the shadow weights see them, and a queue of former ones; without a queue the pairs of
all processes (BLIP-2, arXiv 2301.12597; salesforce/LAVIS, blip2_qformer.py). No gradient passes through a candidate. Targets are
the pairs of the same picture, mixed with what the shadow weights find alike.
"""

# N pairs, W pairs of all processes, K candidates, Q picture vectors per pair, E width of the common space
import torch
from torch import Tensor
from torch.nn.functional import pad

from scops.core.pairs import likeness
from scops.objectives.pair_work import Work
from scops.objectives.queue import enqueue, queued


def contrastive(work: Work) -> Tensor:
    """Cross-entropy to soft targets in float32, the mean of both directions."""
    numbers, system = work.pairing, work.system
    if torch.is_grad_enabled() and system.temperature.requires_grad:
        with torch.no_grad():
            system.temperature.clamp_(numbers.coldest, numbers.warmest)
    pictures_NQE = system.picture_vectors(work.pictures_NPD).float()
    texts_NE = system.text_vectors(work.texts).float()
    seen_NQE, seen_NE = pictures_NQE.detach(), texts_NE.detach()
    if numbers.momentum:
        seen_NQE = work.asked("picture_vectors", work.shadow_pictures_NPD).float()
        seen_NE = work.asked("text_vectors", work.asked("texts", *work.captions)).float()
    all_KQE, all_KE = work.all(seen_NQE), work.all(seen_NE)
    if numbers.queue:
        old_SQE, old_SE = queued(work.state, numbers.queue, seen_NQE, seen_NE)
        all_KQE, all_KE = torch.cat([all_KQE, old_SQE]), torch.cat([all_KE, old_SE])
    to_texts_NK = likeness(pictures_NQE, all_KE) / system.temperature
    to_pictures_NK = likeness(all_KQE, texts_NE).T / system.temperature
    same_NW = torch.tensor(work.same, device=texts_NE.device).to(to_texts_NK.dtype)
    own_NK = pad(same_NW / same_NW.sum(1, keepdim=True), (0, len(all_KE) - same_NW.shape[1]))
    own_NK = (1 - numbers.smoothing) * own_NK + numbers.smoothing / own_NK.shape[1]
    wanted = own_NK, own_NK
    if work.alpha:
        with torch.no_grad():
            theirs = likeness(seen_NQE, all_KE), likeness(all_KQE, seen_NE).T
            wanted = tuple(
                work.alpha * (found_NK / system.temperature).softmax(-1) + (1 - work.alpha) * own_NK
                for found_NK in theirs
            )
    if torch.is_grad_enabled() and numbers.queue:
        enqueue(work.state, seen_NQE, seen_NE)
    work.scores = to_texts_NK.detach(), to_pictures_NK.detach()
    scores = to_texts_NK, to_pictures_NK
    losses = [-(want * made.log_softmax(-1)).sum(-1).mean() for want, made in zip(wanted, scores, strict=True)]
    return (losses[0] + losses[1]) / 2
