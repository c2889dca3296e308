"""`scops train RUN.yaml [key=value]...`: a run's file becomes a trained system in a folder.

scops train run.yaml
scops train run.yaml stages.align.max_steps=200 learning_rate=3e-4 output_dir=runs/second
scops train runs/second          # go on where it stopped
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from scops.model.training import start
from scops.train.interrupt import EXIT, Interrupted
from scops.train.run import Run


def train(path: Path, changes: Sequence[str]) -> None:
    """Start a run, or go on with it; `path` is its file or its folder."""
    run = Run.load(path / "run.yaml" if path.is_dir() else path, changes)
    try:
        result = start(run)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        raise typer.Exit(EXIT) from None
    print(f"{result.steps} steps in {result.seconds:.0f} s; the system is in {result.final}, its curve in "
          f"{result.folder / 'loss.png'}\ntalk to it: scops chat {result.final} picture.png \"What is this?\"")  # fmt: skip
