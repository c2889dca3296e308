"""What is learnt: functions (system, batch, state) -> Loss, each with a stated unit."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from scops.core.batch import Batch
from scops.core.loss import Loss
from scops.objectives.contrastive import contrastive
from scops.objectives.generation import generation
from scops.objectives.masked import masked
from scops.objectives.matching import matching
from scops.objectives.next_token import next_token, supervised_tokens
from scops.objectives.pair_work import count_pairs, over_pairs
from scops.objectives.prefix_lm import prefix_lm
from scops.objectives.whole_reply import replies, whole_reply
from scops.objectives.word_alignment import single_pictures, word_alignment
from scops.objectives.word_reading import read_words, word_reading

State = dict[str, Tensor]
"""What an objective keeps from step to step (queues, shadow weights); empty at first, saved with the run."""

Objective = Callable[[Any, Batch, State], Loss]

OBJECTIVES: dict[str, Objective] = {
    "next_token": next_token,
    "whole_reply": whole_reply,
    "word_alignment": word_alignment,
    "word_reading": word_reading,
    "contrastive": over_pairs(contrastive=contrastive),
    "matching": over_pairs(matching=matching),
    "masked": over_pairs(masked=masked),
    "prefix_lm": over_pairs(prefix_lm=prefix_lm),
    "generation": over_pairs(generation=generation),
    "contrastive+matching+generation": over_pairs(contrastive=contrastive, matching=matching, generation=generation),
    "contrastive+matching+masked": over_pairs(contrastive=contrastive, matching=matching, masked=masked),
    "contrastive+matching+masked+prefix_lm": over_pairs(
        contrastive=contrastive, matching=matching, masked=masked, prefix_lm=prefix_lm
    ),
}

PARTS = {"contrastive", "matching", "masked", "prefix_lm", "generation"}
"""Of the objectives over pairs; "+" joins those that are learnt together."""

COUNTS: dict[str, Callable[[Batch], int]] = {
    "next_token": supervised_tokens,
    "whole_reply": replies,
    "word_alignment": single_pictures,
    "word_reading": read_words,
    **{name: count_pairs for name in OBJECTIVES if set(name.split("+")) <= PARTS},
}
"""The units in a batch, known on the host before anything is computed; equal to the loss's count."""
