"""Put a trained owl-tiny into the package as a bridge, with its recipe, its log and its held-out numbers.

python -m scops.demo.ship runs/owl-tiny runs/owl-tiny-data
"""

import sys
from pathlib import Path

import yaml
from rich.console import Console

from scops.demo import exam
from scops.demo.results import Story, shares_table, table_rows
from scops.model import load
from scops.model.bridge import HOME, write_bridge

LIMIT = 12 * 10**6
"""Bytes; what may travel with the package."""


def ship(run: Path, data: Path, *, each: int = 100, console: Console | None = None) -> Path:
    """Write scops/bridges/owl-tiny from a finished run.

    Raises:
        ValueError: the bridge is too large for the package.
    """
    console, home = console or Console(), HOME / "owl-tiny"
    model = load(run / "final")
    recipe = yaml.safe_load((run / "run.yaml").read_text("utf-8"))
    home.mkdir(parents=True, exist_ok=True)
    about = {"recipe": recipe, "seed": recipe["seed"]}
    write_bridge(home, model.module, size="owl-tiny", parts=("image.connector",), about=about)
    (home / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    shipped = load("owl-tiny")  # measured as users will have it
    papers = [paper for paper in exam.papers(data, each=each) if not paper.group.trained]
    answers = [exam.answers_of(shipped, data, paper) for paper in papers]
    story = Story(run, papers, {"owl-tiny": [exam.share(p, a) for p, a in zip(papers, answers, strict=True)]})
    console.print(shares_table(story))
    held = [
        {"group": r[0], "task": r[1], "questions": int(r[2]), "right_percent": float(r[3])} for r in table_rows(story)
    ]
    write_bridge(home, model.module, size="owl-tiny", parts=("image.connector",), about=about | {"held_out": held})
    size = sum(file.stat().st_size for file in home.iterdir())
    if size > LIMIT:
        raise ValueError(f"{home} has {size} bytes, more than the {LIMIT} that travel with the package")
    console.print(f"{home}: {size / 1e6:.1f} MB")
    return home


if __name__ == "__main__":
    ship(Path(sys.argv[1]), Path(sys.argv[2]))
