"""A data set as an examination: every answer of an assistant becomes a question with all before it, and is marked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scops.core.sample import Sample, Text, Turn
from scops.lab.metrics import CAPTION, anls, contains, exact


@dataclass(frozen=True)
class Question:
    """One answer that is to be given.

    Args:
        sample: the conversation up to the question; what was asked before is answered as the data set does.
        answers: what the data set answers; one is enough.
        truths: the answer in its shortest form, where rows carry one; else empty.
        task: the row's task, or its data set.
    """

    sample: Sample
    answers: tuple[str, ...]
    truths: tuple[str, ...]
    task: str


@dataclass(frozen=True)
class Marked:
    """One reply and how it was marked.

    Args:
        exact: the reply is an answer.
        right: a truth (an answer where there is no truth) is contained.
        anls: how well written words were read, against the truths (the answers where there are none).
    """

    task: str
    reply: str
    answers: tuple[str, ...]
    exact: bool
    right: bool
    anls: float


def questions(sample: Sample) -> list[Question]:
    """One per assistant's turn.

    Raises:
        ValueError: a row without an assistant's answer, or whose truth does not fit its tasks.
    """
    ends = [at for at, turn in enumerate(sample.turns) if turn.role == "assistant"]
    if not ends or ends[0] == 0:
        raise ValueError(
            f"{sample.name}: no assistant's turn answers a question; an evaluation needs answers to compare with"
        )
    extra = sample.extra if isinstance(sample.extra, Mapping) else {}
    tasks = _tasks(extra, len(ends), sample)
    found = []
    for number, (at, task) in enumerate(zip(ends, tasks, strict=True)):
        before = Sample(_quiet(sample.turns[:at]), f"{sample.name}, answer {number}", sample.dataset)
        answer = "".join(part.text for part in sample.turns[at].parts if isinstance(part, Text))
        found.append(Question(before, (answer,), _truths(extra.get("truth"), task, sample), task))
    return found


def mark(question: Question, reply: str) -> Marked:
    accepted = question.truths or question.answers
    return Marked(
        question.task,
        reply,
        question.answers,
        exact(reply, question.answers),
        contains(reply, accepted),
        anls(reply, accepted),
    )


def summary(marked: Iterable[Marked]) -> dict[str, dict[str, float]]:
    """By task, and over "all": questions, shares of exact and right, mean ANLS, caption scores."""
    by_task: dict[str, list[Marked]] = {}
    for one in marked:
        by_task.setdefault(one.task, []).append(one)
    everything = [one for some in by_task.values() for one in some]
    if len(by_task) > 1:
        by_task["all"] = everything
    return {task: _scores(some) for task, some in by_task.items()}


def _scores(some: Sequence[Marked]) -> dict[str, float]:
    replies, references = [one.reply for one in some], [one.answers for one in some]
    return {
        "questions": len(some),
        "exact": sum(one.exact for one in some) / len(some),
        "right": sum(one.right for one in some) / len(some),
        "anls": sum(one.anls for one in some) / len(some),
        **{name: metric(replies, references) for name, metric in CAPTION.items()},
    }


def _tasks(extra: Mapping[str, Any], answers: int, sample: Sample) -> list[str]:
    """Tasks joined by "+" belong to the answers in order."""
    named = extra.get("task")
    if named is None:
        return [sample.dataset or "all"] * answers
    tasks = str(named).split("+")
    if len(tasks) == 1:
        return tasks * answers
    if len(tasks) != answers:
        raise ValueError(f"{sample.name}: {len(tasks)} tasks ({named}) for {answers} answers; expected one each")
    return tasks


def _truths(truth: Any, task: str, sample: Sample) -> tuple[str, ...]:
    """Words, a list of words, or either by task."""
    if isinstance(truth, Mapping):
        if task not in truth:
            raise ValueError(f"{sample.name}: the truth names {sorted(truth)}, but not the task {task!r}")
        truth = truth[task]
    if truth is None:
        return ()
    found = tuple(map(str, truth)) if isinstance(truth, list | tuple) else (str(truth),)
    if not all(found):
        raise ValueError(f"{sample.name}: an empty truth")
    return found


def _quiet(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    return tuple(Turn(turn.role, turn.parts) for turn in turns)
