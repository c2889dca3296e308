"""Which rows come in which order."""

from collections import Counter
from dataclasses import asdict
from itertools import islice

import pytest
import torch

from scops.data.collate import pad
from scops.data.errors import TooLong
from scops.train.data import Feed, Mixture, Position, spread
from tests.train.toy import DATA, Writer, rows

SIZES = {"a": 17, "b": 11}


def feed(data=DATA, *, position=None, workers=0, share=0.2, weights=None, size=6, writer=None, **words) -> Feed:
    mixture = Mixture({n: len(r) for n, r in data.items()}, weights or dict.fromkeys(data), seed=5)
    return Feed(data, writer or Writer(), mixture=mixture, size=size, position=position or Position(), workers=workers,
                max_bad_share=share, report=lambda words: None, **words)  # fmt: skip


def taken(feed: Feed, lists: int) -> list[list[tuple[str, int]]]:
    return [[spot for spot, _ in found] for found in islice(iter(feed), lists)]


def test_each_epoch_has_every_row_once_in_another_order():
    draws = list(islice(Mixture({"a": 17}, {"a": None}, seed=1).draws({}), 51))
    epochs = [[draw.index for draw in draws[at : at + 17]] for at in (0, 17, 34)]
    assert all(sorted(epoch) == list(range(17)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_shares_hold_at_every_moment():
    mixture = Mixture(SIZES, {"a": 3.0, "b": 1.0}, seed=1)
    for number, draw in enumerate(islice(mixture.draws({}), 200), 1):
        assert abs(draw.after[0] - number * 0.75) <= 1
    by_rows = Counter(d.name for d in islice(Mixture(SIZES, {}, seed=1).draws({}), 280))
    assert by_rows == {"a": 170, "b": 110}


def test_order_depends_on_seed_and_stage_alone():
    def first(seed, salt=""):
        return [d.index for d in islice(Mixture(SIZES, {}, seed=seed, salt=salt).draws({}), 20)]

    assert first(1) == first(1)
    assert len({tuple(order) for order in (first(1), first(2), first(1, "tune"))}) == 3


def test_going_on_equals_not_having_stopped():
    data = {"a": rows(17, bad=(3, 8)), "b": DATA["b"]}
    whole = taken(feed(data), 12)
    for stop in (1, 4, 7):
        position = Position()
        head = taken(feed(data, position=position), stop)
        again = Position(**asdict(position))
        assert head + taken(feed(data, position=again), 12 - stop) == whole


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_neither_order_nor_content_also_after_a_stop(workers):
    data = {"a": rows(17, bad=(3, 8)), "b": DATA["b"]}
    one, two = Position(), Position()
    expected = list(islice(iter(feed(data, position=one)), 5))
    found = list(islice(iter(feed(data, position=two, workers=workers)), 3))
    again = Position(**asdict(two))
    found += list(islice(iter(feed(data, position=again, workers=workers)), 2))
    assert one == again
    for theirs, ours in zip(expected, found, strict=True):
        assert [place for place, _ in ours] == [place for place, _ in theirs]
        batches = [pad([example for _, example in made], pad_id=0) for made in (theirs, ours)]
        tensors = ((b.ids_BT, b.targets.index_R, b.where["image"].index_R, b.media["image"]) for b in batches)
        assert all(map(torch.equal, *tensors))


def test_two_processes_take_what_one_takes():
    whole = taken(feed(), 4)
    halves = [taken(feed(size=3, rank=rank, world=2), 4) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(found) for found in whole]


def test_bad_rows_are_counted_once_and_named():
    position, said = Position(), []
    ours = feed({"a": rows(17, bad=(3, 8))}, position=position)
    ours.report = said.append
    spots = [spot for found in taken(ours, 9) for spot in found]
    assert ("a", 3) not in spots
    assert sorted(position.bad["a"]) == [3, 8]
    assert sorted(said) == [
        "bad row of 'a': row 3: RowError: row 3: broken",
        "bad row of 'a': row 8: RowError: row 8: broken",
    ]


def test_too_many_bad_rows_are_refused():
    with pytest.raises(ValueError, match=r"2 of 17 rows of data set 'a' cannot be used, more than max_bad_share 0.1"):
        taken(feed({"a": rows(17, bad=(3, 8))}, share=0.1), 9)
    with pytest.raises(ValueError, match=r"none of the first 17 rows of data set 'a' can be used"):
        taken(feed({"a": rows(17, bad=tuple(range(17))), "b": DATA["b"]}, share=1.0), 90)


class Short(Writer):
    def __init__(self, overflow: str):
        self.overflow = overflow

    def __call__(self, sample):
        example = super().__call__(sample)
        if len(example) > 7:
            raise TooLong(f"{sample.name}: {len(example)} tokens")
        return example


def test_too_long_is_an_error_or_left_out_and_counted_as_the_policy_says():
    with pytest.raises(TooLong):
        taken(feed(writer=Short("error")), 9)
    position = Position()
    taken(feed(writer=Short("drop"), position=position, share=0.0), 9)
    assert position.dropped
    assert not position.bad


def test_a_bug_in_the_processor_is_not_a_bad_row():
    class Broken(Writer):
        def __call__(self, sample):
            raise KeyError("bug")

    with pytest.raises(KeyError):
        taken(feed(writer=Broken()), 1)


def test_empty_sets_are_refused():
    with pytest.raises(ValueError, match="data set 'b' has no rows"):
        Mixture({"a": 3, "b": 0}, {}, seed=0)


def test_spread_is_even_and_never_more_than_there_are():
    assert spread(range(9), 3) == [0, 4, 8]
    assert spread(range(3), 9) == [0, 1, 2]
    assert spread(range(0), 9) == []
