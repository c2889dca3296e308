"""How time and memory grow with context, pictures, rows and documents per pack: scops alone, on a small system.

The exponent of a curve is the slope of its logarithm over the upper half of its sizes: 1 is linear, 2 quadratic.
"""

# B rows, V vocabulary
import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import log
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from bench import plot
from bench.pair import Settings, Timed, beginning, head, keep, options, timed
from scops.connectors.abstractor import AbstractorSpec, tokens_for
from scops.core.batch import Batch, Example, Span
from scops.data.collate import pack, pad
from scops.encoders.vit import VitSpec
from scops.lab.memory import peak_bytes
from scops.language.llama import LlamaSpec
from scops.nn.initialise import initialise
from scops.systems import mplug_owl
from scops.train.step import gradients

WHAT = "growth"
LENGTHS, CONTEXTS = (256, 512, 1024, 2048, 4096), (512, 1024, 2048, 4096, 8192)
PICTURES = (4, 8, 16, 32, 64)
ROWS = (1, 2, 4, 8, 16)
DOCUMENTS = (2, 4, 8, 16, 32)
CONTEXT, TEXT, DOCUMENT, STEPS = 512, 64, 128, 8
"""Tokens per row where rows grow, beside pictures, and per document; decoded tokens per measurement."""
SPEC = mplug_owl.Spec(
    VitSpec(dim=128, hidden=256, layers=2, heads=4, image=112, patch=14),
    AbstractorSpec(dim=128, hidden=256, layers=1, heads=4, queries=64),
    LlamaSpec(dim=256, hidden=768, layers=4, heads=4, kv_heads=4, vocab=8192, context=16384, tied=True),
)


@dataclass(frozen=True)
class Point:
    """One size.

    Args:
        seconds: of each round.
        memory: bytes of tensors alive at most, weights not counted.
    """

    size: int
    seconds: tuple[float, ...]
    memory: int


