"""Writes what bench/results says into README.md and pages of docs, between markers, with plots.

python -m bench.readme: of each bench and machine the newest result counts.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.growth import Curve, Point
from bench.learning import curve, percent
from bench.pair import HOME
from scops.checkpoints.write import save_text

ROOT = HOME.parent
RESULTS = HOME / "results"
README, DOCS = ROOT / "README.md", ROOT / "docs"
IMAGES = ROOT / "docs" / "img"
BEGIN, END = "<!-- performance -->", "<!-- /performance -->"
NOTHING = "No result yet: `make bench`, then `make performance`."

Result = Mapping[str, Any]


def main() -> None:
    from bench import document_reading, plot  # late: matplotlib and torch are slow to import

    results = newest(RESULTS)
    for path, section in SECTIONS.items():
        save_text(path, with_section(path.read_text("utf-8"), section(results)))
    if pairs(results):
        plot.ratios(pairs(results), IMAGES / "performance.png")
    for result in having(results, "curves")[:1]:
        plot.growth(result, IMAGES / "growth.png")
    for result in having(results, "sides")[:1]:
        plot.long_visual(result, IMAGES / "long_visual.png")
    for result in having(results, "ways")[:1]:
        plot.reading(result, *document_reading.seen(), IMAGES / "reading.png")


def newest(folder: Path) -> list[Result]:
    """Of each bench on each machine the result of the latest day, by machine and bench."""
    found: dict[tuple[str, str], Result] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text("utf-8"))
        key = result["hardware"], result["what"]
        if key not in found or found[key]["date"] <= result["date"]:
            found[key] = result
    return [found[key] for key in sorted(found)]


def pairs(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.get("pairs")]


def having(results: Sequence[Result], what: str) -> list[Result]:
    return [result for result in results if what in result]


def summary(results: Sequence[Result]) -> str:
    """A line per bench and peer: how many cases, and between what their median ratios lie."""
    return _by_machine(
        pairs(results),
        ("bench", "against", "cases", "times its speed"),
        lambda result: (
            (
                f"[{result['what']}](bench/{result['what']}.py)",
                peer,
                str(len(medians)),
                _span([f"{value:.2f}" for value in (min(medians), max(medians))]),
            )
            for peer, medians in _medians(result).items()
        ),
        picture="![Ratios](docs/img/performance.png)",
    )


def page(results: Sequence[Result]) -> str:
    """A line per case."""
    return _by_machine(
        pairs(results),
        ("bench", "case", "against", "scops", "peer", "unit", "ratio", "from", "to"),
        lambda result: (
            (
                result["what"],
                pair["case"],
                pair["peer"],
                _short(pair["numbers"]["ours"]),
                _short(pair["numbers"]["theirs"]),
                pair["counted"],
                *(f"{pair['ratio'][name]:.2f}" for name in ("median", "min", "max")),
            )
            for pair in result["pairs"]
        ),
        picture="![Ratios](img/performance.png)",
    )


def page_with_limits(results: Sequence[Result]) -> str:
    """A line per case, and how near to what the machine can do."""
    known = having(results, "limits")
    table = _by_machine(
        known,
        ("work", "tokens/s", "of what the machine can do"),
        lambda result: ((one["case"], _short(one["rate"]), f"{one['share']:.0%}") for one in result["limits"]),
    )
    about = (
        "Against the machine itself, in bfloat16 (`bench/limits.py`): decoding against the rate at which memory is read, "
        "the others against that of plain products."
    )
    machines = [f"{result['hardware']}: {result['machine']}." for result in known]
    return "\n\n".join([page(results), about, *machines, table])


def growth(results: Sequence[Result]) -> str:
    """A line per curve."""
    return _by_machine(
        having(results, "curves"),
        ("work", "grows with", "sizes", "ms", "MB", "time as", "memory as"),
        lambda result: (
            (
                curve["work"],
                curve["against"],
                _span([str(curve["points"][at]["size"]) for at in (0, -1)]),
                _span([_short(median(curve["points"][at]["seconds"]) * 1e3) for at in (0, -1)]),
                _span([_short(curve["points"][at]["memory"] / 1e6) for at in (0, -1)]),
                *(f"n^{curve['exponents'][name]:.1f}" for name in ("time", "memory")),
            )
            for curve in result["curves"]
        ),
        picture="![Growth](img/growth.png)",
    )


def many_pictures(results: Sequence[Result]) -> str:
    """A line per number of pictures and side, and how each side grows."""
    known = having(results, "sides")
    table = _by_machine(
        known,
        ("pictures", "where", "first token, ms", "further tokens, 1/s", "most memory, MB", "kept, MB"),
        lambda result: (
            (
                str(point["pictures"]),
                name,
                _short(median(point["first"]) * 1e3),
                _short(1 / median(point["after"])),
                *(_short(point[memory] / 1e6) for memory in ("peak", "kept")),
            )
            for points in zip(*result["sides"].values(), strict=True)
            for name, point in zip(result["sides"], points, strict=True)
        ),
        picture="![Many pictures](img/long_visual.png)",
    )
    return "\n".join([table, *(f"\n{line}" for result in known[:1] for line in _grown(result))])


def _grown(result: Result) -> Iterator[str]:
    """As bench.growth has it: the slope of the logarithm over the upper half of the sizes."""
    for name, points in result["sides"].items():
        curve = Curve(name, "pictures", tuple(Point(p["pictures"], tuple(p["first"]), p["peak"]) for p in points))
        powers = curve.exponents()
        yield f"Pictures {name}: first token as n^{powers['time']:.1f}, most memory as n^{powers['memory']:.1f}."


def members(results: Sequence[Result]) -> str:
    """A line per small member of the family, after what words alone get."""
    known = having(results, "members")
    tasks = list(known[0]["prior"]) if known else []

    def lines(result: Result) -> Iterator[Sequence[str]]:
        yield "words alone", "", *percent(result["prior"], tasks)
        for size, one in result["members"].items():
            yield size, curve(one["losses"]), *percent(one["right"], tasks)

    return _by_machine(known, ("member", "loss by stage", *tasks), lines)


def trained(results: Sequence[Result]) -> str:
    """A line per small system, after what words alone get."""
    known = having(results, "trained")
    groups = list(known[0]["asked"]) if known else []

    def lines(result: Result) -> Iterator[Sequence[str]]:
        for about, shares in result["prior"].items():
            yield "words alone", about, "", *percent(shares, groups)
        for name, one in result["trained"].items():
            yield name, one["asked"], curve(one["losses"]), *percent(one["right"], groups)

    return _by_machine(known, ("system", "asked about", "loss by stage", *groups), lines)


def reading(results: Sequence[Result]) -> str:
    """A line per way of reading pages."""
    return _by_machine(
        having(results, "ways"),
        ("way", "steps", "processor, s", "one line: exact", "ANLS", "three lines: exact", "ANLS"),
        lambda result: (
            (
                way,
                f"{found['steps']:,}",
                _short(found["worked"]),
                *(f"{found['scores'][name][metric]:.3f}" for name in ("one", "three") for metric in ("exact", "anls")),
            )
            for way, found in result["ways"].items()
        ),
        picture="![Reading pages](img/reading.png)",
    )


def with_section(text: str, section: str) -> str:
    """The text with the section between its markers.

    Raises:
        ValueError: it has none.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text has no {BEGIN} ... {END} to write between; it begins {text[:40]!r}")
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{after}"


