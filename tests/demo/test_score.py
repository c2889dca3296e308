"""Reading the truth back out of answers."""

import pytest

from scops.demo import wording
from scops.demo.pictures import GRIDS
from scops.demo.score import right, said


@pytest.mark.parametrize("name", ["owl", "hourglass done", "unicorn", "books", "Aries", "Mrs. Claus", "UP! button"])
def test_names_are_read_back_from_every_sentence_that_says_them(name: str) -> None:
    for answer in (
        wording.name_answer(name),
        wording.at_answer(name),
        name,
        f"The picture shows {wording.noun(name)}.",
    ):
        assert right("name", name, answer), said("name", answer)
    assert not right("name", name, wording.name_answer("bus"))


def test_kinds_counts_places_and_choices_are_read_back() -> None:
    assert len(set(wording.KINDS.values())) == len(wording.KINDS)
    assert all(right("kind", kind, wording.kind_answer(kind)) for kind in wording.KINDS)
    assert all(right("count", str(n), wording.count_answer(n)) for n in range(1, 6))
    assert all(right("which", str(i + 1), wording.which_answer(i)) for i in range(4))
    for place in {place for grid in GRIDS for place in grid.places}:
        assert right("where", place, wording.where_answer("scissors", place))
        assert (
            sum(
                right("where", other, wording.where_answer("owl", place)) for grid in GRIDS[1:] for other in grid.places
            )
            == 1
        )


@pytest.mark.parametrize(
    ("task", "truth", "answer", "expected"),
    [
        ("kind", "animal-bird", "An owl is a kind of bird.", True),
        ("kind", "animal-bird", "Bird", True),
        ("kind", "animal-bird", "It is a kind of birdhouse.", False),
        ("count", "3", "3", True),
        ("count", "3", "many", False),
        ("present", "yes", "Yes, there is an owl.", True),
        ("present", "yes", "There is no owl.", False),
        ("which", "2", "Picture 2.", True),
        ("word", "TREE", 'It says "tree".', True),
        ("word", "tree", "tree", True),
        ("text", "6 plus 2 is 8.", "6 plus 2 is 8", True),
        ("name", "owl", "", False),
    ],
)
def test_answers_in_other_words(task: str, truth: str, answer: str, expected: bool) -> None:
    assert right(task, truth, answer) is expected


def test_unknown_tasks_are_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'count'"):
        said("counts", "3")


def test_articles_and_plurals() -> None:
    nouns = {"owl": "an owl", "unicorn": "a unicorn", "hourglass": "an hourglass", "x-ray": "an x-ray", "books": "books",
             "octopus": "an octopus", "glass of milk": "a glass of milk", "man with bunny ears": "a man with bunny ears",
             "men with bunny ears": "men with bunny ears", "one o'clock": "a one o'clock", "Leo": "Leo"}  # fmt: skip
    assert {name: wording.noun(name) for name in nouns} == nouns


def test_labels_become_names_for_sentences() -> None:
    assert wording.spoken("woman: bald") == "bald woman"
    assert wording.spoken("man: curly hair") == "man with curly hair"
    assert wording.spoken("woman’s hat") == "woman's hat"
    assert wording.spoken("person walking: facing right") == "person walking facing right"
