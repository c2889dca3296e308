"""What the benches of small trainings share: their options, a former run to go on with, curves, and cells of tables."""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.pair import HOME, former
from scops.core.stage import Stage

SMOOTH = 3
"""Log lines whose mean loss stands for the beginning and for the end of a stage."""

Losses = Mapping[str, Sequence[float]]
"""By stage, at its beginning and its end."""


def parser(what: str, folder: Path) -> argparse.ArgumentParser:
    """Args:
    folder: where systems are trained, unless the user names another.
    """
    made = argparse.ArgumentParser(prog=f"python -m bench.{what}")
    made.add_argument("--data", type=Path, default=Path("runs/demo/data"), help="drawn by scops demo (%(default)s)")
    made.add_argument("--folder", type=Path, default=folder, help="where they are trained (%(default)s)")
    made.add_argument("--only", default="", help="those whose name contains this; the others stay as kept")
    made.add_argument("--results", type=Path, default=HOME / "results", help="folder that keeps them (%(default)s)")
    return made


def before(folder: Path, result: Mapping[str, Any], field: str) -> dict[str, Any]:
    """What a former run of the same bench kept, which a run of some goes on with: of this machine, asked as many questions."""
    alike = [one for one in former(folder, result) if one["asked"] == result["asked"]]
    return dict(alike[-1][field]) if alike else {}


def losses_of(run: Path, stages: Iterable[Stage]) -> dict[str, list[float]]:
    """Of a run's folder."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    made = {}
    for stage in stages:
        curve = [line["loss"] for line in lines if line.get("stage") == stage.name and "loss" in line]
        made[stage.name] = [sum(some) / len(some) for some in (curve[:SMOOTH], curve[-SMOOTH:])]
    return made


def curve(losses: Losses) -> str:
    return "; ".join(f"{stage} {first:.2f} to {last:.2f}" for stage, (first, last) in losses.items())


def percent(shares: Mapping[str, float], names: Iterable[str]) -> list[str]:
    return [f"{100 * shares[name]:.0f} %" for name in names]
