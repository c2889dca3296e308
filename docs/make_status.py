"""What the tests say of every system: docs/status.json, docs/status.md and the table in README.md.

python docs/make_status.py              runs the tests, then writes
python docs/make_status.py JUNIT.xml    reads a run's `pytest --junitxml` instead
"""

import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from systems_and_tests import COLUMNS, EQUAL, ROWS, Row

from scops.checkpoints.write import save_text

DOCS = Path(__file__).parent
README, PAGE, DATA = DOCS.parent / "README.md", DOCS / "status.md", DOCS / "status.json"
BEGIN, END = "<!-- status -->", "<!-- /status -->"
ROOMS = ("systems", "language", "models", "train", "connectors", "encoders", "checkpoints/test_hub_maps.py")
YES, NONE = "✓", "–"


def main(arguments: list[str]) -> None:
    if arguments:
        found = outcomes(Path(arguments[0]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            junit = Path(folder) / "junit.xml"
            rooms = [f"tests/{room}" for room in ROOMS if (DOCS.parent / "tests" / room).exists()]
            subprocess.run([sys.executable, "-m", "pytest", *rooms, "--junitxml", str(junit)], cwd=DOCS.parent)
            found = outcomes(junit)
    data = {row.name: standing(row, found) for row in ROWS}
    save_text(DATA, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    save_text(PAGE, page(data))
    save_text(README, with_table(README.read_text("utf-8") if README.is_file() else "", data))


def outcomes(junit: Path) -> dict[str, bool]:
    """Test without its parameters -> did every case of it pass; a skipped case counts as one that did not."""
    found: dict[str, bool] = {}
    for case in xml.parse(junit).iter("testcase"):
        name = f"{case.get('classname', '')}.{case.get('name', '').partition('[')[0]}".removeprefix("tests.")
        passed = not any(child.tag in ("failure", "error", "skipped") for child in case)
        found[name] = found.get(name, True) and passed
        whole = f"{case.get('classname', '')}.{case.get('name', '')}".removeprefix("tests.")
        found[whole] = passed
    return found


def standing(row: Row, found: Mapping[str, bool]) -> dict[str, Any]:
    """Of each column: True, False, or None where there is no such thing."""
    cells = {
        column: None if column in row.without else found.get(row.tests.get(column, ""), False) for column in COLUMNS
    }
    proved = cells[EQUAL] and all(value is not False for value in cells.values())
    begun = "begun" if any(cells.values()) else "planned"
    status = "proved" if proved else "built" if cells["built"] else begun
    return {"status": status, "title": row.title, "group": row.group, **cells}


def page(data: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/status.md."""
    legend = "\n".join(f"- **{column}**: {meaning}" for column, meaning in COLUMNS.items())
    return (
        "# Status\n\n"
        "Written by `make status` from a run of the tests; do not edit. A tick is a test that passed, named in\n"
        "[systems_and_tests.py](systems_and_tests.py); an empty cell is none; – means that there is no such thing.\n\n"
        f"{legend}\n\n"
        "*proved*: equal to its reference, and every other cell that can be ticked is. *built*: it stands at full size.\n"
        "*begun*: some of it, but not that. *planned*: nothing.\n\n"
        f"{table(data)}"
    )


def with_table(text: str, data: Mapping[str, Mapping[str, Any]]) -> str:
    """The text with the table between its markers, which are put at the end of a text that has none."""
    if BEGIN not in text or END not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n".lstrip()
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{short_table(data)}\n{END}{rest.partition(END)[2]}"


def table(data: Mapping[str, Mapping[str, Any]]) -> str:
    """A line per system."""
    return _table({group: [full(row) for row in rows] for group, rows in groups(data).items()})


def short_table(data: Mapping[str, Mapping[str, Any]]) -> str:
    """The same with what is planned together on one line per group."""
    made: dict[str, list[str]] = {}
    for group, rows in groups(data).items():
        later = [row["title"] for row in rows if row["status"] == "planned"]
        made[group] = [full(row) for row in rows if row["status"] != "planned"]
        if later:
            made[group].append(line([", ".join(later), "planned", *[""] * len(COLUMNS)]))
    return _table(made)


def groups(data: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    made: dict[str, list[Mapping[str, Any]]] = {}
    for row in data.values():
        made.setdefault(row["group"], []).append(row)
    return made


def full(row: Mapping[str, Any]) -> str:
    shown = [{True: YES, False: "", None: NONE}[row[column]] for column in COLUMNS]
    return line([row["title"], row["status"], *(shown if row["status"] != "planned" else [""] * len(COLUMNS))])


def _table(made: Mapping[str, Iterable[str]]) -> str:
    lines = [line(("system", "status", *COLUMNS)), line(["---", "---", *[":-:"] * len(COLUMNS)])]
    for group, rows in made.items():
        lines += [line([f"**{group}**", *[""] * (len(COLUMNS) + 1)]), *rows]
    return "\n".join(lines) + "\n"


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(sys.argv[1:])
