"""Examples -> Batch: padded (one document per row) or packed (several), counted on the CPU in numpy."""

# B rows, T tokens, M media items of all rows in reading order, I prepared pictures, R selected flat positions
from collections.abc import Iterator, Sequence
from dataclasses import replace
from heapq import heappush, heapreplace

import numpy as np
import torch
from torch import Tensor

from scops.core.batch import Batch, Example, Route, Span, Targets, Tiles, Where


def pad(examples: Sequence[Example], *, pad_id: int, multiple: int = 1) -> Batch:
    """One example per row, as wide as the longest, rounded up to a multiple."""
    return _collate([[example] for example in examples], pad_id, multiple)


def part(example: Example, start: int, end: int) -> Batch:
    """One row: tokens [start, end) of an example at their positions, with room for what media have there, without media."""
    spans = tuple(
        replace(
            span, start=max(span.start - start, 0), length=min(span.start + span.length, end) - max(span.start, start)
        )
        for span in example.spans
        if span.start < end and span.start + span.length > start
    )
    cut = Example(example.ids_T[start:end], example.learn_T[start:end], spans, name=example.name)
    batch = pad([cut], pad_id=0)
    return replace(batch, positions_BT=batch.positions_BT + start)


def pack(examples: Sequence[Example], *, capacity: int, pad_id: int, multiple: int = 1) -> Batch:
    """Rows of several examples and at most `capacity` tokens, as wide as the fullest (multiple=capacity: all that)."""
    rows = plan_packs([len(example) for example in examples], capacity)
    return _collate([[examples[number] for number in row] for row in rows], pad_id, multiple)


