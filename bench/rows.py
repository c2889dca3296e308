"""Training rows in the lengths of the demo's own data sets, of random words and pictures."""

# T tokens
from dataclasses import dataclass

import numpy as np

from scops.connectors.abstractor import tokens_for
from scops.core.batch import Example, Span
from scops.systems import owl_small


@dataclass(frozen=True)
class Kind:
    """Rows of one data set, as lengths measured on the demo's own (smallest and largest).

    Args:
        share: of the rows, as the recipe of owl-tiny weighs them.
        words, learnt, pictures: per row; words are tokens of text.
    """

    share: float
    words: tuple[int, int]
    learnt: tuple[int, int]
    pictures: tuple[int, int] = (1, 1)


KINDS = {
    "names": Kind(0.50, (21, 57), (6, 20)),
    "scenes": Kind(0.20, (70, 95), (20, 33)),
    "which": Kind(0.12, (23, 33), (5, 5), (2, 4)),
    "words": Kind(0.10, (21, 27), (6, 9)),
    "text": Kind(0.08, (22, 38), (6, 16), (0, 0)),
}


def rows_of(spec: owl_small.Spec, count: int, *, seed: int = 0) -> list[Example]:
    """Random words and pictures in these lengths. Pictures are digests: their features are known, as in training."""
    dice, made = np.random.default_rng(seed), []
    each = tokens_for(spec.abstractor)
    for name in dice.choice([*KINDS], count, p=[kind.share for kind in KINDS.values()]):
        kind, draw = KINDS[name], lambda span: int(dice.integers(span[0], span[1], endpoint=True))
        pictures, learnt = draw(kind.pictures), draw(kind.learnt)
        length = max(draw(kind.words), 4 + pictures + learnt) + pictures * each
        ids_T, learn_T = dice.integers(1, spec.language.vocab, length), np.zeros(length, np.bool_)
        learn_T[length - learnt :] = True
        spans = tuple(Span("image", 4 + at * (each + 1), each) for at in range(pictures))
        digests = {"image": tuple(f"{len(made)}-{at}" for at in range(pictures))} if pictures else {}
        made.append(Example(ids_T, learn_T, spans, digests=digests, name=f"row {len(made)}", dataset=str(name)))
    return made
