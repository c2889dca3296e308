"""Many at once: everyone gets what it would get alone, whoever comes, goes or waits, within the memory there is."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from scops.core.batch import Example, Span
from scops.core.sample import Sample
from scops.data.collate import pad
from scops.generate.desk import Desk, Ticket
from scops.generate.engine import generate
from scops.generate.sampler import Sampler, Sampling
from scops.generate.talk import Answer, answers, prompts
from scops.model import Model
from scops.models.recompute import Recompute
from tests import tiny
from tests.models.test_paged import consistent

LIMIT = 9
GREEDY = Sampling()
COLOURS = ("red", "green", "blue", "black")


@cache
def owl() -> Model:
    model = tiny.owl()
    with torch.no_grad():
        model.module.image.connector.project.weight *= 30  # random pictures speak softly
    return model


def asked(*parts: object) -> Example:
    """A prompt of owl(); colours are pictures."""
    from scops.data.messages import sample_of

    shown = [tiny.picture(part) if part in COLOURS else part for part in parts]
    return prompts(owl().processor, [sample_of(shown)])[0]


def alone(example: Example, sampling: Sampling = GREEDY, *, limit: int = LIMIT, stops: tuple[str, ...] = ()) -> Answer:
    """A session of its own, over a fixed cache."""
    model = owl()
    return answers(model.module, model.processor, [example], sampling=sampling, limit=limit, stops=stops)[0]


def desk(**room: object) -> Desk:
    return Desk(owl().module, owl().processor, **({"tokens": 600} | room))


def words(answer: Answer) -> tuple[str, str, int]:
    return answer.text, answer.ended, answer.tokens


def sound(desk: Desk) -> bool:
    """No page is lost, held twice by mistake, or beyond the bound."""
    scheduler, pool = desk.scheduler, desk.scheduler.session.pool
    rows = [seat.row.paged for seat in (*scheduler.waiting, *scheduler.reading, *scheduler.writing)]
    assert all(kept.shape[0] == pool.count for pair in pool.slots.values() for kept in pair)
    assert len(scheduler.reading) + len(scheduler.writing) <= scheduler.rows
    return consistent(pool, rows)


class Counted(nn.Module):
    """The module itself, and how many items or tokens went through it."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module, self.count = module, 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += x.shape[0] if x.ndim == 4 else x.numel()
        return self.module(x)

    @property
    def weight(self) -> Tensor:
        return self.module.weight


@pytest.fixture
def counted() -> Iterator[tuple[Counted, Counted]]:
    """Pictures encoded and tokens read by owl()."""
    system = owl().module
    pictures, tokens = Counted(system.image.encoder), Counted(system.language.embed)
    system.image.encoder, system.language.embed = pictures, tokens
    yield pictures, tokens
    system.image.encoder, system.language.embed = pictures.module, tokens.module


# Equal to asking alone ------------------------------------------------------------------------------------------------

STARTS = (("what is",), ("an owl on a branch. ", "red"), ("red", "blue", "the user asks"), ("green", "green"), ())


def scene(dice: random.Random) -> Example:
    """Prompts that often begin alike, with pictures anywhere."""
    rest = [dice.choice((*COLOURS, "what", "an owl? " * dice.randint(1, 9))) for _ in range(dice.randint(0, 2))]
    return asked(*dice.choice(STARTS), *rest, dice.choice(("hm", "this?")))


def sampling(dice: random.Random) -> Sampling:
    seed = dice.randint(0, 99)
    return dice.choice((GREEDY, Sampling(temperature=1.3, top_p=0.9, repetition_penalty=1.2, seed=seed)))


