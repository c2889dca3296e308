"""Padding and packing lose nothing and mix nothing up."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scops.core.batch import Batch, Example, Span
from scops.data.collate import pack, pad, plan_packs

PAD = 999


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """Runs of text and of media of two kinds; media ids are 0, the item's number is in its pixels and digest."""
    ids, learn, spans, media, digests = [], [], [], {}, {}
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["text", "image", "sound"]))
        length = draw(st.integers(1, 5)) if kind == "text" else draw(st.integers(0, 4))
        if kind == "text":
            ids += draw(st.lists(st.integers(1, 9), min_size=length, max_size=length))
            learn += draw(st.lists(st.booleans(), min_size=length, max_size=length))
            continue
        number = draw(st.integers(0, 99))
        spans.append(Span(kind, len(ids), length))
        media.setdefault(kind, []).append(np.full((1, 2, 3), number, np.float32))
        digests.setdefault(kind, []).append(str(number))
        ids += [0] * length
        learn += [False] * length
    if not ids:
        ids, learn = [1], [True]
    name = draw(st.text(max_size=2))
    arrays = np.array(ids), np.array(learn, bool)
    frozen = [{kind: tuple(items) for kind, items in many.items()} for many in (media, digests)]
    return Example(*arrays, tuple(spans), *frozen, name=name, dataset=name[:1])


some = st.lists(examples(), min_size=1, max_size=7)


def documents(batch: Batch) -> list[tuple[int, int, int]]:
    """(row, start, end) of every document in reading order."""
    found = []
    for row, (starts, length) in enumerate(zip(batch.documents, batch.lengths, strict=True)):
        found += [(row, start, end) for start, end in zip(starts, (*starts[1:], length), strict=True)]
    return found


def recovered(batch: Batch) -> list[Example]:
    """The examples again, by nothing but what stands in the batch; learnt marks of first tokens are lost (False)."""
    width = batch.ids_BT.shape[1]
    learn = torch.zeros(batch.ids_BT.numel(), dtype=torch.bool)
    learn[batch.targets.index_R + 1] = True
    items = [
        (row, start, kind, length, batch.media[kind][number], batch.digests[kind][number])
        for kind, where in batch.where.items()
        for number, (row, start, length) in enumerate(zip(where.row_M, where.start_M, where.length_M, strict=True))
    ]
    made = []
    for number, (row, start, end) in enumerate(documents(batch)):
        mine = sorted((item for item in items if item[0] == row and start <= item[1] < end), key=lambda item: item[1])
        media, digests = {}, {}
        for _, _, kind, _, pixels, digest in mine:
            media.setdefault(kind, []).append(pixels.numpy())
            digests.setdefault(kind, []).append(digest)
        spans = tuple(Span(kind, at - start, length) for _, at, kind, length, _, _ in mine)
        flat = slice(row * width + start, row * width + end)
        ids, marks = batch.ids_BT.flatten()[flat].numpy(), learn[flat].numpy()
        made.append(Example(ids, marks, spans, media, digests, batch.names[number], batch.datasets[number]))
    return made


def content(example: Example) -> tuple:
    media = {kind: [float(item[0, 0, 0]) for item in items] for kind, items in example.media.items()}
    digests = {kind: list(items) for kind, items in example.digests.items()}
    learn = [False, *example.learn_T[1:].tolist()]
    return example.ids_T.tolist(), learn, list(example.spans), media, digests, example.name, example.dataset


def targets(batch: Batch) -> Counter:
    """Each prediction with its document's number of tokens before it, so that equal multisets mean equal contexts."""
    position = batch.positions_BT.flatten()[batch.targets.index_R].tolist()
    given = batch.ids_BT.flatten()[batch.targets.index_R].tolist()
    return Counter(zip(position, given, batch.targets.ids_R.tolist(), strict=True))


@given(some, st.integers(1, 8))
def test_padded_examples_come_back(rows: list[Example], multiple: int) -> None:
    rows = [_nonzero(row) for row in rows]
    batch = pad(rows, pad_id=PAD, multiple=multiple)
    assert [content(one) for one in recovered(batch)] == [content(row) for row in rows]
    assert batch.documents == ((0,),) * len(rows)
    assert not batch.packed
    assert batch.ids_BT.shape[1] % multiple == 0
    assert batch.ids_BT.shape[1] - max(batch.lengths) < multiple
    assert batch.tokens == sum(map(len, rows))


@given(some, st.integers(0, 20))
def test_packed_examples_come_back_once(rows: list[Example], slack: int) -> None:
    rows = [_nonzero(row) for row in rows]
    capacity = max(map(len, rows)) + slack
    batch = pack(rows, capacity=capacity, pad_id=PAD)
    plan = plan_packs([len(row) for row in rows], capacity)
    assert [content(one) for one in recovered(batch)] == [content(rows[number]) for row in plan for number in row]
    assert max(batch.lengths) == batch.ids_BT.shape[1] <= capacity
    assert targets(batch) == targets(pad(rows, pad_id=PAD))


def _nonzero(example: Example) -> Example:
    """Without empty spans: where one document ends and the next begins, a place alone cannot tell whose they are."""
    full = [span for span in example.spans if span.length]
    kept: list[dict[str, tuple]] = [{}, {}]
    for many, keep in zip((example.media, example.digests), kept, strict=True):
        for kind, items in many.items():
            lengths = [span.length for span in example.spans if span.kind == kind]
            if any(lengths):
                keep[kind] = tuple(item for item, length in zip(items, lengths, strict=True) if length)
    return replace(example, spans=tuple(full), media=kept[0], digests=kept[1])


