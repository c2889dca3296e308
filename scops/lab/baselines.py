"""Two honest baselines: what the question alone gives away, and what the most similar training picture would say.

A system that sees must beat the first; one that does more than remember its encoder's features must beat the second.
"""

# N training pictures, M asked pictures, P features per picture, D width
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CHUNK = 1024


@dataclass(frozen=True)
class Question:
    """One question of a row: what is asked, and the truth in its shortest form.

    Args:
        pictures: the row's pictures, as the row names them.
    """

    task: str
    text: str
    truth: str
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """Right answers out of those asked."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        return self.right / self.asked if self.asked else 0.0


def questions(rows: Iterable[Mapping[str, Any]]) -> list[Question]:
    """Every question of rows in the `messages` form that carry `task` (joined by "+", one per answer) and `truth`.

    Raises:
        ValueError: a row whose tasks, truths and answers do not fit together.
    """
    found = []
    for row in rows:
        tasks = row["task"].split("+")
        asked = [words(message) for message in row["messages"] if message["role"] == "user"]
        if len(tasks) != len(asked) or any(task not in row["truth"] for task in tasks):
            raise ValueError(
                f"row {row.get('id', '?')!r} has the tasks {tasks}, {len(asked)} questions and truths for "
                f"{sorted(row['truth'])}; expected one question and one truth per task"
            )
        shown = tuple(part["image"] for m in row["messages"] for part in m["content"] if part["type"] == "image")
        found += [Question(task, text, row["truth"][task], shown) for task, text in zip(tasks, asked, strict=True)]
    return found


def words(message: Mapping[str, Any]) -> str:
    """The text of a message, without its pictures."""
    return " ".join(part["text"] for part in message["content"] if part["type"] == "text")


def text_prior(train: Iterable[Question], asked: Iterable[Question]) -> list[str]:
    """The most frequent training truth of the same wording, or of the same task where the wording is new; no picture.

    Ties go to the truth that came first; a task that was never trained is answered with "".
    """
    wording: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    task: dict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        wording[question.task, question.text][question.truth] += 1
        task[question.task][question.truth] += 1
    return [most(wording.get((q.task, q.text)) or task.get(q.task)) for q in asked]


def most(counts: Counter[str] | None) -> str:
    return counts.most_common(1)[0][0] if counts else ""


def nearest_neighbour(
    train: Sequence[Question], asked: Sequence[Question], *, pooled: Mapping[str, np.ndarray]
) -> list[str]:
    """The truth of the most similar training picture that was asked the same task, by the cosine of pooled features.

    Args:
        pooled: picture -> (D,); questions about no picture or several are answered with "".
    """
    answers = [""] * len(asked)
    for task in {question.task for question in asked}:
        known = [q for q in train if q.task == task and len(q.pictures) == 1]
        places = [i for i, q in enumerate(asked) if q.task == task and len(q.pictures) == 1]
        if known and places:
            train_ND = np.stack([pooled[q.pictures[0]] for q in known])
            asked_MD = np.stack([pooled[asked[i].pictures[0]] for i in places])
            for place, index in zip(places, most_similar(train_ND, asked_MD), strict=True):
                answers[place] = known[index].truth
    return answers


def most_similar(train_ND: np.ndarray, asked_MD: np.ndarray) -> np.ndarray:
    """For each asked row, the training row of highest cosine; the first of equals."""
    train_DN = unit(train_ND).T
    found = [np.argmax(unit(asked_MD[i : i + CHUNK]) @ train_DN, axis=1) for i in range(0, len(asked_MD), CHUNK)]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def pool(features_MPD: np.ndarray) -> np.ndarray:
    """Mean over a picture's features, (M, D)."""
    return features_MPD.astype(np.float32).mean(axis=1)


def unit(x_MD: np.ndarray) -> np.ndarray:
    """Rows of length one; a row of zeros stays."""
    x_MD = x_MD.astype(np.float32)
    return x_MD / np.maximum(np.linalg.norm(x_MD, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def score(answers: Sequence[str], asked: Sequence[Question]) -> dict[str, Score]:
    """By task, how many answers are the truth."""
    right, total = Counter(), Counter()
    for answer, question in zip(answers, asked, strict=True):
        total[question.task] += 1
        right[question.task] += answer == question.truth
    return {task: Score(right[task], count) for task, count in total.items()}
