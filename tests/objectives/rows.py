"""Rows for objectives that pair pictures with answers."""

import numpy as np

from scops.core.batch import Example, Span
from tests.train.toy import QUERIES


def example(answer: list[int], pictures: int = 1, lead: int = 2) -> Example:
    """`pictures` pictures of QUERIES tokens each, then a question of `lead` tokens and its answer."""
    ids = [0] * (QUERIES * pictures) + [9] * lead + answer
    learn = np.arange(len(ids)) >= len(ids) - len(answer)
    media = tuple(
        np.random.default_rng(sum(answer) + i).normal(size=(3, 4, 4)).astype(np.float32) for i in range(pictures)
    )
    spans = tuple(Span("image", QUERIES * i, QUERIES) for i in range(pictures))
    return Example(
        np.array(ids), learn, spans, {"image": media} if media else {}, {"image": ("d",) * pictures} if media else {}
    )
