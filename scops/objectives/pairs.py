"""Rows with exactly one picture: what pairs pictures with answers without a pass through the language model."""

from collections import Counter

from scops.core.batch import Batch

Place = tuple[str, int]
"""Kind and number among the media of that kind."""


def pairs_of(batch: Batch, objective: str) -> dict[int, Place]:
    """By row, where its only picture is; other rows do not take part.

    Raises:
        ValueError: the batch is packed, so that a row is not one conversation.
    """
    if batch.packed:
        raise ValueError(f"{objective} needs one conversation per row, but this batch is packed; leave out `packing`")
    found = {row: (kind, item) for kind, where in batch.where.items() for item, row in enumerate(where.row_M)}
    pictures = Counter(row for where in batch.where.values() for row in where.row_M)
    return {row: place for row, place in sorted(found.items()) if pictures[row] == 1}
