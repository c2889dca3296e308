"""Whose code a model's folder may ask for. A folder is data: what it names is imported only if the user has named it too."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any

from scops.connectors.own import OwnSpec

ENV = "SCOPS_TRUST"
"""Packages, with commas between them, for commands."""


def check_trust(spec: Any, trust: Sequence[str], where: str) -> None:
    """Nothing is imported here.

    Args:
        trust: packages or modules that the caller names.
        where: what names them, for the error.
    Raises:
        ValueError: the spec needs code of another package.
    """
    if isinstance(trust, str):
        raise ValueError(f"trust is a list of packages, not {trust!r}; give [{trust!r}]")
    named = {*trust, *filter(None, map(str.strip, os.environ.get(ENV, "").split(",")))}
    for own in foreign(spec):
        pieces = own.module.split(".")
        if not named & {".".join(pieces[: count + 1]) for count in range(len(pieces))}:
            package = pieces[0]
            raise ValueError(
                f"{where} names the connector {own.path}, code outside scops; if you trust the package {package!r}, say so: "
                f"scops.load(..., trust=[{package!r}]), or {ENV}={package} before a command, or trust: [{package}] in a run"
            )


def foreign(spec: Any) -> Iterator[OwnSpec]:
    """Parts of a spec that are made by code outside scops."""
    if isinstance(spec, OwnSpec):
        yield spec
    elif is_dataclass(spec):
        values: Iterable[Any] = vars(spec).values()
        for value in values:
            yield from foreign(value)