@given(some)
def test_indices_agree_with_a_count_by_hand(rows: list[Example]) -> None:
    batch = pack(rows, capacity=max(map(len, rows)) + 9, pad_id=PAD)
    flat = batch.ids_BT.flatten()
    text, media = batch.route.index
    assert (flat[media] == 0).all()
    assert (flat[text] != 0).all()
    assert (torch.cat(batch.route.index)[batch.route.inverse_R] == torch.arange(len(flat))).all()
    assert sorted(torch.cat(batch.route.index).tolist()) == list(range(len(flat)))
    for kind, where in batch.where.items():
        assert len(where.index_R) == sum(where.length_M)
        by_hand = [
            row * batch.ids_BT.shape[1] + start + at
            for row, start, length in zip(where.row_M, where.start_M, where.length_M, strict=True)
            for at in range(length)
        ]
        assert where.index_R.tolist() == by_hand == sorted(by_hand)
        assert len(batch.media[kind]) == len(batch.digests[kind]) == len(where.row_M)
        assert [str(int(item[0, 0, 0])) for item in batch.media[kind]] == list(batch.digests[kind])
    for row, start, end in documents(batch):
        assert batch.positions_BT[row, start:end].tolist() == list(range(end - start))
    for row, length in enumerate(batch.lengths):
        assert (batch.ids_BT[row, length:] == PAD).all()
    for at in batch.targets.index_R.tolist():
        row, t = divmod(at, batch.ids_BT.shape[1])
        assert t + 1 not in batch.documents[row]
        assert t + 1 < batch.lengths[row]


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(0, 60))
def test_packs_are_equally_full_and_in_few_rows(lengths: list[int], slack: int) -> None:
    capacity = max(lengths, default=1) + slack
    plan = plan_packs(lengths, capacity)
    assert plan == sorted(sorted(row) for row in plan)
    assert sorted(number for row in plan for number in row) == list(range(len(lengths)))
    if not plan:
        return
    filled = {sum(lengths[number] for number in row): row for row in plan}
    assert max(filled) <= capacity
    fullest = filled[max(filled)]  # was the emptiest before its shortest came
    assert max(filled) - min(filled) <= min(lengths[number] for number in fullest)
    assert len(plan) <= max(1, 2 * sum(lengths) / capacity)  # two rows that fit into one are one


def test_a_row_too_few_lays_all_anew() -> None:
    assert plan_packs([6, 6, 6], 10) == [[0], [1], [2]]
    assert plan_packs([5, 4, 3, 3, 3], 9) == [[0], [1, 4], [2, 3]]  # three rows of 6, as little as two of 9
    assert plan_packs([3, 3, 2, 2, 2], 7) == [[0, 2, 4], [1, 3]]


def make(ids: list[int], *spans: Span, **fields: object) -> Example:
    return Example(np.array(ids), np.zeros(len(ids), bool), spans, **{"name": "row 7", **fields})


def test_disagreement_is_an_error_with_numbers() -> None:
    pixels = {"image": (np.zeros((3, 2, 2), np.float32),)}
    span = Span("image", 1, 2)
    with pytest.raises(ValueError, match="row 7: spans of 2 pictures of 'image', but 1 prepared ones"):
        pad([make([1, 0, 0, 0, 0], span, Span("image", 3, 2), media=pixels)], pad_id=0)
    with pytest.raises(ValueError, match="row 7: spans of 0 pictures of 'image'"):
        pad([make([1], media=pixels)], pad_id=0)
    with pytest.raises(ValueError, match="does not stand after token 3 and within 5"):
        pad([make([1, 0, 0, 0, 0], span, Span("image", 2, 2))], pad_id=0)
    with pytest.raises(ValueError, match="within 2 tokens"):
        pad([make([1, 0], span)], pad_id=0)
    with pytest.raises(ValueError, match="marked to be learnt"):
        pad([replace(make([1, 0, 0], span), learn_T=np.array([False, False, True]))], pad_id=0)
    with pytest.raises(ValueError, match="at least one example"):
        pad([], pad_id=0)
    with pytest.raises(ValueError, match="row 7 has 0 ids"):
        pad([make([])], pad_id=0)
    with pytest.raises(ValueError, match=r"example 1 has 5 tokens.*room for 4"):
        pack([make([1]), make([1] * 5)], capacity=4, pad_id=0)


def test_unequal_pictures_are_named() -> None:
    small, large = ({"image": (np.zeros((3, size, 2), np.float32),)} for size in (2, 4))
    rows = [make([1, 0], Span("image", 1, 1), media=media, name=name) for media, name in ((small, "a"), (large, "b"))]
    with pytest.raises(ValueError, match=r"3x2x2 \(a\), 3x4x2 \(b\)"):
        pad(rows, pad_id=0)


def test_known_features_come_without_pictures_for_all_or_none() -> None:
    span, pixels = Span("image", 1, 1), {"image": (np.zeros((3, 2, 2), np.float32),)}
    bare = make([1, 0], span, digests={"image": ("d",)}, name="bare")
    full = replace(bare, media=pixels, name="full")
    batch = pad([bare, make([1]), bare], pad_id=0)
    assert batch.media == {}
    assert batch.digests == {"image": ("d", "d")}
    assert pad([full, make([1]), full], pad_id=0).media["image"].shape == (2, 3, 2, 2)
    with pytest.raises(ValueError, match=r"1 of 2 examples .*'bare' first"):
        pad([full, bare], pad_id=0)
    with pytest.raises(ValueError, match="1 of 2 pictures of 'image' have a digest"):
        pad([full, replace(full, digests={})], pad_id=0)


def test_a_batch_without_media_has_a_route_of_text_only() -> None:
    batch = pad([make([1, 2]), make([3])], pad_id=0)
    assert [len(index) for index in batch.route.index] == [4, 0]
    assert batch.where == {}
    assert len(batch.targets.index_R) == 0
