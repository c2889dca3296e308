"""What both objectives share that pair a picture with its answer: which rows take part, and in which form."""

from dataclasses import replace

import pytest
import torch

from scops.data.collate import pack, pad
from scops.objectives import COUNTS, OBJECTIVES
from tests.objectives.rows import example
from tests.train.toy import Toy

COUNTED = {"word_alignment": 3, "word_reading": 5}
"""Units in three rows with answers of two, one and two words: rows, or words."""
both = pytest.mark.parametrize("name", COUNTED)


@both
def test_rows_without_exactly_one_picture_take_no_part(name):
    system, objective = Toy().eval(), OBJECTIVES[name]
    rows = [example([3, 4]), example([5]), example([6, 7])]
    mixed = [example([8], 0), rows[0], example([2, 2], 2), *rows[1:], example([9], 0)]
    batch = pad(mixed, pad_id=0)
    loss = objective(system, batch, {})
    assert loss.count == COUNTS[name](batch) == COUNTED[name]
    torch.testing.assert_close(loss.sum, objective(system, pad(rows, pad_id=0), {}).sum)


@both
def test_a_batch_without_pictures_counts_nothing(name):
    assert OBJECTIVES[name](Toy(), pad([example([8], 0)], pad_id=0), {}).count == 0


@both
def test_features_in_the_batch_replace_pictures(name):
    system, objective = Toy().eval(), OBJECTIVES[name]
    batch = pad([example([3, 4]), example([5])], pad_id=0)
    known = replace(batch, media={}, features=system.encode(batch))
    torch.testing.assert_close(objective(system, known, {}).sum, objective(system, batch, {}).sum)


@both
def test_packed_rows_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} needs one conversation per row, but this batch is packed"):
        OBJECTIVES[name](Toy(), pack([example([3]), example([5])], capacity=30, pad_id=0), {})
