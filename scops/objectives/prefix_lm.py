"""Go on with a text of which the encoder has read the beginning beside the picture (mPLUG, arXiv 2205.12005, section 3.3)."""

# B rows, T tokens, D width, R supervised positions
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scops.core.batch import Batch, Targets
from scops.objectives.head_loss import head_loss
from scops.objectives.next_token import targets_of
from scops.objectives.pair_work import Work


def prefix_lm(work: Work) -> Tensor:
    """Cross-entropy of the words that are left to the decoder, over all pairs.

    Cuts are drawn evenly, with torch's generator of the CPU: the encoder reads none to all but one of a text's words.
    """
    inner = {row: work.batch.lengths[row] - work.batch.replies[row] - 2 for row in work.kept}
    share_N = torch.rand(len(inner)).tolist()
    cuts = {row: int(share * max(words, 0)) for (row, words), share in zip(inner.items(), share_N, strict=True)}
    batch = cut(work.seen, cuts)
    targets = targets_of(batch)
    hidden_RD = work.system.hidden(batch).flatten(0, 1).index_select(0, targets.index_R)
    total, losses_R = head_loss(work.system.head, hidden_RD, targets.ids_R)
    return total / max(1, len(losses_R))


def cut(batch: Batch, cuts: dict[int, int]) -> Batch:
    """The batch with so many words of these rows' replies moved in front of what closes their prompts; others learn nothing.

    The first token of a reply opens it, the last of a prompt closes it. No token leaves its row, and the rest of a reply
    keeps its place.
    """
    rows, tokens = batch.ids_BT.shape
    order_BT = np.tile(np.arange(tokens), (rows, 1))
    first = np.full(rows, tokens)
    for row, words in cuts.items():
        start = batch.replies[row]
        moved = [*range(start + 1, start + 1 + words), start - 1, start]
        order_BT[row, start - 1 : start + 1 + words] = moved
        first[row] = start + words
    targets, device = targets_of(batch), batch.ids_BT.device
    row_R, place_R = targets.index_R // tokens, targets.index_R % tokens
    kept_R = place_R >= torch.from_numpy(first).to(device)[row_R]
    index_R, ids_R = targets.index_R[kept_R], targets.ids_R[kept_R]
    count_B = tuple(torch.bincount(row_R[kept_R], minlength=rows).tolist())
    replies = tuple(start + cuts.get(row, 0) for row, start in enumerate(batch.replies))
    ids_BT = batch.ids_BT.gather(1, torch.from_numpy(order_BT).to(device))
    return replace(batch, ids_BT=ids_BT, replies=replies, targets=Targets(index_R, ids_R, count_B))