def plan_packs(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which examples share a row, of about equally full rows; rows and their members keep reading order.

    Longest first, each into the emptiest row (Graham's rule for equal loads), in as few rows as that allows: where one
    does not fit there is one row more, and all are laid anew.
    """
    for number, length in enumerate(lengths):
        if length > capacity:
            raise ValueError(f"example {number} has {length} tokens, but a row has room for {capacity}")
    longest_first = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    count, rows = -(-sum(lengths) // capacity), []
    while len(rows) != count:
        count = max(count, len(rows))
        rows: list[list[int]] = [[] for _ in range(count)]
        filled = [(0, row) for row in range(count)]  # a heap: the emptiest row first
        for number in longest_first:
            if filled[0][0] + lengths[number] > capacity:
                rows.append([])
                heappush(filled, (0, len(rows) - 1))
            tokens, row = filled[0]
            rows[row].append(number)
            heapreplace(filled, (tokens + lengths[number], row))
    return sorted(sorted(row) for row in rows)


def _collate(rows: list[list[Example]], pad_id: int, multiple: int) -> Batch:
    placed = list(_placed(rows))
    lengths = tuple(sum(map(len, row)) for row in rows)
    width = -(-max(lengths, default=0) // multiple) * multiple
    shape = (len(rows), width)
    ids_BT, positions_BT = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    learn_BT, media_BT = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for row, start, example in placed:
        here = slice(start, start + len(example))
        ids_BT[row, here] = example.ids_T
        positions_BT[row, start:] = np.arange(width - start)  # padding counts on from the last document
        learn_BT[row, here] = example.learn_T
        learn_BT[row, start] = False  # nothing of the same document stands before it
        for span in example.spans:
            media_BT[row, start + span.start : start + span.start + span.length] = True
    kinds = sorted({span.kind for _, _, example in placed for span in example.spans})
    return Batch(
        torch.from_numpy(ids_BT),
        torch.from_numpy(positions_BT),
        lengths,
        tuple(tuple(start for at, start, _ in placed if at == row) for row in range(len(rows))),
        where={kind: _where(placed, kind, width) for kind in kinds},
        route=_route(media_BT.ravel()),
        targets=_targets(ids_BT, learn_BT),
        tiles={kind: _tiles(placed, kind) for kind in kinds},
        media={kind: stack for kind in kinds if (stack := _stacked(placed, kind)) is not None},
        digests={kind: _digests(placed, kind) for kind in kinds},
        names=tuple(example.name for _, _, example in placed),
        datasets=tuple(example.dataset for _, _, example in placed),
        replies=_replies(rows),
    )


Placed = tuple[int, int, Example]  # row, first token there


def _placed(rows: list[list[Example]]) -> Iterator[Placed]:
    if not rows:
        raise ValueError("a batch needs at least one example")
    for row, members in enumerate(rows):
        start = 0
        for example in members:
            _check(example)
            yield row, start, example
            start += len(example)


def _check(example: Example) -> None:
    """Processor and collator must agree; one look per example, with numbers."""
    count, name = len(example), example.name or "an example"
    if not count or len(example.learn_T) != count:
        raise ValueError(
            f"{name} has {count} ids and {len(example.learn_T)} learn marks; wanted: as many, at least one"
        )
    end = 0
    for span in example.spans:
        if span.start < end or span.length < 0 or span.start + span.length > count:
            raise ValueError(f"{name}: {span} does not stand after token {end} and within {count} tokens")
        end = span.start + span.length
        if example.learn_T[span.start : end].any():
            raise ValueError(f"{name}: tokens of {span} are marked to be learnt")
    for kind in {span.kind for span in example.spans} | set(example.media) | set(example.digests) | set(example.words):
        pictures = sum(len(span.places) for span in example.spans if span.kind == kind)
        media, digests = len(example.media.get(kind, ())), len(example.digests.get(kind, ()))
        words = len(example.words.get(kind, ()))
        if {media, digests, words} - {0, pictures}:
            raise ValueError(
                f"{name}: spans of {pictures} pictures of {kind!r}, but {media} prepared ones, {digests} digests, "
                f"and words for {words}"
            )


def _spans(placed: list[Placed], kind: str) -> list[Span]:
    return [span for _, _, example in placed for span in example.spans if span.kind == kind]


def _tiles(placed: list[Placed], kind: str) -> Tiles:
    spans = _spans(placed, kind)
    words = [ids_T for _, _, example in placed for ids_T in example.words.get(kind, ())]
    pictures = sum(len(span.places) for span in spans)
    if len(words) not in (0, pictures):
        raise ValueError(
            f"{len(words)} of {pictures} pictures of {kind!r} come with words; a batch needs them of all or of none"
        )
    return Tiles.of([span.places for span in spans], extents=[span.extent for span in spans], words=words)


def _where(placed: list[Placed], kind: str, width: int) -> Where:
    items = [
        (row, start + span.start, span.length)
        for row, start, example in placed
        for span in example.spans
        if span.kind == kind
    ]
    row_M, start_M, length_M = zip(*items, strict=True)
    index_R = np.concatenate([np.arange(length) + row * width + start for row, start, length in items])
    if len(index_R) != sum(length_M):
        raise ValueError(f"{kind!r}: spans of {sum(length_M)} tokens, but {len(index_R)} positions")
    return Where(torch.from_numpy(index_R.astype(np.int64)), row_M, start_M, length_M)


def _route(is_media: np.ndarray) -> Route:
    index = [np.flatnonzero(~is_media), np.flatnonzero(is_media)]
    inverse_R = np.empty(len(is_media), np.int64)
    inverse_R[np.concatenate(index)] = np.arange(len(is_media))
    return Route(tuple(map(torch.from_numpy, index)), torch.from_numpy(inverse_R))


def _targets(ids_BT: np.ndarray, learn_BT: np.ndarray) -> Targets:
    """Documents begin unlearnt, so what is learnt stands behind a token of its own document."""
    at_R = np.flatnonzero(learn_BT)
    count_B = tuple(learn_BT.sum(1).tolist())
    return Targets(torch.from_numpy(at_R - 1), torch.from_numpy(ids_BT.ravel()[at_R]), count_B)


def _replies(rows: list[list[Example]]) -> tuple[int, ...]:
    found = [row[0].reply for row in rows if len(row) == 1]
    known = tuple(reply for reply in found if reply is not None)
    return known if len(known) == len(rows) else ()


def _stacked(placed: list[Placed], kind: str) -> Tensor | None:
    """All prepared pictures of a kind, or None when all come without because their features are known."""
    ours = [(example, example.media.get(kind, ())) for _, _, example in placed]
    ours = [(example, items) for example, items in ours if any(span.kind == kind for span in example.spans)]
    bare = [example.name for example, items in ours if not items]
    if bare:
        if len(bare) < len(ours):
            raise ValueError(
                f"{len(bare)} of {len(ours)} examples with {kind!r} bring no prepared items ({bare[0]!r} first); "
                "a batch needs them of all, or of none when their features are known"
            )
        return None
    sizes = {item.shape: example.name for example, items in ours for item in items}
    if len(sizes) > 1:
        found = ", ".join(f"{'x'.join(map(str, shape))} ({name})" for shape, name in sizes.items())
        raise ValueError(f"prepared items of {kind!r} differ in size: {found}")
    return torch.from_numpy(np.stack([item for _, items in ours for item in items]))


def _digests(placed: list[Placed], kind: str) -> tuple[str, ...]:
    pictures = sum(len(span.places) for span in _spans(placed, kind))
    found = tuple(digest for _, _, example in placed for digest in example.digests.get(kind, ()))
    if len(found) not in (0, pictures):
        raise ValueError(
            f"{len(found)} of {pictures} pictures of {kind!r} have a digest; a batch needs them of all or of none"
        )
    return found