@pytest.mark.parametrize("seed", range(8))
def test_whoever_comes_goes_or_waits_everyone_gets_what_it_gets_alone(seed: int) -> None:
    dice = random.Random(seed)
    page, chunk = dice.choice((1, 2, 3, 7, 16)), dice.choice((4, 9, 40))
    tokens = max(len(asked("red", "blue", "the user asks", *["an owl? " * 9] * 2, "this?")) + LIMIT, 90)
    front = desk(tokens=-(-tokens // page) * page + page, page=page, chunk=chunk, rows=dice.randint(1, 6))
    came: list[tuple[Ticket, Example, Sampling, int]] = []
    while len(came) < 7 or not all(ticket.request.done for ticket, *_ in came):
        if len(came) < 7 and dice.random() < 0.5:
            example, chosen, limit = scene(dice), sampling(dice), dice.randint(1, LIMIT)
            came.append((front.enter(example, chosen, limit=limit), example, chosen, limit))
        if came and dice.random() < 0.05:
            dice.choice(came)[0].cancel()
        front.scheduler.tick()
        assert sound(front)
    assert front.scheduler.session.free == front.scheduler.session.pages
    for ticket, example, chosen, limit in came:
        made, expected = ticket.answer(), alone(example, chosen, limit=limit)
        if made.ended == "cancelled":
            assert made.tokens < expected.tokens or not ticket.request.cancelled
        else:
            assert words(made) == words(expected)


@torch.no_grad()
def test_greedy_equals_the_recomputing_twin() -> None:
    model = owl()
    examples = [asked("red", "what?"), asked("red", "what is this?"), asked("hm"), asked("blue", "red", "what?")]
    tickets = [(front := desk(page=3, chunk=7)).enter(example, GREEDY, limit=LIMIT) for example in examples]
    stops = [model.tokenizer.id_of(token) for token in model.layout.template.stops]
    for ticket, example in zip(tickets, examples, strict=True):
        slow = Recompute(model.module, [pad([example], pad_id=0)])
        (reply,) = generate(slow, stops=stops, limit=LIMIT, sampler=Sampler(GREEDY, rows=1))
        ticket.answer()
        assert [token for token in ticket.request.ids if token not in stops] == list(reply.ids)
    assert sound(front)


def test_stop_strings_limits_and_streams_are_each_ones_own() -> None:
    example = asked("what is this?")
    whole = alone(example, limit=20).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    front = desk()
    cut, long, short = (front.enter(example, GREEDY, limit=n, stops=s) for n, s in ((20, (stop,)), (20, ()), (2, ())))
    assert "".join(cut) == whole[: whole.index(stop)]
    pieces = list(long.pieces())
    assert "".join(piece.text for piece in pieces) == whole == long.answer().text
    assert [piece.ended for piece in pieces].count(None) == len(pieces) - 1
    assert short.answer().tokens == 2


# Read once ------------------------------------------------------------------------------------------------------------


def test_a_picture_is_encoded_once_and_a_beginning_read_once(counted: tuple[Counted, Counted]) -> None:
    pictures, tokens = counted
    front = desk(page=2)
    first, again = asked("red", "an owl on a branch. what?"), asked("red", "an owl on a branch. hm")
    assert words(front.enter(first, GREEDY, limit=1).answer()) == words(alone(first, limit=1))
    pictures.count = tokens.count = 0
    made = front.enter(again, GREEDY, limit=1).answer()
    same = next(at for at, (a, b) in enumerate(zip(first.ids_T, again.ids_T, strict=False)) if a != b)
    assert (pictures.count, tokens.count) == (0, len(again) - same // 2 * 2)
    assert words(made) == words(alone(again, limit=1))


def test_requests_that_come_together_read_a_common_beginning_once(counted: tuple[Counted, Counted]) -> None:
    _, tokens = counted
    examples = [asked("red", "an owl on a branch, an owl on a branch. " * 2, tail) for tail in ("hm", "what?", "this")]
    front = desk(page=2, chunk=6)
    tickets = [front.enter(example, GREEDY, limit=1) for example in examples]
    made = [words(ticket.answer()) for ticket in tickets]
    apart = next(
        at for at, ids in enumerate(zip(*(e.ids_T.tolist() for e in examples), strict=False)) if len({*ids}) > 1
    )
    assert tokens.count == sum(map(len, examples)) - 2 * (apart // 2 * 2)
    assert made == [words(alone(example, limit=1)) for example in examples]


def test_a_picture_in_another_place_is_encoded_once_too(counted: tuple[Counted, Counted]) -> None:
    pictures, _ = counted
    front = desk(page=3, chunk=1)
    examples = asked("red", "blue", "red", "what?"), asked("hm", "blue", "red"), asked("blue", "this?")
    expected = [words(alone(example, limit=4)) for example in examples]
    pictures.count = 0
    assert [words(front.enter(example, GREEDY, limit=4).answer()) for example in examples] == expected
    assert pictures.count == 2
    assert front.scheduler.session.encoded.bytes == 2 * 4 * 24 * 4  # two of 4 tokens of 24 floats


@pytest.mark.parametrize("media_bytes", [0, 4 * 24 * 4])
def test_without_room_for_pictures_they_are_encoded_once_a_request(
    counted: tuple[Counted, Counted], media_bytes: int
) -> None:
    """Also where a picture's tokens are read in two parts."""
    pictures, _ = counted
    front = desk(page=3, chunk=1, media_bytes=media_bytes)
    example = asked("red", "blue", "what?")
    expected = alone(example)
    pictures.count = 0
    assert words(front.enter(example, GREEDY, limit=LIMIT).answer()) == words(expected)
    assert pictures.count == 2
    assert front.scheduler.session.encoded.bytes <= media_bytes


def test_other_pictures_and_other_places_are_never_taken_for_the_same() -> None:
    """Same words, same places, same sizes; page digests differ by content, offset and kind alone."""
    front = desk(page=2)
    for example in [asked(a, b, "what?") for a in COLOURS for b in COLOURS]:
        assert words(front.enter(example, GREEDY, limit=4).answer()) == words(alone(example, limit=4))


def test_pictures_without_digests_are_told_apart_by_their_pixels(counted: tuple[Counted, Counted]) -> None:
    pictures, _ = counted
    front = desk(page=2)
    shown = [replace(asked(colour, "what?"), digests={}) for colour in ("red", "blue", "red")]
    expected = [words(alone(example)) for example in shown]
    pictures.count = 0
    assert [words(front.enter(example, GREEDY, limit=LIMIT).answer()) for example in shown] == expected
    assert pictures.count == 2


# Room -----------------------------------------------------------------------------------------------------------------


def test_when_pages_run_out_the_youngest_waits_and_nothing_is_lost() -> None:
    examples = [asked("what is this?", tail) for tail in ("hm", "an owl", "red")]
    front = desk(tokens=3 * 16 + 32, page=4, rows=3)
    session, released = front.scheduler.session, []
    release = session.release
    session.release = lambda row: (released.append(row), release(row))[1]
    tickets = [front.enter(example, GREEDY, limit=30) for example in examples]
    assert [words(ticket.answer()) for ticket in tickets] == [words(alone(e, limit=30)) for e in examples]
    assert len(released) > 3  # else nobody had to wait, and this shows nothing


def test_what_never_fits_is_told_at_once_with_numbers() -> None:
    front, example = desk(tokens=40, page=8), asked("an owl " * 20)
    with pytest.raises(ValueError, match=rf"{len(example)} tokens of prompt and up to 9 .* memory holds 40"):
        front.enter(example, GREEDY, limit=9)
    with pytest.raises(ValueError, match="a page takes 16"):
        desk(tokens=15)
    assert front.scheduler.queued == 0


def test_the_last_page_is_used_to_the_last_token() -> None:
    example = asked("what?")
    front = desk(tokens=len(example) + 4, page=1)
    assert words(front.enter(example, GREEDY, limit=5).answer()) == words(alone(example, limit=5))
    with pytest.raises(ValueError, match="the whole memory holds"):
        front.enter(example, GREEDY, limit=6)


def test_memory_in_bytes_is_memory_in_tokens() -> None:
    model = owl()
    width = 2 * 2 * 6 * 4  # keys and values, 2 heads of 6 floats
    assert model.module.token_bytes() == 2 * width  # of 2 layers
    front = desk(tokens=None, memory=100 * 2 * width, page=16)
    assert front.scheduler.session.pages == 6
    front.enter(asked("what?"), GREEDY, limit=1).answer()
    kept = sum(kept.nbytes for pair in front.scheduler.session.pool.slots.values() for kept in pair)
    assert kept == 96 * 2 * width


# Fair -----------------------------------------------------------------------------------------------------------------


def test_who_came_first_is_let_in_first() -> None:
    big, small = asked("an owl on a branch. " * 6), asked("hm")
    front = desk(tokens=len(big) + 40, page=4)
    first, second, third = (front.enter(example, GREEDY, limit=8) for example in (big, big, small))
    front.scheduler.tick()
    while not first.request.done:
        assert not third.request.ids or second.request.ids or second.request.done
        front.scheduler.tick()
    assert words(third.answer()) == words(alone(small, limit=8))


def test_others_go_on_while_a_long_prompt_is_read() -> None:
    front = desk(chunk=4, page=4)
    writer = front.enter(asked("hm"), GREEDY, limit=20)
    while not writer.request.ids:
        front.scheduler.tick()
    front.enter(asked("an owl on a branch. " * 5), GREEDY, limit=2)
    late = front.enter(asked("what"), GREEDY, limit=2)
    for _ in range(4):
        before = len(writer.request.ids)
        front.scheduler.tick()
        assert writer.request.done or len(writer.request.ids) == before + 1
    while not late.request.done:
        front.scheduler.tick()
    assert front.scheduler.reading  # the long prompt, which came before it


def test_a_cancelled_request_gives_its_room_back_at_once() -> None:
    front = desk(rows=1)
    first, second, third = (front.enter(asked("what?", tail), GREEDY, limit=LIMIT) for tail in ("a", "b", "c"))
    while not first.request.ids:
        front.scheduler.tick()
    first.cancel()
    second.cancel()
    assert third.answer().ended != "cancelled"
    assert (first.answer().ended, second.answer().ended) == ("cancelled", "cancelled")
    assert second.answer().tokens == 0
    assert front.scheduler.session.free == front.scheduler.session.pages


# Faults ---------------------------------------------------------------------------------------------------------------


def bare(example: Example) -> Example:
    return replace(example, media={})


def wrong_span(example: Example) -> Example:
    (span,) = example.spans
    return replace(example, spans=(Span(span.kind, span.start, span.length - 1),))


@pytest.mark.parametrize(
    ("change", "chosen", "said"),
    [
        (bare, GREEDY, "came without pixels"),
        (lambda e: replace(e, media={}, digests={}), GREEDY, "neither pixels nor a digest"),
        (wrong_span, GREEDY, "room for 3 tokens of 'image', but the connector made 4"),
        (lambda e: e, Sampling(bias={999: 1.0}), "only 307 tokens"),
    ],
)
def test_a_fault_of_one_request_ends_that_request_alone(change, chosen: Sampling, said: str) -> None:
    front, good = desk(page=2), asked("blue", "what?")
    before = front.enter(good, GREEDY, limit=LIMIT)
    faulty = front.enter(change(asked("green", "this?")), chosen, limit=LIMIT)
    after = front.enter(good, GREEDY, limit=LIMIT)
    with pytest.raises(ValueError, match=said):
        faulty.answer()
    with pytest.raises(ValueError, match=said):
        list(faulty)
    assert words(before.answer()) == words(after.answer()) == words(alone(good))
    assert front.scheduler.session.free == front.scheduler.session.pages


def test_a_step_that_fails_for_one_row_ends_that_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    front = desk()
    session = front.scheduler.session
    examples = [asked("what?"), asked("red", "an owl"), asked("hm")]
    tickets = [front.enter(example, GREEDY, limit=LIMIT) for example in examples]
    hidden = session._hidden

    def breaks(batch, cache, *beside):
        (faulty,) = [seat.row.paged for seat in front.scheduler.writing if seat.request is tickets[1].request] or [None]
        if faulty in cache.rows and faulty.length == len(examples[1]) + 2:
            raise RuntimeError("out of memory")
        return hidden(batch, cache, *beside)

    monkeypatch.setattr(session, "_hidden", breaks)
    with pytest.raises(RuntimeError, match="out of memory"):
        tickets[1].answer()
    assert len(tickets[1].request.ids) == 3
    for at in (0, 2):
        assert words(tickets[at].answer()) == words(alone(examples[at]))
    assert sound(front)


# From many threads ----------------------------------------------------------------------------------------------------


def test_threads_stream_at_one_desk() -> None:
    front = desk(rows=3, page=4)
    examples = [asked(*start, tail) for start in STARTS[:3] for tail in ("hm", "this?")]

    def one(example: Example) -> str:
        return "".join(front.enter(example, GREEDY, limit=LIMIT))

    with ThreadPoolExecutor(len(examples)) as pool:
        made = list(pool.map(one, examples, timeout=60))
    assert made == [alone(example).text for example in examples]
    assert front.scheduler.session.free == front.scheduler.session.pages


# Log-probabilities ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_logprobs_are_those_of_the_unmodified_scores() -> None:
    model, example = owl(), asked("red", "what?")
    hot = Sampling(temperature=2.0, top_k=3, bias={7: 3.0}, seed=4)
    answer = desk().enter(example, hot, limit=5, logprobs=3).answer()
    assert len(answer.logprobs) == answer.tokens
    slow = Recompute(model.module, [pad([example], pad_id=0)])
    for told in answer.logprobs:
        expected_V = slow.logits_BV[0].log_softmax(-1)
        assert told.logprob == pytest.approx(expected_V[told.id].item(), abs=5e-5)
        assert [token for token, _ in told.top] == expected_V.topk(3).indices.tolist()
        assert [p for _, p in told.top] == pytest.approx(expected_V.topk(3).values.tolist(), abs=5e-5)
        slow.step(torch.tensor([told.id]))


def test_models_answer_tells_logprobs_on_demand() -> None:
    model = owl()
    (plain,) = model.answer(["what?"], max_tokens=3)
    (told,) = model.answer(["what?"], max_tokens=3, logprobs=0)
    assert plain.logprobs == ()
    assert [one.top for one in told.logprobs] == [()] * told.tokens
    with pytest.raises(ValueError, match="logprobs tells 0 or more"):
        model.answer(["what?"], logprobs=-1)


def test_a_models_desk_takes_what_chat_takes() -> None:
    model = owl()
    front = model.desk(tokens=400)
    ticket = front.submit("what?", [tiny.picture("red")], limit=6)
    assert ticket.answer().text == model.chat("what?", [tiny.picture("red")], max_tokens=6)
    from scops.data.messages import sample_of

    sample = sample_of("hm")
    assert isinstance(sample, Sample)
    assert front.submit(sample, limit=6).answer().text == model.chat("hm", max_tokens=6)
