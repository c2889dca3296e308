"""Pictures of results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

BAR, EDGE, COLOURS = 0.23, 1.6, ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1")
"""Inches per bar, inches around them; one colour per bench in turn."""
TICKS = (0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 7, 10, 20, 50, 100)


def ratios(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A bar per case, its spread as a line; 1 is the peer's own speed."""
    rows = [(result["what"], pair) for result in results for pair in result["pairs"]]
    benches = list(dict.fromkeys(what for what, _ in rows))
    figure = Figure(figsize=(10, BAR * len(rows) + EDGE), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    middle = [pair["ratio"]["median"] for _, pair in rows]
    spread = [
        [pair["ratio"]["median"] - pair["ratio"]["min"] for _, pair in rows],
        [pair["ratio"]["max"] - pair["ratio"]["median"] for _, pair in rows],
    ]
    colours = [COLOURS[benches.index(what) % len(COLOURS)] for what, _ in rows]
    axes.barh(places, [one - 1 for one in middle], left=1, xerr=spread, color=colours, ecolor="#555555")
    axes.set_yticks(places, [f"{what}: {pair['case']} · {pair['peer']}" for what, pair in rows], fontsize=7)
    for place, one, ends in zip(places, middle, spread[1], strict=True):
        axes.annotate(f"{one:.3g}", (max(one + ends, 1), place), (5, -3), textcoords="offset points", fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    ends = [pair["ratio"][end] for _, pair in rows for end in ("min", "max")]
    axes.set_xlim(min(*ends, 1) / 1.2, max(*ends, 1) * 1.4)
    shown = [tick for tick in TICKS if axes.get_xlim()[0] < tick < axes.get_xlim()[1]]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_xticks([], minor=True)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("times the peer's speed: median and spread of the rounds", fontsize=8)
    _save(figure, path)


def growth(result: Mapping[str, Any], path: Path) -> None:
    """Time and memory of every curve over its sizes, both axes logarithmic."""
    curves = result["curves"]
    figure = Figure(figsize=(3.6 * len(curves) / 2 + 1, 6.4), layout="constrained")
    for axes, curve in zip(figure.subplots(2, -(-len(curves) // 2)).flat, curves, strict=False):
        sizes = [point["size"] for point in curve["points"]]
        axes.plot(sizes, [median(point["seconds"]) * 1e3 for point in curve["points"]], "o-", color=COLOURS[0])
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_ylabel("ms", color=COLOURS[0])
        other = axes.twinx()
        other.plot(sizes, [point["memory"] / 1e6 for point in curve["points"]], "s--", color=COLOURS[1])
        other.set_yscale("log")
        other.set_ylabel("MB", color=COLOURS[1])
        power = curve["exponents"]
        axes.set_title(f"{curve['work']}\ntime n^{power['time']:.2f}, memory n^{power['memory']:.2f}", fontsize=9)
        axes.set_xlabel(curve["against"])
    _save(figure, path)


def long_visual(result: Mapping[str, Any], path: Path) -> None:
    """Waiting, speed and memory over the number of pictures, a line for each place of pictures."""
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    columns = (
        ("until the first token, ms", lambda point: median(point["first"]) * 1e3),
        ("tokens per second after it", lambda point: 1 / median(point["after"])),
        ("memory at most, MB", lambda point: point["peak"] / 1e6),
        ("memory kept, MB", lambda point: point["kept"] / 1e6),
    )
    for axes, (title, number) in zip(figure.subplots(1, len(columns)), columns, strict=True):
        for colour, (name, points) in zip(COLOURS, result["sides"].items(), strict=False):
            axes.plot([one["pictures"] for one in points], [*map(number, points)], "o-", color=colour, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("pictures", fontsize=8)
        axes.legend(fontsize=7)
    _save(figure, path)


def reading(result: Mapping[str, Any], page: Image.Image, view: Image.Image, path: Path) -> None:
    """A page and the view of it, how each way learnt, and what it came to.

    Args:
        page, view: as the encoder gets them, the page before it is cut.
    """
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    whole, small, losses, scores = figure.subplots(1, 4)
    for axes, picture, title in ((whole, page, "a page, to be cut in nine"), (small, view, "one view of it")):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(f"{title}, {picture.height} pixels", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    for side in (1, 2):
        whole.axhline(side * view.height - 0.5, color=COLOURS[0], linewidth=0.8)
        whole.axvline(side * view.width - 0.5, color=COLOURS[0], linewidth=0.8)
    for number, (colour, (way, found)) in enumerate(zip(COLOURS, result["ways"].items(), strict=False)):
        steps, values = zip(*((line["step"], line["loss"]) for line in found["curve"]), strict=True)
        losses.plot(steps, values, color=colour, label=way)
        heights = [found["scores"][name][metric] for name in ("one", "three") for metric in ("exact", "anls")]
        bars = scores.bar([at + (number - 1) * 0.27 for at in range(4)], heights, 0.25, color=colour, label=way)
        scores.bar_label(bars, [f"{height:.2f}" for height in heights], fontsize=6)
    losses.set_title("loss of the tasks", fontsize=9)
    losses.set_xlabel("steps", fontsize=8)
    losses.legend(fontsize=7)
    scores.set_title("held-out questions", fontsize=9)
    scores.set_ylim(0, 1.05)
    scores.set_xticks(
        range(4), ["one line\nexact", "one line\nANLS", "three lines\nexact", "three lines\nANLS"], fontsize=7
    )
    scores.legend(fontsize=7)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
