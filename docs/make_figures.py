"""The figure of every size, drawn from its declaration: docs/img/figures/<size>.svg, shown on the system's page.

python docs/make_figures.py
"""

import re
from collections.abc import Sequence
from pathlib import Path

from scops.checkpoints.write import save_text
from scops.cli.figure import drawn
from scops.systems import SYSTEMS

DOCS = Path(__file__).parent
FIGURES = DOCS / "img" / "figures"
SKETCH = re.compile(r"^```\n.*?^```\n", re.MULTILINE | re.DOTALL)


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    sizes = [size for system in SYSTEMS.values() for size in system.sizes]
    for old in FIGURES.glob("*.svg"):
        if old.stem not in sizes:
            old.unlink()
    for size in sizes:
        save_text(FIGURES / f"{size}.svg", drawn(size).svg())
    for name, system in SYSTEMS.items():
        page = DOCS / "systems" / f"{name}.md"
        if page.is_file():
            save_text(page, showing(page.read_text("utf-8"), system.sizes))


def showing(text: str, sizes: Sequence[str]) -> str:
    """The page with the first size's figure and links to the others' behind its sketch, unless it has a figure somewhere."""
    if "img/figures/" in text:
        return text
    first, *others = sizes
    shown = f"\n![What {first} is made of, and what its stages train](../img/figures/{first}.svg)\n"
    if others:
        shown += "\nFigures of the others: " + ", ".join(f"[{one}](../img/figures/{one}.svg)" for one in others) + ".\n"
    sketch = SKETCH.search(text)
    at = sketch.end() if sketch else len(text)
    return text[:at] + shown + text[at:]


if __name__ == "__main__":
    main()
