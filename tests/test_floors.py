"""The floors of the house: a file imports from its own floor or below, also inside functions."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "scops"
FLOORS = (
    {"core", "ops"},
    {"nn", "native", "encoders", "connectors", "language", "generators", "checkpoints", "data"},
    {"models", "objectives"},
    {"systems"},
    {"train", "generate", "lab"},
    {"serve", "cli", "recipes", "demo", "model", "__init__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
PARTS = {"nn", "encoders", "connectors", "language", "generators"}
BANS = {
    "data": PARTS,
    **{part: {"checkpoints", "data"} for part in PARTS},
    "train": {"systems", *PARTS - {"nn"}},
    "generate": {"systems", *PARTS - {"nn"}},
}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc"}
FILES = sorted(ROOT.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Rooms of scops that a file imports anywhere."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names = (
                [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                if node.module == "scops"
                else [node.module]
            )
        rooms |= {name.split(".")[1] for name in names if name and name.startswith("scops.")}
    return rooms & set(FLOOR)


def room_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_file_imports_upwards_or_what_its_room_may_not_know(file: Path) -> None:
    room = room_of(file)
    assert room in FLOOR, f"{room} stands on no floor"
    for other in imported(file):
        assert FLOOR[other] <= FLOOR[room], (
            f"{file} ({room}, floor {FLOOR[room]}) imports {other} (floor {FLOOR[other]})"
        )
        assert other not in BANS.get(room, set()), f"{file}: {room} may not import {other}"


def test_no_room_is_a_drawer() -> None:
    assert not [
        file for file in FILES if FORBIDDEN_NAMES & {part.removesuffix(".py") for part in file.relative_to(ROOT).parts}
    ]
