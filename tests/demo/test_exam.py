"""The examination asks evenly, and its table says nothing where a baseline cannot answer."""

from pathlib import Path

from scops.demo import exam
from scops.demo.results import Story, table_rows
from scops.lab.baselines import Question


def paper(trained: bool, pictures: int) -> exam.Paper:
    asked = [Question("name", "What is this?", "owl", tuple(f"{n}.png" for n in range(pictures)))]
    return exam.Paper(exam.Group("g", "f.jsonl", ("name",), trained), "name", asked)


def test_questions_are_taken_evenly_and_all_where_there_are_few():
    asked = [Question("name", "?", str(n)) for n in range(10)]
    assert [q.truth for q in exam.evenly(asked, 4)] == ["0", "2", "5", "7"]
    assert exam.evenly(asked, 10) == exam.evenly(asked, 99) == asked


def test_nearest_neighbours_are_told_only_for_single_pictures_that_were_not_trained_on():
    papers = [paper(False, 1), paper(True, 1), paper(False, 3)]
    story = Story(Path(), papers, {"nearest neighbour": [0.5] * 3, "owl-nano": [0.25] * 3})
    assert [row[3:] for row in table_rows(story)] == [("50", "25"), ("-", "25"), ("-", "25")]
