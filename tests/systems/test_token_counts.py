"""The count of tokens cannot disagree: for every system, whatever the pictures' shapes and whatever a user types.

Pictures and videos are sizes without content, and systems have no numbers, so that 5,000 x 5,000 pixels cost nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scops.connectors import abstractor, h_reducer, qformer
from scops.core.batch import Example, Tiles
from scops.core.layout import WHOLE, Arranged, Layout, MediaLayout, Numbered, Slot
from scops.core.sample import Media, Sample, Text, Turn
from scops.core.template import Special, Written
from scops.data.collate import pad
from scops.data.errors import NothingToLearn, TooLong
from scops.data.image import Sized
from scops.data.items import Item
from scops.data.processor import Processor
from scops.data.template import segments
from scops.data.tiling import AnchorFit, BestFit, LongSide
from scops.data.tokenizer import Tokenizer
from scops.data.video import Facts
from scops.lab.cost import UNBOUND
from scops.lab.tokens import shapes_of
from scops.model.empty import outline
from scops.nn.tiled import run_tiled
from scops.systems import SYSTEMS, module_of
from tests import tiny
from tests.data.vocabularies import chatml, metaspace

few = settings(max_examples=8, deadline=None, derandomize=True, database=None)
some = settings(max_examples=25, deadline=None, derandomize=True, database=None)
MOST = 5
"""Pictures and videos of one conversation."""


@dataclass(frozen=True)
class Subject:
    """A tiny system as it is read: no weights, and room for any prompt."""

    system: Any
    layout: Layout
    tokenizer: Tokenizer

    def processor(self, **other: Any) -> Processor:
        return Processor(self.layout, self.tokenizer, **other)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.layout.media)


@cache
def subject(name: str) -> Subject:
    made = tiny.MODELS[name]()
    system = outline(made.system, made.spec).eval().requires_grad_(False)
    return Subject(system, replace(made.layout, context=UNBOUND), made.tokenizer)


every_system = pytest.mark.parametrize("name", tiny.MODELS)

# What people bring ----------------------------------------------------------------------------------------------------

side = st.integers(1, 5000)


@st.composite
def thin(draw: Any) -> Sized:
    """One side up to 200 times the other."""
    long, times, upright = draw(side), draw(st.integers(1, 200)), draw(st.booleans())
    short = max(long // times, 1)
    return Sized(long, short) if upright else Sized(short, long)


pictures = st.one_of(thin(), st.builds(Sized, side, side))
films = st.builds(Facts, st.integers(1, 4000), st.floats(1, 120))
SOURCES = {"image": pictures, "video": films}


def media_of(subject: Subject) -> st.SearchStrategy[Media]:
    return st.one_of([st.builds(Media, st.just(kind), SOURCES[kind]) for kind in subject.kinds])


def typed(subject: Subject) -> st.SearchStrategy[str]:
    """Words of a person who knows every word of template, tokenizer and layout."""
    known = {*subject.tokenizer.added, "<image>", "<|image|>", "<video>", "</s>", "[SEP]", "<|endofchunk|>"}
    template = subject.layout.template
    known |= {token for token in chain(template.stops, (template.system or "",)) if token}
    for role in template.roles.values():
        known |= {spelt(piece) for piece in (*role.before, *role.between, *role.after, *role.rest)}
    for kind, (source, *_) in {"image": (Sized(300, 700),), "video": (Facts(9, 3.0),)}.items():
        if kind in subject.kinds:
            _, items = subject.processor().planned(Sample((Turn("user", (Media(kind, source),)),)), reply=True)
            known |= {spelt(piece) for _, item in items for piece in item.pieces()}
    pieces = st.one_of(st.sampled_from(sorted(known)), st.text(max_size=6))
    return st.lists(pieces, max_size=5).map("".join)


def questions(subject: Subject, words: st.SearchStrategy[str]) -> st.SearchStrategy[Sample]:
    """One turn with its media and words in any order."""
    texts = words.map(Text)
    if not subject.kinds:
        return texts.map(lambda text: Sample((Turn("user", (text,)),)))
    media = st.lists(media_of(subject), max_size=MOST)
    mixed = st.tuples(media, st.lists(texts, max_size=4)).flatmap(lambda both: st.permutations([*both[0], *both[1]]))
    return mixed.map(lambda parts: Sample((Turn("user", tuple(parts)),)))


def conversations(subject: Subject, words: st.SearchStrategy[str]) -> st.SearchStrategy[Sample]:
    """One to four exchanges, each with an answer to be learnt."""
    asked = questions(subject, words).map(lambda sample: sample.turns[0])
    said = words.map(lambda text: Turn("assistant", (Text(text + "."),), learn=True))
    exchanges = st.lists(st.tuples(asked, said), min_size=1, max_size=4)
    return exchanges.map(lambda many: Sample(tuple(chain.from_iterable(many))))


def spelt(piece: Arranged | Text) -> str:
    if isinstance(piece, Special):
        return piece.token
    if isinstance(piece, Slot):
        return piece.written
    return piece.text


def numbered(piece: Arranged, number: int) -> Arranged:
    return Written(piece.text.format(number)) if isinstance(piece, Numbered) else piece


def written(
    subject: Subject, sample: Sample, items: list[tuple[str, Item]], *, reply: bool
) -> Iterator[Arranged | Text]:
    """Everything that stands in the sequence, piece by piece."""
    met, left = dict.fromkeys(subject.kinds, 0), iter(items)
    for segment in segments(subject.layout.template, sample.turns, reply=reply):
        if isinstance(segment.piece, Media):
            met[segment.piece.kind] += 1
            yield from (numbered(piece, met[segment.piece.kind]) for piece in next(left)[1].pieces())
        else:
            yield segment.piece


def slots_of(items: list[tuple[str, Item]]) -> list[Slot]:
    return [piece for _, item in items for piece in item.pieces() if isinstance(piece, Slot)]


def words_of(example: Example) -> list[int]:
    """Ids outside of media."""
    is_media = np.zeros(len(example), bool)
    for span in example.spans:
        is_media[span.start : span.start + span.length] = True
    return example.ids_T[~is_media].tolist()


def holds_its_items(example: Example, items: list[tuple[str, Item]]) -> bool:
    """Every item has its whole span, one behind the other, and nothing of it is learnt."""
    found = [(span.kind, span.length, span.places, span.extent) for span in example.spans]
    assert found == [(slot.kind, slot.tokens, slot.places, slot.extent) for slot in slots_of(items)]
    end = 0
    for span in example.spans:
        assert end <= span.start <= span.start + span.length <= len(example)
        end = span.start + span.length
        assert not example.learn_T[span.start : end].any()
    return True


# Promised == made -----------------------------------------------------------------------------------------------------


@every_system
@few
@given(data=st.data())
@torch.no_grad()
def test_connectors_make_what_layouts_promise(name: str, data: st.DataObject) -> None:
    one = subject(name)
    sample = data.draw(questions(one, st.just("what?")).filter(lambda sample: bool(sample.turns[0].parts)))
    example, items = one.processor().planned(sample, reply=True)
    assert holds_its_items(example, items)
    media = {kind: torch.empty(shape, device="meta") for kind, shape in shapes_of(items).items()}
    batch = replace(pad([example], pad_id=0).to("meta"), media=media)
    batch = replace(batch, media={}, features=one.system.encode(batch))
    made = one.system.connect(batch)
    assert made.keys() == {kind for kind, _ in items}
    for kind, tokens in made.items():
        promised = [slot.tokens for slot in slots_of(items) if slot.kind == kind]
        assert len(tokens) == len(promised)
        if any(promised):
            assert [len(item) for item in tokens] == promised
        else:
            assert all(len(item) > 0 for item in tokens)  # beside the sequence
    one.system.read(batch)  # which places them


@dataclass(frozen=True)
class Promise:
    """A connector of some size: what it is given (P, D) for a picture, and what it says that it makes of it."""

    connector: torch.nn.Module
    features: tuple[int, int]
    tokens: int


def of_abstractor(tokens: int, patches: int) -> Promise:
    spec = abstractor.AbstractorSpec(dim=6, hidden=10, layers=1, heads=2, queries=tokens)
    return Promise(abstractor.VisualAbstractor(spec, out=4), (1 + patches**2, 6), abstractor.tokens_for(spec))


def of_reducer(tokens: int, patches: int) -> Promise:
    spec = h_reducer.HReducerSpec(dim=5, kernel=(1, min(tokens, patches)))
    return Promise(h_reducer.HReducer(spec, out=4), (1 + patches**2, 5), h_reducer.tokens_for(spec, patches))


def of_qformer(tokens: int, patches: int) -> Promise:
    spec = qformer.QFormerSpec(dim=6, hidden=10, layers=2, heads=2, queries=tokens, width=5)
    return Promise(qformer.QFormerConnector(spec, out=4), (patches**2, 5), qformer.tokens_for(spec))


CONNECTORS: dict[str, Callable[[int, int], Promise]] = {
    "abstractor": of_abstractor, "h_reducer": of_reducer, "qformer": of_qformer,
}  # fmt: skip


@pytest.mark.parametrize("name", CONNECTORS)
@few
@given(tokens=st.integers(1, 90), patches=st.integers(1, 40))
@torch.no_grad()
def test_connectors_of_any_size_keep_their_word(name: str, tokens: int, patches: int) -> None:
    with torch.device("meta"):
        promise = CONNECTORS[name](tokens, patches)
        made = run_tiled(promise.connector, torch.empty(2, *promise.features), Tiles.of([(WHOLE,)] * 2, "meta"))
    assert made.shape == (2, promise.tokens, 4)


# Published layouts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [size for entry in SYSTEMS.values() for size in entry.sizes])
@some
@given(data=st.data())
def test_published_layouts_have_a_slot_for_every_prepared_picture(size: str, data: st.DataObject) -> None:
    system = next(name for name, entry in SYSTEMS.items() if size in entry.sizes)
    layout = module_of(system).layout(module_of(system).SIZES[size])
    one = Subject(None, replace(layout, context=UNBOUND), chatml())
    if not one.kinds:
        return
    shown = data.draw(st.lists(media_of(one), min_size=1, max_size=MOST))
    alone = dict.fromkeys(one.kinds, sum(media.kind == "image" for media in shown) == 1)
    for media in shown:
        item = one.processor()._item(media, Sample((Turn("user", tuple(shown)),)))
        slots = [piece for piece in item.pieces() if isinstance(piece, Slot)]
        assert item.shape[0] == sum(len(slot.places) for slot in slots) >= 1
        rule = layout.media[media.kind]
        if isinstance(rule, MediaLayout):
            cut = rule.cut_of(media.source.height, media.source.width, alone=alone[media.kind])
            assert item.shape[0] == len(cut)
            assert all(step >= 1 for steps in cut.steps for step in steps)


RULES = {
    "best fit": BestFit(28, ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))),
    "anchor fit": AnchorFit(28, ((1, 1), (1, 2), (2, 1), (2, 2), (1, 9), (9, 1))),
    "long side": LongSide(28, 112),
}


@pytest.mark.parametrize("name", RULES)
@some
@given(picture=pictures)
def test_what_is_cut_lies_within_its_grid(name: str, picture: Sized) -> None:
    rule = RULES[name]
    cut = rule(picture.height, picture.width)
    (rows, columns), last = cut.grid, cut.steps[-1]
    assert 1 <= last[0] <= rows * rule.side
    assert 1 <= last[1] <= columns * rule.side
    assert len(cut) == rows * columns + bool(cut.whole) == len(cut.places)


# Text stays text ------------------------------------------------------------------------------------------------------


@every_system
@some
@given(data=st.data())
def test_what_a_user_types_is_only_text(name: str, data: st.DataObject) -> None:
    one = subject(name)
    sample = data.draw(conversations(one, typed(one)))
    example, items = one.processor().planned(sample, reply=False)
    assert holds_its_items(example, items)
    pieces, ids = [*written(one, sample, items, reply=False)], words_of(example)
    hidden = {at for token, at in one.tokenizer.added.items() if not token.isspace()}
    specials = [one.tokenizer.id_of(piece.token) for piece in pieces if isinstance(piece, Special)]
    assert [at for at in ids if at in hidden] == specials
    assert one.tokenizer.decode(ids, skip_special=False) == "".join(map(spelt, pieces))
    learnt = one.tokenizer.decode(example.ids_T[example.learn_T].tolist(), skip_special=False)
    answers = (segment for segment in segments(one.layout.template, sample.turns, reply=False) if segment.learn)
    assert learnt == "".join(spelt(segment.piece) for segment in answers)


@every_system
@some
@given(data=st.data())
def test_decoding_gives_back_what_was_encoded(name: str, data: st.DataObject) -> None:
    one = subject(name)
    text = data.draw(typed(one))
    ids = one.tokenizer.encode_text(text)
    assert one.tokenizer.decode(ids, skip_special=False) == text
    assert one.tokenizer.decode(ids) == text  # nothing in it is special
    stream = one.tokenizer.stream()
    assert "".join([*map(stream.step, ids), stream.finish()]) == text


@pytest.mark.parametrize("make", [chatml, metaspace])
@some
@given(data=st.data())
def test_tokenizers_of_both_families_give_back_what_was_typed(
    make: Callable[[], Tokenizer], data: st.DataObject
) -> None:
    tokenizer = make()
    known = st.sampled_from(sorted(tokenizer.added))
    others = st.text(
        st.characters(exclude_characters="▁", codec="utf-8"), max_size=6
    )  # how SentencePiece writes a space
    text = "".join(data.draw(st.lists(st.one_of(known, others), max_size=6)))
    ids = tokenizer.encode_text(text)
    assert tokenizer.decode(ids, skip_special=False) == text
    assert not {*ids} & {*tokenizer.added.values()}


# What is too long -----------------------------------------------------------------------------------------------------


@every_system
@some
@given(data=st.data())
def test_truncation_takes_whole_exchanges_and_never_cuts_an_item(name: str, data: st.DataObject) -> None:
    one = subject(name)
    sample = data.draw(conversations(one, st.sampled_from(["what?", "", "an owl on a branch"])))
    whole, _ = one.processor().planned(sample, reply=False)
    beginnings = [at for at, turn in enumerate(sample.turns) if turn.role == "user"]
    rests = [one.processor().planned(replace(sample, turns=sample.turns[at:]), reply=False) for at in beginnings]
    just = [len(rest) + more for rest, _ in rests for more in (-1, 0)]
    capacity = data.draw(st.one_of(st.integers(1, len(whole)), st.sampled_from(just)))
    for policy in ("error", "drop"):
        if len(whole) <= capacity:
            assert len(one.processor(overflow=policy, capacity=capacity).outline(sample)) == len(whole)
        else:
            with pytest.raises(TooLong, match=f"{len(whole)} tokens.*room for {capacity}"):
                one.processor(overflow=policy, capacity=capacity).outline(sample)
    fitting = [rest for rest in rests if len(rest[0]) <= capacity]
    try:
        kept, items = one.processor(overflow="shorten", capacity=capacity).planned(sample, reply=False)
    except (TooLong, NothingToLearn):
        assert not fitting
        return
    assert len(kept) <= capacity
    assert holds_its_items(kept, items)
    assert np.array_equal(kept.ids_T, fitting[0][0].ids_T)
    assert kept.spans == fitting[0][0].spans
