"""The split by hash."""

from scops.demo.concepts import HELD_SHARE, concept_split
from scops.demo.shapes import shapes


def test_a_tenth_is_held_out_and_stays_so() -> None:
    codes = [f"{number:x}" for number in range(0x1F000, 0x1F000 + 4000)]
    held = sum(concept_split(code) == "heldout" for code in codes) / len(codes)
    assert abs(held - HELD_SHARE) < 0.02
    assert concept_split("1f427") == "heldout"  # a penguin; whoever changes the hash parts old runs from new data
    assert concept_split("1f989") == "train"  # an owl


def test_relatives_are_never_parted() -> None:
    for end in ("200d-1f680", "200d-1f692", "200d-2695-fe0f"):
        assert len({concept_split(f"{who}-{end}") for who in ("1f468", "1f469", "1F9D1")}) == 1
    for who in ("1f3c4", "1f6b4", "1f486"):
        relatives = (who, f"{who}-200d-2640", f"{who}-200d-2642-fe0f", f"{who}-200d-2640-fe0f-200d-27a1-fe0f")
        assert len({concept_split(code) for code in relatives}) == 1
    assert concept_split("2601-fe0f") == concept_split("2601")


def test_a_gallery_is_parted_without_remainder() -> None:
    gallery = shapes()
    assert sorted(c.code for c in gallery.trained + gallery.held) == sorted(c.code for c in gallery.concepts)
    assert all(gallery.styles_of(concept) for concept in gallery.concepts)
