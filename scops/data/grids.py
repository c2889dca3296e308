"""Published lists of grids for shape-adaptive cutting, (rows, columns) in their published order: the first of equals is chosen.

Sources: X-PLUG/mPLUG-DocOwl, DocOwl1.5/mplug_docowl/processor.py (grid_1, grid_4, grid_9, grid_3x3, grid_20, which is also
UReader's release.yaml) and PaperOwl/configs/sft/release.yaml (grid_2x2). DocOwl 2 names grid_12 in remote code that we have not
seen; it holds all grids of at most 12 tiles, and their order here is grid_20's.
"""

from scops.core.names import nearest

Grids = tuple[tuple[int, int], ...]

_FOUR: Grids = ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (2, 2), (1, 4), (4, 1))
_TWELVE: Grids = (
    (1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 4), (2, 2), (4, 1), (1, 5), (5, 1), (1, 6), (2, 3), (3, 2), (6, 1), (1, 7),
    (7, 1), (1, 8), (2, 4), (4, 2), (8, 1), (1, 9), (3, 3), (9, 1), (1, 10), (2, 5), (5, 2), (10, 1), (1, 11), (11, 1),
)  # fmt: skip
GRIDS: dict[str, Grids] = {
    "grid_1": ((1, 1),),
    "grid_2x2": ((2, 2),),
    "grid_3x3": ((3, 3),),
    "grid_4": _FOUR,
    "grid_9": (
        *_FOUR, (1, 5), (5, 1), (1, 6), (6, 1), (2, 3), (3, 2), (1, 7), (7, 1), (4, 2), (2, 4), (1, 8), (8, 1), (3, 3),
        (1, 9), (9, 1),
    ),
    "grid_12": (*_TWELVE, (1, 12), (2, 6), (3, 4), (4, 3), (6, 2), (12, 1)),
    "grid_20": (
        *_TWELVE, (2, 6), (3, 4), (4, 3), (6, 2), (2, 7), (7, 2), (3, 5), (5, 3), (2, 8), (4, 4), (8, 2), (2, 9), (3, 6),
        (6, 3), (9, 2), (2, 10), (4, 5), (5, 4), (10, 2),
    ),
}  # fmt: skip


def grids(name: str) -> Grids:
    if name not in GRIDS:
        raise ValueError(f"no list of grids is called {name!r}{nearest(name, GRIDS)}")
    return GRIDS[name]


def longest_side(name: str) -> int:
    """The largest number of rows or columns; published code gives the whole view this index."""
    return max(max(grid) for grid in grids(name))
