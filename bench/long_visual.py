"""Many pictures in one conversation: beside the sequence (mPLUG-Owl3, Flamingo) against in it (as LLaVA does), same tower and
layers.

The systems have one tower and the same LLaMA layers, with random weights. In one of them four layers ask all pictures beside the
text and a picture takes one token of text; in another, four more layers ask the latest picture alone, of which a resampler has left
a few tokens; in the last a picture's tokens stand in the sequence. The tower works alike in all, so its features are given: what
is measured is the rest, up to the first token, and after it.
"""

import gc
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from bench import plot
from bench.pair import Settings, beginning, head, keep, options
from scops.connectors.perceiver import PerceiverResampler, PerceiverSpec
from scops.core.batch import Batch, Example, Span
from scops.data.collate import pad
from scops.lab.memory import kept_bytes, peak_bytes
from scops.language.gated import GatedSpec, gated_llama
from scops.language.llama import LlamaSpec, llama
from scops.models.beside import Beside
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.nn.initialise import initialise
from scops.systems import mplug_owl3

WHAT = "long_visual"
PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)
TEXT, STEPS = 64, 8
"""Words of the prompt, a picture's mark not counted; decoded tokens per measurement."""
VISION = mplug_owl3.SiglipSpec(dim=128, hidden=256, layers=1, heads=4, image=112, patch=14)
LANGUAGE = LlamaSpec(dim=256, hidden=768, layers=8, heads=8, kv_heads=2, vocab=8192, context=16384)
HYPER = (1, 3, 5, 7)
GATES = GatedSpec(every=2, heads=8, head_dim=32)
LATENTS, DEPTH = 16, 2
"""Of the resampler; in the published models a fourth of CLIP's 256 features and 6 layers."""
BESIDE, LATEST, INSIDE = "beside the sequence", "beside it, the latest asked (Flamingo)", "in the sequence"


@dataclass(frozen=True)
class Point:
    """One number of pictures.

    Args:
        first: seconds of each round until the first token's scores, from the tower's features on; after: per further token.
        peak, kept: bytes of tensors alive at most until then, and alive after it (mostly the cache), weights not counted.
    """

    pictures: int
    first: tuple[float, ...]
    after: tuple[float, ...]
    peak: int
    kept: int


class Side:
    """One of the systems.

    Args:
        each: tokens of a picture in the sequence; 0 when it stands beside it, marked by one word.
    """

    def __init__(
        self, name: str, system: MultimodalDecoder, *, vision: mplug_owl3.SiglipSpec, vocab: int, each: int
    ) -> None:
        torch.manual_seed(0)
        initialise(system)
        self.name, self.system, self.vision, self.vocab, self.each = name, system.eval(), vision, vocab, each

    def batch(self, pictures: int) -> Batch:
        """TEXT words with pictures spread among them, and their features."""
        dice = np.random.default_rng(pictures)
        features = torch.from_numpy(dice.standard_normal((pictures, self.vision.tokens, self.vision.dim), np.float32))
        room = self.each or 1
        words, length = TEXT // (pictures + 1), TEXT + pictures * room
        spans = tuple(Span("image", words + at * (words + room), self.each) for at in range(pictures))
        ids_T, no_T = dice.integers(1, self.vocab, length), np.zeros(length, np.bool_)
        example = Example(ids_T, no_T, spans)
        return replace(pad([example], pad_id=0), features={"image": features})

    def session(self, batch: Batch) -> Any:
        return self.system.session(batch, batch.ids_BT.shape[1] + STEPS)

    def seconds(self, batch: Batch) -> tuple[float, float]:
        """(until the first token, per token after it)."""
        start = perf_counter()
        session = self.session(batch)
        first = perf_counter() - start
        start = perf_counter()
        for _ in range(STEPS):
            session.step(session.logits_BV.argmax(-1))
        return first, (perf_counter() - start) / STEPS


