"""The baselines on small worlds whose answers can be seen."""

from typing import Any

import numpy as np
import pytest

from scops.lab.baselines import Question, most_similar, nearest_neighbour, pool, questions, score, text_prior


def row(task: str, truth: dict[str, str], *asked: str, images: tuple[str, ...] = ()) -> dict[str, Any]:
    shown = [{"type": "image", "image": image} for image in images]
    messages = []
    for number, text in enumerate(asked):
        messages.append({"role": "user", "content": [*(shown if number == 0 else []), {"type": "text", "text": text}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": "something"}]})
    return {"id": "r", "task": task, "truth": truth, "messages": messages}


def test_every_turn_becomes_a_question_with_the_rows_pictures() -> None:
    truth = {"kind": "animal-bird", "name": "owl", "more": "unused"}
    made = questions([row("kind+name", truth, "Kind?", "Name?", images=("a.png",)), row("text", {"text": "4"}, "2+2?")])
    assert made == [
        Question("kind", "Kind?", "animal-bird", ("a.png",)),
        Question("name", "Name?", "owl", ("a.png",)),
        Question("text", "2+2?", "4"),
    ]


def test_a_row_whose_tasks_do_not_fit_its_questions_is_an_error() -> None:
    with pytest.raises(ValueError, match="'r' has the tasks"):
        questions([row("kind+name", {"kind": "x", "name": "y"}, "Kind?")])
    with pytest.raises(ValueError, match="one truth per task"):
        questions([row("kind", {"name": "y"}, "Kind?")])


def test_text_prior_answers_by_wording_then_by_task() -> None:
    train = [Question("count", "How many?", t) for t in ("2", "3", "3")] + [Question("count", "Count.", "2")] * 3
    asked = [Question("count", t, "3") for t in ("How many?", "Count.", "Number?")] + [
        Question("where", "Where?", "left")
    ]
    assert text_prior(train, asked) == ["3", "2", "2", ""]


def test_nearest_neighbour_answers_what_the_most_similar_picture_of_the_task_was() -> None:
    rng = np.random.default_rng(0)
    base = {f"{i}.png": rng.normal(size=7) for i in range(9)}
    pooled = base | {f"{name}-again": 3 * value + 0.01 * rng.normal(size=7) for name, value in base.items()}
    train = [Question("name", "?", name, (name,)) for name in base] + [Question("kind", "?", "odd", ("3.png",))]
    asked = [Question("name", "?", name, (f"{name}-again",)) for name in reversed(base)]
    asked += [
        Question("kind", "?", "odd", ("5.png-again",)),
        Question("text", "?", "4"),
        Question("name", "?", "x", ("0.png", "1.png")),
    ]
    assert nearest_neighbour(train, asked, pooled=pooled) == [*reversed(base), "odd", "", ""]


def test_most_similar_equals_the_slow_twin_across_chunks() -> None:
    rng = np.random.default_rng(1)
    train, asked = rng.normal(size=(31, 5)), rng.normal(size=(1030, 5))
    slow = [max(range(31), key=lambda n: train[n] @ row / np.linalg.norm(train[n])) for row in asked]
    assert most_similar(train, asked).tolist() == slow


def test_pool_is_the_mean_over_features_and_score_counts_by_task() -> None:
    features = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    np.testing.assert_allclose(pool(features)[1], features[1].mean(0))
    asked = [Question("count", "?", "2"), Question("count", "?", "3"), Question("name", "?", "owl")]
    made = score(["2", "2", "owl"], asked)
    assert made["count"].share == 0.5
    assert (made["name"].right, made["name"].asked) == (1, 1)
