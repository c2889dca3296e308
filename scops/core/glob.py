"""Parameter-path globs: the words for freezing, LoRA, sharding and sources."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from scops.core.names import nearest


def covers(glob: str, path: str) -> bool:
    """Piece by piece, so that * never runs past a dot; a glob covers everything below it."""
    pieces, wanted = path.split("."), glob.split(".")
    return len(pieces) >= len(wanted) and all(map(fnmatchcase, pieces, wanted))


def covered(globs: Sequence[str], paths: Iterable[str], where: str) -> list[str]:
    """The paths that any of the globs covers, in their own order.

    Args:
        where: who asks, for the error ("stage 'align' trains").

    Raises:
        ValueError: a glob that covers no path.
    """
    paths = list(paths)
    for glob in globs:
        if not any(covers(glob, path) for path in paths):
            prefixes = {".".join(p.split(".")[: glob.count(".") + 1]) for p in paths}
            raise ValueError(f"{where} {glob!r}, but no path is like that{nearest(glob, prefixes)}")
    return [path for path in paths if any(covers(glob, path) for glob in globs)]
