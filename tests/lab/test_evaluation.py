"""An examination: which questions a row asks, and how replies are marked."""

import pytest

from scops.core.sample import Sample, Text, Turn
from scops.lab.evaluation import mark, questions, summary


def row(*said: str, **extra: object) -> Sample:
    turns = [Turn("assistant" if at % 2 else "user", (Text(text),), bool(at % 2)) for at, text in enumerate(said)]
    return Sample(tuple(turns), "row 3", "demo", extra)


def test_every_answer_is_a_question_with_all_before_it() -> None:
    first, second = questions(row("What?", "An owl.", "Where?", "On a branch."))
    assert [len(q.sample.turns) for q in (first, second)] == [1, 3]
    assert second.answers == ("On a branch.",)
    assert not any(turn.learn for turn in second.sample.turns)
    assert {q.task for q in (first, second)} == {"demo"}


def test_tasks_and_truths_belong_to_the_answers_in_order() -> None:
    found = questions(
        row(
            "What?",
            "It is an owl.",
            "How many?",
            "Two.",
            task="name+count",
            truth={"name": "owl", "count": ["2", "two"]},
        )
    )
    assert [(q.task, q.truths) for q in found] == [("name", ("owl",)), ("count", ("2", "two"))]
    assert [mark(q, r).right for q, r in zip(found, ("I see an owl", "there are two"), strict=True)] == [True, True]
    assert [mark(q, r).exact for q, r in zip(found, ("it is an owl!", "there are two"), strict=True)] == [True, False]


def test_without_truth_the_answer_itself_must_be_contained() -> None:
    (question,) = questions(row("What?", "an owl"))
    assert mark(question, "This is an owl.").right
    assert not mark(question, "This is a bowl.").right


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (row("What?"), "no assistant's turn"),
        (Sample((Turn("assistant", (Text("hi"),)),), "row 3"), "no assistant's turn answers"),
        (row("a", "b", "c", "d", task="x+y+z"), "3 tasks"),
        (row("a", "b", task="kind", truth={"name": "owl"}), "not the task 'kind'"),
        (row("a", "b", truth=""), "empty truth"),
    ],
)
def test_rows_that_do_not_fit_are_named(sample: Sample, words: str) -> None:
    with pytest.raises(ValueError, match=f"row 3.*{words}"):
        questions(sample)


def test_the_summary_counts_by_task_and_over_all() -> None:
    asked = [questions(row("q", a, task=t))[0] for a, t in (("an owl", "name"), ("a cat", "name"), ("three", "count"))]
    found = summary(mark(q, r) for q, r in zip(asked, ("owl", "a dog", "three of them"), strict=True))
    assert {task: (s["questions"], s["exact"], s["right"]) for task, s in found.items()} == {
        "name": (2, 0.5, 0.5), "count": (1, 0.0, 1.0), "all": (3, pytest.approx(1 / 3), pytest.approx(2 / 3)),
    }  # fmt: skip


def test_reading_is_marked_against_the_truths_where_there_are_any() -> None:
    (told,) = questions(row("What number?", "It is 4711.", truth=["4711", "No. 4711"]))
    (bare,) = questions(row("What number?", "4711"))
    assert [mark(question, "4712").anls for question in (told, bare)] == [0.75, 0.75]
    assert mark(told, "It is 4711.").anls == 0.0
    assert summary([mark(told, "4711"), mark(bare, "4712")])["demo"]["anls"] == pytest.approx(0.875)
