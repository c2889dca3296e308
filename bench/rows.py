"""Training rows of random words and pictures, in the lengths of the demo's own data sets and of LLaVA's kind of data."""

# T tokens
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scops.connectors.abstractor import tokens_for
from scops.core.batch import Example, Span
from scops.systems import owl_small


@dataclass(frozen=True)
class Kind:
    """Rows of one data set, smallest and largest lengths.

    Args:
        share: of the rows.
        words, learnt, pictures: per row; words are tokens of text.
    """

    share: float
    words: tuple[int, int]
    learnt: tuple[int, int]
    pictures: tuple[int, int] = (1, 1)


Mix = Mapping[str, Kind]

DEMO: Mix = {
    "names": Kind(0.50, (21, 57), (6, 20)),
    "scenes": Kind(0.20, (70, 95), (20, 33)),
    "which": Kind(0.12, (23, 33), (5, 5), (2, 4)),
    "words": Kind(0.10, (21, 27), (6, 9)),
    "text": Kind(0.08, (22, 38), (6, 16), (0, 0)),
}
"""As measured on the demo's data sets, which the recipe of owl-tiny weighs so."""

LLAVA: Mix = {"instruct": Kind(1.0, (5, 200), (5, 150), (1, 9))}
"""With pictures or tiles of 64 tokens: 64 to 576 tokens of pictures, 5 to 200 of text, about a fifth learnt."""


def rows_of(spec: owl_small.Spec, count: int, *, mix: Mix = DEMO, seed: int = 0) -> list[Example]:
    """Random words and pictures in these lengths. Pictures are digests: their features are known, as in training."""
    dice, made = np.random.default_rng(seed), []
    each = tokens_for(spec.abstractor)
    for name in dice.choice([*mix], count, p=[kind.share for kind in mix.values()]):
        kind, draw = mix[name], lambda span: int(dice.integers(span[0], span[1], endpoint=True))
        pictures, learnt = draw(kind.pictures), draw(kind.learnt)
        length = max(draw(kind.words), 4 + pictures + learnt) + pictures * each
        ids_T, learn_T = dice.integers(1, spec.language.vocab, length), np.zeros(length, np.bool_)
        learn_T[length - learnt :] = True
        spans = tuple(Span("image", 4 + at * (each + 1), each) for at in range(pictures))
        digests = {"image": tuple(f"{len(made)}-{at}" for at in range(pictures))} if pictures else {}
        made.append(Example(ids_T, learn_T, spans, digests=digests, name=f"row {len(made)}", dataset=str(name)))
    return made
