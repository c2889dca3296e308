"""Pull each picture towards the word embeddings of its answer, away from the other answers of the batch.

InfoNCE in both directions (CLIP, arXiv 2103.00020, section 2.3), but the text side is the language model's own embedding
table, so that no pass through the language model is needed. Equal answers are positives of each other.
"""

# B rows, T tokens, D width, M media items, Q tokens per item, N pairs, R supervised positions
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from scops.core.batch import Batch
from scops.core.loss import Loss
from scops.core.system import Decoder
from scops.objectives.next_token import targets_of
from scops.objectives.pairs import pairs_of

TEMPERATURE = 0.07


def word_alignment(system: Decoder, batch: Batch, state: dict[str, Tensor]) -> Loss:
    """Summed over pairs: the rows that have exactly one picture. Other rows do not take part."""
    kept = pairs_of(batch, "word_alignment")
    if not kept:
        return Loss(torch.zeros((), device=batch.ids_BT.device), 0, "pair")
    tokens = system.connect(batch)
    pictures = {row: tokens[kind][item] for row, (kind, item) in kept.items()}
    picture_ND = torch.stack([tokens_QD.float().mean(0) for tokens_QD in pictures.values()])
    words_BD, ids_BT = _answers(system, batch)
    rows_N = torch.tensor(list(kept), device=batch.ids_BT.device)
    scores_NN = F.normalize(picture_ND, dim=-1) @ F.normalize(words_BD[rows_N], dim=-1).T / TEMPERATURE
    answers_NT = ids_BT[rows_N]
    equal_NN = (answers_NT[:, None] == answers_NT[None]).all(-1)
    sums = _towards(scores_NN, equal_NN) + _towards(scores_NN.T, equal_NN)
    best_N = scores_NN.detach().argmax(-1, keepdim=True)
    return Loss(sums / 2, len(kept), "pair", {"accuracy": (equal_NN.gather(1, best_N).sum(), len(kept))})


def single_pictures(batch: Batch) -> int:
    return len(pairs_of(batch, "word_alignment"))


def _answers(system: Decoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """Per row, the mean word embedding of its targets (B, D), and their ids, -1 behind them (B, T)."""
    targets, count_B = targets_of(batch), list(targets_of(batch).count_B)
    words = system.embed(targets.ids_R).float().split(count_B)
    ids_BT = pad_sequence(list(targets.ids_R.split(count_B)), batch_first=True, padding_value=-1)
    return torch.stack([words_RD.sum(0) / max(1, len(words_RD)) for words_RD in words]), ids_BT


def _towards(scores_NN: Tensor, positive_NN: Tensor) -> Tensor:
    """Sum over rows of -log(share of the softmax that falls on positives)."""
    wanted_N = scores_NN.masked_fill(~positive_NN, -torch.inf).logsumexp(-1)
    return (scores_NN.logsumexp(-1) - wanted_N).sum()
