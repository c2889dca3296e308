"""Media beside the sequence: cached, packed, padded and shared conversations against the slow twin that reads all again."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scops.core.batch import Example
from scops.core.session import OutOfPages
from scops.encoders.siglip import SiglipSpec
from scops.language.llama import LlamaSpec
from scops.models.decoder import MultimodalDecoder
from scops.models.recompute import Recompute
from scops.models.shared import PagedSession
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import mplug_owl3
from tests.conftest import batch_of, close, example, randomise
from tests.twins import STEPS, cache_of, cached_equals_recompute, documents_stand_alone, follow, rows_stand_alone

SPEC = mplug_owl3.Spec(
    SiglipSpec(dim=12, hidden=20, layers=2, heads=2, image=9, patch=4, skip=1),
    LlamaSpec(dim=24, hidden=36, layers=3, heads=4, kv_heads=2, vocab=53, rope_base=1e4, bias="qkv"),
    hyper=(1, 3),
)
ARRANGEMENTS = ("adaptive", "static", "fused")
MARK = [40, 41]


def system(arrangement: str) -> MultimodalDecoder:
    torch.manual_seed(5)
    return randomise(mplug_owl3.build(replace(SPEC, attention=arrangement)), 0.3)


def picture(number: int) -> Tensor:
    return 2 * torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(number))


def prompt(*parts: int | str) -> Example:
    """Numbers are ids; "a", "b", ... are pictures, each marked by two ids, "a." by one."""
    ids, starts, shown = [], [], []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
        else:
            starts.append(len(ids))
            shown.append(part[0])
            ids += MARK[: 3 - len(part)]
    made = example(ids, tuple((start, 0) for start in starts), [picture(ord(name)) for name in shown])
    return replace(made, digests={"image": tuple(shown)} if shown else {})


PROMPTS = {
    "none": prompt(1, 2, 3, 4, 5),
    "first": prompt("a", 5, 6, 7),
    "last": prompt(1, 9, 8, 7, "b"),
    "at the last index": prompt(1, 9, 8, "c."),
    "adjacent": prompt(1, 3, "a", "b", "a", 4),
    "several": prompt(1, "c", 2, 3, "a", 4, "b.", 8, 9, 10),
    "alone": prompt("b"),
}


@torch.no_grad()
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_session_equals_recompute_with_pictures_anywhere(arrangement: str, cache: type) -> None:
    examples = list(PROMPTS.values())
    assert cached_equals_recompute(system(arrangement), examples, cache_of(cache, len(examples)))


@torch.no_grad()
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("name", PROMPTS)
def test_a_row_alone_needs_no_mask_and_equals_recompute(
    arrangement: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, one = system(arrangement), PROMPTS[name]
    session, slow = made.session(batch_of(one), 40), Recompute(made, [batch_of(one)])
    assert all(memory.features_BSD is None for memory in session.ctx.memories.values())
    masks: list[object] = []
    from scops.language import hyper

    attend = hyper.attend
    monkeypatch.setattr(hyper, "attend", lambda q, k, v, visible: (masks.append(visible), attend(q, k, v, visible))[1])
    for token in torch.randint(1, 50, (STEPS,)):
        made_V = session.step(token[None])
        assert masks == [None] * len(masks)
        assert len(masks) == 2 * bool(one.spans)
        assert close(made_V, slow.step(token[None]))
        masks.clear()


@torch.no_grad()
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_selected_rows_go_on_as_if_alone(arrangement: str) -> None:
    made, examples = system(arrangement), list(PROMPTS.values())
    for chosen in ([5, 1, 1, 0], [1, 2, 3], [0], [4, 5]):  # the rest has fewer pictures, or none
        session = made.session(batch_of(*examples), 40)
        session.select(torch.tensor(chosen))
        alone = Recompute(made, [batch_of(examples[row]) for row in chosen])
        ids_BS = torch.randint(1, 50, (len(chosen), STEPS))
        assert close(follow(session, ids_BS), follow(alone, ids_BS))


@torch.no_grad()
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_ragged_batch_equals_each_row_alone(arrangement: str) -> None:
    assert rows_stand_alone(system(arrangement), PROMPTS)


@torch.no_grad()
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_packed_documents_see_their_own_pictures_alone(arrangement: str) -> None:
    assert documents_stand_alone(system(arrangement), PROMPTS, capacity=20)


@torch.no_grad()
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_all_pictures_matter_and_their_order_too(arrangement: str) -> None:
    made = system(arrangement)
    said = [made(batch_of(prompt(1, *shown, 4)))[0, -1] for shown in ("aba", "abb", "aab", "bba", "caa")]
    apart = torch.stack(said)[:, None] - torch.stack(said)
    assert (apart.abs().amax(-1) + torch.eye(len(said))).min() > 1e-3


def test_marks_and_pictures_must_be_as_many() -> None:
    one = PROMPTS["several"]
    wrong = replace(batch_of(one), media={"image": torch.stack([picture(1)] * 2)}, tiles={})
    with pytest.raises(ValueError, match="marks the places of 3 items of 'image', but there are 2"):
        system("fused")(wrong)


# Shared ---------------------------------------------------------------------------------------------------------------


class Twin:
    """A row of a shared session beside its own recomputation."""

    def __init__(self, session: PagedSession, made: MultimodalDecoder, one: Example):
        self.session, self.one, self.row = session, one, session.open(one)
        self.slow = Recompute(made, [batch_of(one)])
        self.expected_V = self.slow.logits_BV[0]

    def read(self, most: int) -> bool:
        """Whether it is read to its end."""
        logits_V = self.session.read(self.row, most)
        if logits_V is not None:
            assert close(logits_V, self.expected_V)
        return logits_V is not None

    def wrote(self, token: int, logits_V: Tensor) -> None:
        self.expected_V = self.slow.step(torch.tensor([token]))[0]
        assert close(logits_V, self.expected_V)


def conversation(dice: random.Random) -> Example:
    """Beginnings that are often alike, in words or in pictures, with 0 to 4 pictures anywhere."""
    start = dice.choice([(1, 2, 3, 4), (1, 2, "a", 3), (1, 2, "b", 3), ("a", "b", 5), ("a.",), ()])
    rest = [dice.choice([6, 7, 8, 9, "a", "b", "c."]) for _ in range(dice.randint(0, 5))]
    return prompt(*start, *rest, *dice.choice([(11,), (12, 13), ("c.",)]))


@torch.no_grad()
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("seed", range(4))
def test_shared_equals_recompute_whoever_joins_leaves_or_waits(arrangement: str, seed: int) -> None:
    made, dice = system(arrangement), random.Random(seed)
    page = dice.choice((1, 2, 3, 5))
    session = made.shared(page * 30, page=page, media_bytes=dice.choice((0, 5_000, 10**6)))
    reading: list[Twin] = []
    writing: list[Twin] = []
    for _ in range(60):
        if len(reading) + len(writing) < 5 and dice.random() < 0.4:
            reading.append(Twin(session, made, conversation(dice)))
        try:
            if reading and reading[0].read(max(dice.choice((2, 4, 40)) // page, 1) * page):
                writing.append(reading.pop(0))
            if writing:
                ids = [dice.randint(1, 50) for _ in writing]
                logits_BV = session.step([twin.row for twin in writing], torch.tensor(ids))
                for twin, token, logits_V in zip(writing, ids, logits_BV, strict=True):
                    twin.wrote(token, logits_V)
        except OutOfPages:
            if not reading:
                reading.append(writing.pop())  # it is read again, with what it has written
            session.release(reading[-1].row)
        if writing and dice.random() < 0.2:
            session.release(writing.pop(dice.randrange(len(writing))).row)
    for twin in (*reading, *writing):
        session.release(twin.row)
    assert session.free == session.pages


@torch.no_grad()
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_pages_are_shared_with_the_same_pictures_and_never_with_others(arrangement: str) -> None:
    made = system(arrangement)
    session = made.shared(60, page=2, media_bytes=10**6)
    first = Twin(session, made, prompt(1, 2, 3, "a", 4, 5, 6, 7, 8))
    assert first.read(40)
    for name, shared in (("a", 8), ("b", 2)):  # the mark's first id stands in the second page
        again = Twin(session, made, prompt(1, 2, 3, name, 4, 5, 6, 7, 9))
        assert sum(1 for _ in session._found(again.row)) * 2 == shared
        assert again.read(40)
        for token in (7, 8):
            again.wrote(token, session.step([again.row], torch.tensor([token]))[0])


@torch.no_grad()
def test_keys_and_values_of_a_picture_are_made_once_for_all_places_and_turns() -> None:
    made = system("adaptive")
    session = made.shared(60, page=4, media_bytes=10**6)
    encoded: list[int] = []
    asked = prompt(1, "a", 4, 5), prompt("a", 2, "a", 4), prompt(1, "a", 4, 5, 9, 8, "b", 7)
    for one, new in zip(asked, ([1], [], [1]), strict=True):
        twin = Twin(session, made, one)
        hook = made.image.encoder.register_forward_hook(lambda module, given, out: encoded.append(len(out)))
        assert twin.read(40)
        hook.remove()
        assert encoded == new
        encoded.clear()
    picture_bytes = 2 * 2 * 2 * 4 * 6 * 4  # in 2 layers keys and values, 2 heads, 4 patches, 6 floats
    assert session.encoded.bytes == 2 * picture_bytes


@torch.no_grad()
def test_rows_that_write_together_lay_their_pictures_side_by_side_once() -> None:
    made = system("fused")
    session = made.shared(200, page=4, media_bytes=10**6)
    twins = [Twin(session, made, one) for one in PROMPTS.values()]
    assert all(twin.read(40) for twin in twins)
    rows = [twin.row for twin in twins]
    session.step(rows, torch.ones(len(rows), dtype=torch.long))
    laid = session._joined.made
    session.step(rows, torch.ones(len(rows), dtype=torch.long))
    assert session._joined.made is laid
    session.step(rows[:2], torch.ones(2, dtype=torch.long))
    assert session._joined.made is not laid
    session.release(rows[0])
    assert not session._joined.rows
    assert not rows[0].shelves
