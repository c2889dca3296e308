"""What is learnt: functions (system, batch, state) -> Loss, each with a stated unit."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from scops.core.batch import Batch
from scops.core.loss import Loss
from scops.objectives.next_token import next_token, supervised_tokens
from scops.objectives.word_alignment import single_pictures, word_alignment
from scops.objectives.word_reading import read_words, word_reading

State = dict[str, Tensor]
"""What an objective keeps from step to step (queues, shadow weights); empty at first, saved with the run."""

Objective = Callable[[Any, Batch, State], Loss]

OBJECTIVES: dict[str, Objective] = {
    "next_token": next_token,
    "word_alignment": word_alignment,
    "word_reading": word_reading,
}

COUNTS: dict[str, Callable[[Batch], int]] = {
    "next_token": supervised_tokens,
    "word_alignment": single_pictures,
    "word_reading": read_words,
}
"""The units in a batch, known on the host before anything is computed; equal to the loss's count."""
