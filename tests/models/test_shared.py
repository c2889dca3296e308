"""Pages are told apart by all that their content depends on, and parts of prompts are what the whole is there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scops.data.collate import pad, part
from scops.models.encoded import Item
from scops.models.shared import content
from tests.conftest import example

PICTURE = Item("image", "a" * 64, start=3, length=5, pixels=None)


@pytest.mark.parametrize(
    "other",
    [
        (b"", [1, 2, 0, 0], 1, [replace(PICTURE, digest="b" * 64)]),
        (b"", [1, 2, 0, 0], 1, [replace(PICTURE, kind="video")]),
        (b"", [1, 2, 0, 0], 1, [replace(PICTURE, start=2)]),  # one token earlier
        (b"", [1, 2, 0, 0], 1, [replace(PICTURE, start=0, length=8)]),  # the same places, other tokens of it
        (b"", [1, 2, 0, 0], 1, []),
        (b"", [1, 3, 0, 0], 1, [PICTURE]),
        (b"x", [1, 2, 0, 0], 1, [PICTURE]),
        (b"", [1, 2, 0], 1, [PICTURE]),
    ],
)
def test_a_page_with_anything_else_in_it_has_another_digest(other: tuple) -> None:
    assert content(*other) != content(b"", [1, 2, 0, 0], 1, [PICTURE])


def test_ids_at_the_places_of_media_and_media_elsewhere_do_not_matter() -> None:
    later = replace(PICTURE, start=40)
    assert content(b"", [1, 2, 0, 0], 1, [PICTURE]) == content(b"", [1, 2, 9, 9], 1, [PICTURE, later])


@pytest.mark.parametrize(("start", "end"), [(0, 9), (0, 3), (2, 5), (3, 4), (4, 9), (7, 9)])
def test_a_part_of_an_example_is_what_the_whole_is_there(start: int, end: int) -> None:
    whole_example = example([1, 2, 3, 4, 5, 6, 7, 8, 9], ((1, 3), (5, 2)), [torch.zeros(3, 2, 2)] * 2)
    whole, cut = pad([whole_example], pad_id=0), part(whole_example, start, end)
    assert torch.equal(cut.ids_BT, whole.ids_BT[:, start:end])
    assert torch.equal(cut.positions_BT, whole.positions_BT[:, start:end])
    seen = whole.where["image"].index_R.numpy()
    expected = seen[(seen >= start) & (seen < end)] - start
    found = cut.where["image"].index_R.numpy() if "image" in cut.where else np.array([], int)
    assert found.tolist() == expected.tolist()
    assert cut.route.index[1].tolist() == expected.tolist()
    assert not cut.media
