"""Predict whole replies: long ones weigh as much as they are long (ALBEF and mPLUG for answering, AliceMind model_vqa_mplug.py)."""

# B rows
from dataclasses import replace

from torch import Tensor

from scops.core.batch import Batch
from scops.core.loss import Loss
from scops.core.system import Decoder
from scops.objectives.next_token import next_token, targets_of


def whole_reply(system: Decoder, batch: Batch, state: dict[str, Tensor]) -> Loss:
    """Cross-entropy in float32 summed over supervised tokens, counted by rows that have any. Unit: reply."""
    return replace(next_token(system, batch, state), count=replies(batch), unit="reply")


def replies(batch: Batch) -> int:
    return sum(count > 0 for count in targets_of(batch).count_B)