def gated(vision: mplug_owl3.SiglipSpec, language: LlamaSpec, gates: GatedSpec) -> MultimodalDecoder:
    """Flamingo's arrangement around the same tower and layers."""
    resampler = PerceiverSpec(vision.dim, 4 * vision.dim, DEPTH, gates.heads, vision.dim // gates.heads, LATENTS)
    shown = MediaInput(mplug_owl3.Siglip(vision), PerceiverResampler(resampler), Beside("image"))
    return MultimodalDecoder(gated_llama(language, gates, "image", width=vision.dim), image=shown)


def sides(
    vision: mplug_owl3.SiglipSpec = VISION,
    language: LlamaSpec = LANGUAGE,
    hyper: Sequence[int] = HYPER,
    gates: GatedSpec = GATES,
) -> list[Side]:
    beside = mplug_owl3.build(mplug_owl3.Spec(vision, language, tuple(hyper)))
    shown = MediaInput(beside.input("image").encoder, nn.Linear(vision.dim, language.dim), Inline())
    inside = MultimodalDecoder(llama(language), image=shown)
    return [
        Side(BESIDE, beside, vision=vision, vocab=language.vocab, each=0),
        Side(LATEST, gated(vision, language, gates), vision=vision, vocab=language.vocab, each=0),
        Side(INSIDE, inside, vision=vision, vocab=language.vocab, each=vision.tokens),
    ]


@torch.no_grad()
def measure(both: Sequence[Side], pictures: int, rounds: int) -> list[Point]:
    """All in every round, from the first to the last and back in turn; the first round is not kept."""
    batches = [side.batch(pictures) for side in both]
    found: list[list[tuple[float, float]]] = [[] for _ in both]
    for round_ in range(rounds + 1):
        for at in (range(len(both)), reversed(range(len(both))))[round_ % 2]:
            gc.collect()
            seconds = both[at].seconds(batches[at])
            if round_:
                found[at].append(seconds)
    points = []
    for side, batch, seconds in zip(both, batches, found, strict=True):
        first, after = (tuple(column) for column in zip(*seconds, strict=True))
        read = lambda side=side, batch=batch: side.session(batch)
        points.append(Point(pictures, first, after, peak_bytes(read), kept_bytes(read)))
    return points


def markdown(result: dict[str, Any]) -> str:
    lines = [
        *beginning(result),
        f"{VISION.tokens} tokens a picture, {TEXT} words; language model {LANGUAGE.dim} wide, {LANGUAGE.layers} layers, "
        f"{LANGUAGE.heads} heads ({LANGUAGE.kv_heads} for keys), pictures asked in layers {', '.join(map(str, HYPER))}, in Flamingo's "
        f"arrangement by {LANGUAGE.layers // GATES.every} gated layers more; {LATENTS} latents, {DEPTH} layers of resampler.", "",
        "| pictures | where | first token, ms | further tokens, 1/s | most memory, MB | kept, MB |", "|--:|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for pair in zip(*result["sides"].values(), strict=True):
        for name, point in zip(result["sides"], pair, strict=True):
            lines.append(
                f"| {point['pictures']} | {name} | {median(point['first']) * 1e3:.3g} | {1 / median(point['after']):.3g} | "
                f"{point['peak'] / 1e6:.3g} | {point['kept'] / 1e6:.3g} |"
            )
    return (
        "\n".join([*lines, "", "Medians of the rounds; memory is of tensors, weights and features not counted."]) + "\n"
    )


def main() -> None:
    asked = options(WHAT, 5)
    result = head(WHAT, Settings(asked.rounds, asked.threads))
    both = sides()
    found: dict[str, list[dict[str, Any]]] = {side.name: [] for side in both}
    for pictures in PICTURES:
        for side, point in zip(both, measure(both, pictures, asked.rounds), strict=True):
            found[side.name].append(asdict(point))
            if not asked.json:
                print(
                    f"{pictures} pictures {side.name}: first token {median(point.first) * 1e3:.4g} ms, then "
                    f"{1 / median(point.after):.4g} tokens/s; {point.peak / 1e6:.4g} MB at most, {point.kept / 1e6:.4g} kept",
                    flush=True,
                )
    result["sides"] = found
    place = keep(asked.results, result, markdown(result))
    plot.long_visual(result, place.with_name(f"{place.name}.png"))
    print(json.dumps(result, indent=2) if asked.json else f"kept in {place}.json, .md and .png")


if __name__ == "__main__":
    main()
