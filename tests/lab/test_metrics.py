"""Metrics: answers compared as people would, caption scores equal to the COCO caption tools."""

import random

import pytest

from scops.lab.metrics import CAPTION, _common, anls, bleu, cider, contains, edits, exact, rouge_l

REPLIES = ["a small owl sits on a branch", "two red apples and a a a bird", "the sun over the sea", "a cat"]
REFERENCES = [
    ["an owl sits on a branch of a tree", "a small brown owl on a branch"],
    ["two red apples and a bird", "there are two apples and one bird"],
    ["sunrise over the sea", "the sun rises over the blue sea"],
    ["a cat sleeps on the mat"],
]


def test_caption_scores_equal_the_coco_caption_tools() -> None:
    """The numbers are those of pycocoevalcap 1.2 for these sentences."""
    reference = [0.8300915601811392, 0.7678035329383048, 0.6456487283692961, 0.5467562074651146]
    assert [bleu(REPLIES, REFERENCES, n=n) for n in (1, 2, 3, 4)] == pytest.approx(reference, rel=1e-7)
    assert rouge_l(REPLIES, REFERENCES) == pytest.approx(0.7578034010870168, rel=1e-9)
    assert cider(REPLIES, REFERENCES) == pytest.approx(3.5278500341276557, rel=1e-9)


@pytest.mark.parametrize("name", CAPTION)
def test_the_references_themselves_score_highest(name: str) -> None:
    perfect = [answers[0] for answers in REFERENCES]
    assert CAPTION[name](perfect, REFERENCES) > CAPTION[name](REPLIES, REFERENCES)
    assert CAPTION[name](["nothing at all"] * 4, REFERENCES) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", CAPTION)
def test_a_row_without_reference_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="row 1 has no reference"):
        CAPTION[name](["a", "b"], [["a"], []])


def test_longest_common_subsequence_equals_its_definition() -> None:
    dice = random.Random(0)

    def slow(a: list[int], b: list[int]) -> int:
        if not a or not b:
            return 0
        return slow(a[1:], b[1:]) + 1 if a[0] == b[0] else max(slow(a[1:], b), slow(a, b[1:]))

    for _ in range(60):
        a, b = ([dice.randrange(3) for _ in range(dice.randrange(7))] for _ in range(2))
        assert _common(a, b) == slow(a, b)


@pytest.mark.parametrize(
    ("reply", "answers", "is_exact", "is_contained"),
    [
        ("An owl.", ["owl"], True, True),
        ("It is a bowl.", ["owl"], False, False),
        ("This is a red apple!", ["red apple"], False, True),
        ("red, and an apple", ["red apple"], False, False),
        ("3", ["three", "3"], True, True),
        ("这是猫头鹰", ["猫头鹰"], False, True),
        ("", ["owl"], False, False),
        ("The", ["a"], False, False),
        ("don’t know", ["Don't know"], True, True),
    ],
)
def test_answers_are_compared_by_their_words(
    reply: str, answers: list[str], is_exact: bool, is_contained: bool
) -> None:
    assert (exact(reply, answers), contains(reply, answers)) == (is_exact, is_contained)


@pytest.mark.parametrize(
    ("reply", "answers", "score"),
    [
        ("Invoice 4711", ["invoice 4711"], 1.0),
        ("invoice  4711\n", ["Invoice 4711"], 1.0),
        ("invoice 4712", ["invoice 4711"], 11 / 12),
        ("invoice4711", ["invoice 4711"], 11 / 12),  # spaces between words count
        ("4711", ["invoice 4711", "4711"], 1.0),
        ("abcd", ["abxy"], 0.0),  # exactly half
        ("abcde", ["abcxy"], 0.6),
        ("it is 4711", ["4711"], 0.0),
        ("", ["4711"], 0.0),
        ("\uff14\uff17\uff11\uff11", ["4711"], 1.0),  # full-width digits
    ],
)
def test_anls_is_its_definition(reply: str, answers: list[str], score: float) -> None:
    assert anls(reply, answers) == pytest.approx(score)


def test_anls_needs_an_answer() -> None:
    with pytest.raises(ValueError, match="without an answer"):
        anls("4711", [])


def test_edits_equal_their_definition() -> None:
    dice = random.Random(0)

    def slow(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    for _ in range(60):
        a, b = ("".join(dice.choice("xyz") for _ in range(dice.randrange(6))) for _ in range(2))
        assert edits(a, b) == edits(b, a) == slow(a, b)