@dataclass(frozen=True)
class Curve:
    """Args:
    work: what is done once per measurement.
    against: what grows.
    """

    work: str
    against: str
    points: tuple[Point, ...]

    def exponents(self) -> dict[str, float]:
        upper = self.points[len(self.points) // 2 :]
        sizes = [point.size for point in upper]
        return {
            "time": exponent(sizes, [median(point.seconds) for point in upper]),
            "memory": exponent(sizes, [point.memory for point in upper]),
        }

    def __str__(self) -> str:
        ends = [
            f"{point.size}: {median(point.seconds) * 1e3:.4g} ms, {point.memory / 1e6:.4g} MB" for point in self.points
        ]
        found = ", ".join(f"{name} {value:.2f}" for name, value in self.exponents().items())
        return f"{self.work} against {self.against}: {'; '.join(ends)}; exponents: {found}"


@dataclass(frozen=True)
class Growth:
    """One curve to be measured.

    Args:
        prepare: a size -> what is timed, and what is watched for memory.
    """

    work: str
    against: str
    sizes: Sequence[int]
    prepare: Callable[[int], tuple[Timed, Callable[[], Any]]]

    def measure(self, rounds: int) -> Curve:
        """All sizes in every round, so that what slows the machine for a moment slows all; the first round is not kept."""
        made = [self.prepare(size) for size in self.sizes]
        memory = [peak_bytes(watched) for _, watched in made]
        found: list[list[float]] = [[] for _ in made]
        for round_ in range(rounds + 1):
            for at, (clock, _) in enumerate(made):
                gc.collect()
                seconds = clock()
                if round_:
                    found[at].append(seconds)
        points = (Point(*point) for point in zip(self.sizes, map(tuple, found), memory, strict=True))
        return Curve(self.work, self.against, tuple(points))


class Small:
    """A random mPLUG-Owl, small enough to grow."""

    def __init__(self, spec: mplug_owl.Spec) -> None:
        torch.manual_seed(0)
        self.spec, self.system = spec, mplug_owl.build(spec)
        initialise(self.system)
        self.each = tokens_for(spec.abstractor)

    def growths(self) -> list[Growth]:
        return [
            Growth("decode step", "context", CONTEXTS, lambda size: self.decode(1, size)),
            Growth("prefill", "context", LENGTHS, lambda size: self.prefill(self.text(1, size))),
            Growth("encode and prefill", "pictures per prompt", PICTURES, lambda size: self.prefill(self.shown(size))),
            Growth("decode step", f"rows of {CONTEXT}", ROWS, lambda size: self.decode(size, CONTEXT)),
            Growth("prefill", f"rows of {CONTEXT}", ROWS, lambda size: self.prefill(self.text(size, CONTEXT))),
            Growth("training step", f"documents of {DOCUMENT} per pack", DOCUMENTS, self.train),
        ]

    def decode(self, rows: int, context: int) -> tuple[Timed, Callable[[], Any]]:
        """STEPS tokens after the context is read. Memory is the whole session's: mostly its cache."""
        batch = self.text(rows, context)

        @torch.no_grad()
        def steps() -> float:
            session = self.system.session(batch, context + STEPS)
            clock = timed(lambda: [session.step(session.logits_BV.argmax(-1)) for _ in range(STEPS)])
            return clock() / STEPS

        return steps, steps

    def prefill(self, batch: Batch) -> tuple[Timed, Callable[[], Any]]:
        @torch.no_grad()
        def read() -> Any:
            return self.system.session(batch, batch.ids_BT.shape[1])

        return timed(read), read

    def train(self, documents: int) -> tuple[Timed, Callable[[], Any]]:
        """Forward and backward of the language model; a fifth of the tokens is learnt."""
        rows = [self._row(DOCUMENT, learnt=DOCUMENT // 5, seed=at) for at in range(documents)]
        batch = pack(rows, capacity=documents * DOCUMENT, pad_id=0)
        learns = {f"language.{path}": parameter for path, parameter in self.system.language.named_parameters()}

        def step() -> None:
            gradients(self.system, "next_token", [batch], learns, state={}, clip=1.0, where="bench")
            self.system.zero_grad()

        return timed(step), step

    def text(self, rows: int, tokens: int) -> Batch:
        return pad([self._row(tokens, learnt=0, seed=at) for at in range(rows)], pad_id=0)

    def shown(self, pictures: int) -> Batch:
        """One prompt of TEXT words with pictures among them."""
        side, dice = self.spec.vision.image, np.random.default_rng(pictures)
        length = TEXT + pictures * self.each
        ids_T = dice.integers(1, self.spec.language.vocab, length)
        spans = tuple(Span("image", 1 + at * self.each, self.each) for at in range(pictures))
        media = {"image": tuple(dice.standard_normal((3, side, side), np.float32) for _ in range(pictures))}
        return pad([Example(ids_T, np.zeros(length, np.bool_), spans, media=media)], pad_id=0)

    def _row(self, tokens: int, *, learnt: int, seed: int) -> Example:
        ids_T = np.random.default_rng(seed).integers(1, self.spec.language.vocab, tokens)
        return Example(ids_T, np.arange(tokens) >= tokens - learnt)


def exponent(sizes: Sequence[float], found: Sequence[float]) -> float:
    """The slope of log(found) over log(size), by least squares."""
    xs, ys = [log(size) for size in sizes], [log(value) for value in found]
    x0, y0 = fmean(xs), fmean(ys)
    return sum((x - x0) * (y - y0) for x, y in zip(xs, ys, strict=True)) / sum((x - x0) ** 2 for x in xs)


def markdown(result: dict[str, Any]) -> str:
    lines = [
        *beginning(result),
        "| work | against | sizes | ms | MB | time grows as | memory grows as |",
        "|---|---|---|---|---|--:|--:|",
    ]
    for curve in result["curves"]:
        points, power = curve["points"], curve["exponents"]
        sizes, times, bytes_ = (
            ", ".join(shown)
            for shown in (
                [str(point["size"]) for point in points],
                [f"{median(point['seconds']) * 1e3:.3g}" for point in points],
                [f"{point['memory'] / 1e6:.3g}" for point in points],
            )
        )
        lines.append(
            f"| {curve['work']} | {curve['against']} | {sizes} | {times} | {bytes_} | "
            f"n^{power['time']:.2f} | n^{power['memory']:.2f} |"
        )
    return "\n".join([*lines, "", "Exponents are those of the upper half of the sizes; seconds are medians."]) + "\n"


def main() -> None:
    asked = options(WHAT, 3)
    result = head(WHAT, Settings(asked.rounds, asked.threads))
    curves = []
    for growth in Small(SPEC).growths():
        curve = growth.measure(asked.rounds)
        curves.append(asdict(curve) | {"exponents": curve.exponents()})
        if not asked.json:
            print(curve, flush=True)
    result["curves"] = curves
    place = keep(asked.results, result, markdown(result))
    plot.growth(result, place.with_name(f"{place.name}.png"))
    print(json.dumps(result, indent=2) if asked.json else f"kept in {place}.json, .md and .png")


if __name__ == "__main__":
    main()
