"""Two sides of one number, measured in turns, so that what slows the machine for a moment slows both.

A script is `what` it measures and a function that yields pairs; `run` gives it options, prints, and keeps the results.
"""

import argparse
import gc
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch

from scops.checkpoints.write import save_json, save_text
from scops.cli.env import versions

HOME = Path(__file__).parent
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Settings:
    """How a bench is run.

    Args:
        only: of a bench that takes long, the cases whose name contains this.
    """

    rounds: int
    threads: int
    only: str = ""


@dataclass(frozen=True)
class Seconds:
    """Of each round, in order; both sides were measured in the same rounds."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]


@dataclass(frozen=True)
class Pair:
    """One number.

    Args:
        work: what one call does, counted in `unit` ("tokens"): the number is work per second. None: it is
            milliseconds per call, and `unit` says of what ("start").
        checked: how equal the outputs were found before anything was timed.
    """

    case: str
    peer: str
    unit: str
    work: float | None
    checked: str
    seconds: Seconds

    @property
    def numbers(self) -> tuple[float, float]:
        """(ours, theirs) in the median round."""
        ours, theirs = median(self.seconds.ours), median(self.seconds.theirs)
        return (ours * 1e3, theirs * 1e3) if self.work is None else (self.work / ours, self.work / theirs)

    @property
    def counted(self) -> str:
        return f"ms/{self.unit}" if self.work is None else f"{self.unit}/s"

    @property
    def ratios(self) -> list[float]:
        """Per round, from slow to fast; over 1 scops is faster."""
        return sorted(b / a for a, b in zip(self.seconds.ours, self.seconds.theirs, strict=True))

    def __str__(self) -> str:
        (ours, theirs), ratios = self.numbers, self.ratios
        return (
            f"{self.case}: scops {ours:.4g}, {self.peer} {theirs:.4g} {self.counted}; "
            f"ratio {median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}); {self.checked}"
        )


@dataclass(frozen=True)
class Skip:
    """A number that cannot be had here, and why."""

    case: str
    why: str

    def __str__(self) -> str:
        return f"{self.case}: skipped, {self.why}"


Timed = Callable[[], float]
"""Does the work once and says how many seconds of it count."""


def timed(call: Callable[[], Any]) -> Timed:
    """All of the call counts."""

    def run() -> float:
        start = perf_counter()
        call()
        return perf_counter() - start

    return run


def interleave(ours: Timed, theirs: Timed, rounds: int) -> Seconds:
    """One call of each to warm up, then one of each per round; who begins alternates."""
    if rounds < 1:
        raise ValueError(f"a bench needs at least 1 round, not {rounds}")
    ours(), theirs()
    sides, found = (ours, theirs), ([], [])
    for round_ in range(rounds):
        for at in (0, 1) if round_ % 2 == 0 else (1, 0):
            gc.collect()
            found[at].append(sides[at]())
    return Seconds(*map(tuple, found))


def run(
    what: str, measure: Callable[[Settings], Iterator[Pair | Skip]], *, rounds: int, threads: int | None = None
) -> None:
    """The command line of a script.

    Args:
        rounds, threads: unless the user says otherwise; as many threads as there are cores.
    """
    asked = options(what, rounds, threads)
    settings = Settings(asked.rounds, asked.threads, asked.only)
    result = head(what, settings)
    if not asked.json:
        print(f"{what} on {result['hardware']}, {asked.threads} threads, load {result['load']} before", flush=True)
    found: list[Pair | Skip] = []
    for one in measure(settings):
        found.append(one)
        if not asked.json:
            print(one, flush=True)
    at = {name: result[name] for name in ("commit", "date")}
    result |= {
        "pairs": [
            *_before(asked.results, result, asked.only),
            *(_summed(one) | at for one in found if isinstance(one, Pair)),
        ],
        "skipped": [asdict(one) for one in found if isinstance(one, Skip)],
    }
    place = keep(asked.results, result, markdown(result))
    print(json.dumps(result, indent=2) if asked.json else f"kept in {place}.json and .md")


def options(
    what: str, rounds: int, threads: int | None = None, more: argparse.ArgumentParser | None = None
) -> argparse.Namespace:
    """What the user asked for; torch's threads are set.

    Args:
        more: a parser without help that has options of this bench alone.
    """
    parser = argparse.ArgumentParser(prog=f"python -m bench.{what}", parents=[more] if more else [])
    parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each side (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=threads or _cores(), help="of torch, for both sides (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    parser.add_argument("--results", type=Path, default=HOME / "results", help="folder that keeps them (%(default)s)")
    parser.add_argument(
        "--only",
        default="",
        help="of a bench that takes long (train_step, systems), cases that contain this; the others stay as kept",
    )
    asked = parser.parse_args()
    for name in ("rounds", "threads"):
        if getattr(asked, name) < 1:
            parser.error(f"--{name} is at least 1, not {getattr(asked, name)}")
    torch.set_num_threads(asked.threads)
    return asked


def keep(folder: Path, result: dict[str, Any], text: str) -> Path:
    """The result as .json and, for readers, as .md: the two files without their endings."""
    place = folder / f"{result['what']}_{_slug(result['hardware'])}_{result['date']}"
    save_json(place.with_name(f"{place.name}.json"), result)
    save_text(place.with_name(f"{place.name}.md"), text)
    return place


def hardware() -> str:
    """The processor as the system and torch name it."""
    names = re.findall(r"^model name\s*:\s*(.+)$", CPUINFO.read_text() if CPUINFO.is_file() else "", re.MULTILINE)
    return f"{names[0] if names else 'CPU'}, {_cores()} cores, {torch.backends.cpu.get_cpu_capability()}"


def markdown(result: dict[str, Any]) -> str:
    """The same for readers."""
    lines = [
        *beginning(result),
        "| case | peer | scops | peer's | unit | ratio | min | max | outputs |",
        "|---|---|--:|--:|---|--:|--:|--:|---|",
    ]
    for pair in result["pairs"]:
        numbers, ratio = pair["numbers"], pair["ratio"]
        lines.append(
            f"| {pair['case']} | {pair['peer']} | {numbers['ours']:.4g} | {numbers['theirs']:.4g} | {pair['counted']} | "
            f"{ratio['median']:.3f} | {ratio['min']:.3f} | {ratio['max']:.3f} | {pair['checked']} |"
        )
    lines += ["", "Ratio over 1: scops is faster. Median, minimum and maximum are over the rounds."]
    for commit, day in dict.fromkeys((pair["commit"], pair["date"]) for pair in result["pairs"] if "commit" in pair):
        cases = dict.fromkeys(p["case"] for p in result["pairs"] if (p["commit"], p["date"]) == (commit, day))
        if commit != result["commit"]:
            lines.append(f"Measured at {commit} on {day}: {', '.join(cases)}.")
    lines += [f"Skipped: {skip['case']}, {skip['why']}." for skip in result["skipped"]]
    return "\n".join(lines) + "\n"


def beginning(result: dict[str, Any]) -> list[str]:
    """The lines above a table: what, where, when, by which command and versions."""
    versions_ = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return [
        f"# {result['what']}",
        "",
        f"{result['hardware']}; {result['threads']} threads; {result['rounds']} rounds; {result['date']}; "
        f"load {result['load']} before.",
        f"`{result['command']}` at {result['commit']}, {versions_}.",
        "",
    ]


def head(what: str, settings: Settings) -> dict[str, Any]:
    """What every result begins with."""
    known = versions()
    return {
        "what": what,
        "command": f"python -m bench.{what} --rounds {settings.rounds} --threads {settings.threads}"
        + (f" --only '{settings.only}'" if settings.only else ""),
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "load": round(os.getloadavg()[0], 2),
        "rounds": settings.rounds,
        "threads": settings.threads,
        "versions": {name: known[name] for name in ("scops", "python", "torch", "transformers", "pillow")},
    }


def former(folder: Path, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What earlier runs of the same bench on this machine kept, the newest last."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob(f"{result['what']}_*.json"))]
    return [one for one in found if one["hardware"] == result["hardware"]]


def _before(folder: Path, result: dict[str, Any], only: str) -> list[dict[str, Any]]:
    """Where some cases are measured again: the others, as the newest result of this machine has them."""
    return [
        {name: last[name] for name in ("commit", "date")} | pair
        for last in former(folder, result)[-1:]
        for pair in last["pairs"]
        if only and only not in pair["case"]
    ]


def _summed(pair: Pair) -> dict[str, Any]:
    (ours, theirs), ratios = pair.numbers, pair.ratios
    quarters = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    spread = {"min": ratios[0], "quartiles": [quarters[0], quarters[2]], "max": ratios[-1]}
    numbers = {"counted": pair.counted, "numbers": {"ours": ours, "theirs": theirs}}
    return asdict(pair) | numbers | {"ratio": {"median": median(ratios)} | spread}


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> str:
    command = ["git", "-C", str(HOME), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no commit"


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
