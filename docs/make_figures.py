"""The figure of every size, drawn from its declaration: docs/img/figures/<size>.svg.

python docs/make_figures.py
"""

from pathlib import Path

from scops.checkpoints.write import save_text
from scops.cli.figure import drawn
from scops.systems import SYSTEMS

FIGURES = Path(__file__).parent / "img" / "figures"


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    sizes = [size for system in SYSTEMS.values() for size in system.sizes]
    for old in FIGURES.glob("*.svg"):
        if old.stem not in sizes:
            old.unlink()
    for size in sizes:
        save_text(FIGURES / f"{size}.svg", drawn(size).svg())


if __name__ == "__main__":
    main()
