"""Boxes as text, there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scops.data.boxes import Box, boxes_in


def test_boxes_are_written_and_read_as_published() -> None:
    """A box of COCO (x, y, width, height) is (60, 48, 120, 96) in a picture of 640 x 480."""
    box = Box(60, 48, 180, 144)
    assert box.written(640, 480) == "{<9><10><28><30>}"
    assert boxes_in("it is {<9><10><28><30>}", 640, 480) == [Box(57.6, 48.0, 179.2, 144.0)]


def test_a_phrase_counts_for_the_boxes_behind_it() -> None:
    text = "{<0><0><1><1>} and <p>an owl</p> {<1><2><3><4>}<delim>{<5><6><7><8>} on <p> a branch</p>{<0><50><100><100>}"
    found = boxes_in(text, 100, 200)
    assert [box.phrase for box in found] == ["", "an owl", "an owl", "a branch"]
    assert found[2] == Box(5, 12, 7, 16, "an owl")


@pytest.mark.parametrize(
    "text", ["", "{<1><2><3>}", "{<3><2><1><4>}", "{<1><2><3><101>}", "<1><2><3><4>", "{<a><b><c><d>}"]
)
def test_what_is_no_box_is_left_out(text: str) -> None:
    assert boxes_in(text, 10, 10) == []


@pytest.mark.parametrize("box", [Box(-1, 0, 1, 1), Box(0, 0, 11, 1), Box(3, 0, 2, 1)])
def test_a_box_outside_of_its_picture_is_refused(box: Box) -> None:
    with pytest.raises(ValueError, match="does not lie in a picture of 10x10"):
        box.written(10, 10)


SIDE = st.integers(1, 3000)


@given(SIDE, SIDE, *[st.floats(0, 1)] * 4)
def test_what_is_written_is_read_back_within_a_hundredth(
    w: int, h: int, a: float, b: float, c: float, d: float
) -> None:
    (left, right), (top, bottom) = sorted((a * w, b * w)), sorted((c * h, d * h))
    (made,) = boxes_in(Box(left, top, right, bottom).written(w, h), w, h)
    assert all(abs(x - y) <= w / 99 for x, y in ((made.left, left), (made.right, right)))
    assert all(abs(x - y) <= h / 99 for x, y in ((made.top, top), (made.bottom, bottom)))
