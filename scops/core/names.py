"""Names that were not found, answered with the nearest that exist."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """A half sentence to close an error with: "; did you mean 'vision'?", or all known names when they are few."""
    known = sorted(set(known))
    close = get_close_matches(name, known, 3, 0.5)
    if close:
        return "; did you mean " + " or ".join(map(repr, close)) + "?"
    if not known:
        return "; there are none"
    return (
        f"; known: {', '.join(known)}" if len(known) <= 20 else f"; there are {len(known)}, e.g. {', '.join(known[:5])}"
    )
