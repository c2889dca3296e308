"""`scops ls`: systems and parts. Read from the source's text, nothing of it is imported, so it answers at once."""

import ast
import json as text_json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scops.cli.show import as_json, table
from scops.systems import SYSTEMS

PACKAGE = Path(__file__).parents[1]
ROOMS = ("encoders", "connectors", "language", "generators")
STATUS = PACKAGE.parent / "docs" / "status.json"


@dataclass(frozen=True)
class Part:
    """One file of a room: its name and the first paragraph it says about itself."""

    room: str
    name: str
    says: str


def ls(*, json: bool) -> None:
    systems, found = systems_of(), parts()
    if json:
        as_json({"systems": systems, "parts": [vars(part) for part in found]})
        return
    columns = ("system", "sizes", "paper", "status")
    rows = [(s["name"], ", ".join(s["sizes"]), s["paper"], s["status"]) for s in systems]
    table(columns, rows, title="Systems")
    table(("room", "part", "what"), [(part.room, part.name, part.says) for part in found], title="Parts")


def systems_of() -> list[dict[str, Any]]:
    """Name, sizes, title, paper and status of every system in the table."""
    status = statuses()
    listed = []
    for name, entry in SYSTEMS.items():
        path = PACKAGE.joinpath(*entry.module.split(".")[1:]).with_suffix(".py")
        said = literals(path) if path.is_file() else {}
        standing = status.get(name, "") if path.is_file() else "planned"
        listed.append(
            {
                "name": name,
                "sizes": list(entry.sizes),
                "title": said.get("TITLE", ""),
                "paper": said.get("PAPER", ""),
                "status": standing,
            }
        )
    return listed


def parts() -> list[Part]:
    """Every file of the parts' rooms."""
    found = []
    for room in ROOMS:
        for path in sorted((PACKAGE / room).glob("*.py")):
            if path.stem != "__init__":
                says = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
                found.append(Part(room, path.stem, " ".join(says.partition("\n\n")[0].split())))
    return found


def literals(path: Path) -> dict[str, Any]:
    """Top-level constants of a source file that are plain strings."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def statuses() -> dict[str, str]:
    """What the tests last said of each system; empty in an installed package, which carries no such page."""
    if not STATUS.is_file():
        return {}
    read = text_json.loads(STATUS.read_text("utf-8"))
    return {name: value if isinstance(value, str) else value.get("status", "") for name, value in read.items()}
