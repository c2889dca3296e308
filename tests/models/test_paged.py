"""Pages: the same conversation as in one piece, shared where rows are alike, never more than there are."""

from collections import Counter

import pytest
import torch

from scops.core.session import OutOfPages
from scops.models.cached import CachedSession
from scops.models.recompute import Recompute
from scops.nn.cache import FixedCache, GrowingCache
from scops.nn.paged import PagedCache, PagedRow, Pages
from scops.systems import mplug_owl
from tests.conftest import batch_of, close, example, randomise
from tests.models.test_sessions import decoder
from tests.systems.test_mplug_owl import TINY, rows
from tests.twins import STEPS, follow


def paged(count: int, *, pages: int = 40, size: int = 3) -> PagedCache:
    return PagedCache(Pages(pages, size=size), [PagedRow() for _ in range(count)])


def consistent(pool: Pages, rows: list[PagedRow]) -> bool:
    """Every page is held as often as rows name it, or free, and none is both or lost."""
    assert Counter({page: n for page, n in enumerate(pool.held) if n}) == Counter(p for row in rows for p in row.pages)
    assert pool.free == pool.held.count(0)
    assert sorted([*pool._empty, *pool._idle]) == [page for page, n in enumerate(pool.held) if n == 0]
    return True


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 3, 7, 16])
def test_paged_session_equals_fixed_growing_and_recompute(size: int) -> None:
    system, examples = randomise(mplug_owl.build(TINY)), list(rows().values())
    ids_BS = torch.randint(1, 50, (len(examples), STEPS))
    made = follow(CachedSession(system, batch_of(*examples), paged(len(examples), pages=90, size=size)), ids_BS)
    for cache in (FixedCache(len(examples), 40), GrowingCache(len(examples))):
        assert close(made, follow(CachedSession(system, batch_of(*examples), cache), ids_BS))
    assert close(made, follow(Recompute(system, [batch_of(one) for one in examples]), ids_BS))


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 5])
def test_sliding_window_over_pages_equals_recompute(size: int) -> None:
    system, examples = decoder(window=4), [example([1, 2, 3, 4, 5, 6, 7, 8, 9]), example([4, 5])]
    ids_BS = torch.randint(1, 50, (2, STEPS))
    made = follow(CachedSession(system, batch_of(*examples), paged(2, size=size)), ids_BS)
    assert close(made, follow(Recompute(system, [batch_of(one) for one in examples]), ids_BS))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(6))
def test_rows_that_split_share_pages_until_they_write(seed: int) -> None:
    """Repeated rows go different ways; a page of both is copied first, so that neither hears of the other."""
    dice = torch.Generator().manual_seed(seed)
    system = decoder()
    examples = [example(torch.randint(1, 50, (n,), generator=dice).tolist()) for n in (5, 3, 8)]
    cache = paged(3, pages=60, size=int(torch.randint(1, 6, (1,), generator=dice)))
    session, slow = (
        CachedSession(system, batch_of(*examples), cache),
        Recompute(system, [batch_of(e) for e in examples]),
    )
    for _ in range(4):
        rows_R = torch.randint(0, len(cache.rows), (int(torch.randint(1, 5, (1,), generator=dice)),), generator=dice)
        session.select(rows_R)
        slow.select(rows_R)
        assert consistent(cache.pool, cache.rows)
        ids_B = torch.randint(1, 50, (len(rows_R),), generator=dice)
        assert close(session.step(ids_B), slow.step(ids_B))
        assert consistent(cache.pool, cache.rows)


def test_split_rows_hold_the_beginning_once() -> None:
    cache = paged(1, pages=10, size=2)
    cache.reserve([5])
    cache.advance(torch.tensor([5]))
    cache.select(torch.tensor([0, 0, 0]))
    assert cache.pool.free == 7
    cache.reserve([1, 1, 1])  # two copies of the third page; the last row keeps it
    assert cache.pool.free == 5
    assert len({row.pages[2] for row in cache.rows}) == 3
    assert {tuple(row.pages[:2]) for row in cache.rows} == {tuple(cache.rows[0].pages[:2])}


def test_too_few_pages_are_told_with_numbers_and_nothing_is_taken() -> None:
    cache = paged(2, pages=4, size=3)
    cache.reserve([4, 3])
    cache.advance(torch.tensor([4, 3]))
    with pytest.raises(OutOfPages, match="8 tokens of 2 rows need 3 more pages of 3 tokens, but of 4 only 1 are free"):
        cache.reserve([4, 4])
    assert [len(row.pages) for row in cache.rows] == [2, 1]
    cache.reserve([5, 0])
    assert cache.pool.free == 0
    with pytest.raises(OutOfPages, match="all 4 pages of 3 tokens"):
        cache.pool.take()


def test_a_page_of_another_row_is_copied_with_just_enough_room() -> None:
    cache = paged(1, pages=2, size=4)
    cache.reserve([2])
    cache.advance(torch.tensor([2]))
    cache.select(torch.tensor([0, 0]))
    cache.reserve([1, 1])
    assert cache.pool.free == 0
    cache.select(torch.tensor([0, 1, 1]))
    with pytest.raises(OutOfPages, match="need 1 more"):
        cache.reserve([1, 1, 1])


def test_idle_pages_are_found_by_digest_and_given_up_oldest_first() -> None:
    pool = Pages(3, size=2)
    a, b = pool.take(), pool.take()
    pool.keep(a, b"a")
    pool.keep(b, b"b")
    pool.give(b)
    pool.give(a)
    assert (pool.free, pool.find(b"a"), pool.find(b"b")) == (3, a, b)
    pool.share(b)
    pool.take(), pool.take()  # the empty one, then the only idle one
    assert (pool.free, pool.find(b"a"), pool.find(b"b")) == (0, None, b)


def test_of_two_pages_with_the_same_content_one_is_found() -> None:
    pool = Pages(2, size=2)
    a, b = pool.take(), pool.take()
    pool.keep(a, b"a")
    pool.keep(b, b"a")
    assert pool.find(b"a") == a
    pool.give(b)
    assert pool._empty == [b]


def test_a_fixed_cache_shows_its_rows_as_pages() -> None:
    cache = FixedCache(3, 5)
    k, v = torch.randn(2, 3, 2, 4, 6)
    cache.reserve([4, 2, 3])
    cache.append(0, k, v)
    cache.advance(torch.tensor([4, 2, 3]))
    kept = cache.pages(0, 2, 6, torch.float32)
    for kept_PKSH, new in zip(kept, (k, v), strict=True):
        for row, length in enumerate(cache.lengths_B.tolist()):
            page = int(cache.table_BL[row, 0])
            assert torch.equal(kept_PKSH[page, :, :length], new[row, :, :length])
    assert cache.table_BL.dtype == torch.int32


@pytest.mark.parametrize(("pages", "size"), [(0, 4), (4, 0)])
def test_a_pool_of_nothing_is_refused(pages: int, size: int) -> None:
    with pytest.raises(ValueError, match="at least 1 page"):
        Pages(pages, size=size)
