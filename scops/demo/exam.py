"""The demo's examination: questions in groups, all but the first held out, asked of a system or of a baseline, scored alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scops.data.image import decode, digest, prepare
from scops.demo.dataset import rows_in
from scops.demo.score import folded, right
from scops.lab.baselines import Question, nearest_neighbour, pool, questions, text_prior
from scops.model import Model
from scops.train.features import Features

MOST_TOKENS = 24
BATCH = 16


@dataclass(frozen=True)
class Group:
    """Questions that test one thing.

    Args:
        file: of the data set; tasks: of scops.demo.score.
        trained: whether these very pictures were learnt from, so that their nearest neighbour is themselves.
    """

    name: str
    file: str
    tasks: tuple[str, ...]
    trained: bool = False


GROUPS = (
    Group("a picture that was trained on", "train_names.jsonl", ("name", "kind"), trained=True),
    Group("a new picture of a trained thing", "heldout_picture.jsonl", ("name", "kind")),
    Group("a drawing style never trained on", "heldout_style.jsonl", ("name", "kind")),
    Group("a thing never trained on", "heldout_concept.jsonl", ("name", "kind")),
    Group("a scene", "heldout_layout.jsonl", ("count", "where", "present", "at")),
    Group("one of several pictures", "heldout_which.jsonl", ("which",)),
    Group("a written word", "heldout_word.jsonl", ("word",)),
)


@dataclass(frozen=True)
class Paper:
    """The questions of one group and task; pictures are paths below `folder`."""

    group: Group
    task: str
    questions: Sequence[Question]


def papers(folder: Path, *, each: int) -> list[Paper]:
    """At most `each` questions per group and task, evenly over their file."""
    found = []
    for group in GROUPS:
        asked = questions(rows_in(folder / group.file))
        found += [Paper(group, task, evenly([q for q in asked if q.task == task], each)) for task in group.tasks]
    return [paper for paper in found if paper.questions]


def evenly(questions: Sequence[Question], most: int) -> Sequence[Question]:
    """At most so many, spread over all."""
    return [questions[at * len(questions) // most] for at in range(most)] if len(questions) > most else questions


def answers_of(model: Model, folder: Path, paper: Paper, *, tick: Callable[[int], None] = lambda n: None) -> list[str]:
    """What a system answers to each question, greedily."""
    said: list[str] = []
    for start in range(0, len(paper.questions), BATCH):
        some = paper.questions[start : start + BATCH]
        asks = [[*(folder / path for path in q.pictures), q.text] for q in some]
        said += model.generate(asks, max_tokens=MOST_TOKENS, batch=BATCH)
        tick(len(some))
    return said


def share(paper: Paper, answers: Sequence[str]) -> float:
    """The share of questions answered exactly."""
    marks = [right(q.task, q.truth, answer) for q, answer in zip(paper.questions, answers, strict=True)]
    return sum(marks) / len(marks)


def prior_shares(folder: Path, exam: Sequence[Paper]) -> list[float]:
    """Text-only prior: the most frequent training answer of the same question."""
    train = training_questions(folder)
    return [_truth_share(paper, text_prior(train, paper.questions)) for paper in exam]


def neighbour_shares(folder: Path, exam: Sequence[Paper], pooled: Mapping[str, np.ndarray]) -> list[float]:
    """Nearest neighbour: what is true of the training picture with the most similar frozen features."""
    train = [q for q in training_questions(folder) if len(q.pictures) == 1 and q.pictures[0] in pooled]
    return [_truth_share(paper, nearest_neighbour(train, paper.questions, pooled=pooled)) for paper in exam]


def _truth_share(paper: Paper, truths: Sequence[str]) -> float:
    hits = [folded(t) == folded(q.truth) for t, q in zip(truths, paper.questions, strict=True)]
    return sum(hits) / len(hits)


def training_questions(folder: Path) -> list[Question]:
    files = sorted(path for path in folder.glob("train_*.jsonl") if path.name != "train_labels.jsonl")
    return [question for path in files for question in questions(rows_in(path))]


@torch.no_grad()
def pooled_features(
    model: Model,
    folder: Path,
    pictures: Sequence[str],
    *,
    features: Features | None = None,
    tick: Callable[[int], None] = lambda n: None,
) -> dict[str, np.ndarray]:
    """By picture, the mean of what the frozen encoder makes of it, (D,).

    Args:
        features: what is known already, so that it need not be made again.
    """
    pixels = model.layout.media["image"].pixels
    encoder = model.module.get_submodule("image.encoder")
    found: dict[str, np.ndarray] = {}
    for path in pictures:
        known = features.kept("image", digest(folder / path, pixels, path)) if features else None
        if known is None:
            made = torch.from_numpy(prepare(decode(folder / path, path), pixels, name=path))
            known = encoder(made[None].to(model.device, model.dtype))[0].cpu()
        found[path] = pool(known[None].float().numpy())[0]
        tick(1)
    return found