SECTIONS: Mapping[Path, Callable[[Sequence[Result]], str]] = {
    README: summary,
    DOCS / "performance.md": page_with_limits,
    DOCS / "growth.md": growth,
    DOCS / "many-pictures.md": many_pictures,
    DOCS / "systems" / "composed.md": members,
    DOCS / "small-trainings.md": trained,
    DOCS / "reading-pages.md": reading,
}
"""Which page says what."""


def _medians(result: Result) -> dict[str, list[float]]:
    """By peer."""
    found: dict[str, list[float]] = {}
    for pair in result["pairs"]:
        found.setdefault(pair["peer"], []).append(pair["ratio"]["median"])
    return found


def _by_machine(
    results: Sequence[Result],
    columns: Sequence[str],
    rows: Callable[[Result], Iterator[Sequence[str]]],
    *,
    picture: str = "",
) -> str:
    """A table per machine under its name, and the picture; what is missing is said."""
    if not results:
        return NOTHING
    lines = []
    for machine in dict.fromkeys(result["hardware"] for result in results):
        here = [result for result in results if result["hardware"] == machine]
        days = sorted({result["date"] for result in here})
        threads = sorted({result["threads"] for result in here})
        lines += [
            f"{machine}; {_span([days[0], days[-1]])}; {_span([str(threads[0]), str(threads[-1])])} threads:",
            "",
            _line(columns),
            _line(["---"] * len(columns)),
            *(_line(row) for result in here for row in rows(result)),
            "",
        ]
    return "\n".join([*lines, picture]).rstrip()


def _span(ends: Sequence[str]) -> str:
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
