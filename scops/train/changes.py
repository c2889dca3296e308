"""Changes to a run's words from the command line: `key=value`, dots lead inwards, stages by name or number."""

from collections.abc import Sequence
from typing import Any

import yaml

from scops.core.names import nearest


def changed(words: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ValueError(f"a change is written key=value, not {override!r}")
        place: Any = words
        *path, last = key.split(".")
        for piece in path:
            place = _inside(place, piece, key)
        if isinstance(place, list):
            place[_number(place, last, key)] = yaml.safe_load(value)
        else:
            place[last] = yaml.safe_load(value)
    return words


def _inside(place: Any, piece: str, key: str) -> Any:
    """What stands at `piece`; made when there is nothing yet."""
    index: Any = _number(place, piece, key) if isinstance(place, list) else piece
    if isinstance(place, list) and isinstance(place[index], str):
        place[index] = {"name": place[index]}
    if isinstance(place, dict) and place.get(index) is None:
        place[index] = {}
    if not isinstance(place[index], dict | list):
        raise ValueError(f"{key}: {piece} is {place[index]!r}, there is nothing inside")
    return place[index]


def _number(stages: list[Any], piece: str, key: str) -> int:
    """A list's item by number, or a stage by name."""
    names = [item.get("name") if isinstance(item, dict) else item for item in stages]
    if piece.isdecimal() and int(piece) < len(stages):
        return int(piece)
    if piece not in names:
        raise ValueError(f"{key}: there is no {piece!r}{nearest(piece, map(str, names))}")
    return names.index(piece)
