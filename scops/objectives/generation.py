"""Write the text behind its picture (BLIP-2's image-grounded text generation, arXiv 2301.12597, section 3.2)."""

# D width, R supervised positions
import torch
from torch import Tensor

from scops.objectives.head_loss import head_loss
from scops.objectives.next_token import targets_of
from scops.objectives.pair_work import Work


def generation(work: Work) -> Tensor:
    """Cross-entropy in float32 with `lm_smoothing`, the mean over supervised tokens of all pairs."""
    targets = targets_of(work.batch)
    inside_R = torch.isin(targets.index_R // work.batch.ids_BT.shape[1], work.rows_N)
    index_R, ids_R = targets.index_R[inside_R], targets.ids_R[inside_R]
    hidden_RD = work.system.hidden(work.seen).flatten(0, 1).index_select(0, index_R)
    total, losses_R = head_loss(work.system.head, hidden_RD, ids_R, smoothing=work.pairing.lm_smoothing)
    return total / max(1, len(losses_R))
