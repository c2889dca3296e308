"""How long a fresh interpreter takes to start: scops against transformers, all files in the disk's cache."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from bench.pair import HOME, Pair, Settings, Skip, interleave, run, timed

HELP = "import sys; sys.argv = ['scops', '--help']; from scops.cli.app import main; main()"


@dataclass(frozen=True)
class Case:
    """Two pieces of Python.

    Args:
        shown: words that ours writes; what it wrote is what is checked, since the sides have nothing equal to give.
    """

    name: str
    ours: str
    theirs: str
    shown: str = ""


CASES = (
    Case("import scops", "import scops", "import transformers"),
    Case("scops --help", HELP, "import transformers", shown="chat"),
    Case("ready to load", "from scops import load", "from transformers import AutoModelForCausalLM"),
)


def start(code: str, threads: int) -> str:
    """What a fresh interpreter writes.

    Raises:
        CalledProcessError: it fails.
    """
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=HOME.parent, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def check(case: Case, *, threads: int = 1) -> str:
    """Both start without an error and ours shows what it should."""
    if case.shown not in start(case.ours, threads):
        raise ValueError(f"{case.name} does not write {case.shown!r}")
    start(case.theirs, threads)
    return "both start" + (f", {case.shown!r} is written" if case.shown else "")


def measure(settings: Settings) -> Iterator[Pair | Skip]:
    for case in CASES:
        checked = check(case, threads=settings.threads)
        ours, theirs = (timed(lambda code=code: start(code, settings.threads)) for code in (case.ours, case.theirs))
        yield Pair(case.name, case.theirs, "start", None, checked, interleave(ours, theirs, settings.rounds))


if __name__ == "__main__":
    run("start_up", measure, rounds=5)
