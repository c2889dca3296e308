"""Samples become ids with exactly the published chunks, the right targets and media spans, whatever a user types."""

import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scops.core.batch import Span
from scops.core.layout import WHOLE, Cut, Layout, MediaLayout, Pixels, Slot
from scops.core.sample import Media, Sample, Text, Turn
from scops.core.template import Piece, Role, Special, Template, Written
from scops.data.collate import pad
from scops.data.errors import BadSample, MediaError, NothingToLearn, TooLong
from scops.data.image import digest
from scops.data.processor import Processor
from tests.data.vocabularies import TOKENIZERS, chatml, metaspace

PIXELS = Pixels(6, 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OWL = Template(
    {
        "system": Role(),
        "user": Role(before=(Written("\nHuman: "),), between=(Written("\nHuman: "),)),
        "assistant": Role(before=(Written("\nAI: "),), after=(Special("</s>"),)),
    },
    start=(Special("<s>"),),
    system="A chat.",
)
CHATML = Template(
    {
        role: Role((Special("<|im_start|>"), Written(f"{role}\n")), (), (Special("<|im_end|>"),), (Written("\n"),))
        for role in ("system", "user", "assistant")
    }
)


def five(cut: Cut) -> tuple[Piece | Slot, ...]:
    return (Slot("image", 5),)


def one_tile(height: int, width: int) -> Cut:
    return Cut((1, 1), ((height, width),))


def by_size(cut: Cut) -> tuple[Piece | Slot, ...]:
    ((height, width),) = cut.steps
    return (Written(f"{height}x{width}"), Slot("image", height, cut.places), Written("end"))


def quarters(height: int, width: int) -> Cut:
    return Cut((2, 2), ((2 * PIXELS.height, 2 * PIXELS.width),), "first")


def one_by_one(cut: Cut) -> tuple[Piece | Slot, ...]:
    """A mark and a slot for each, but two slots of two tiles."""
    if not cut.steps:
        return (Slot("image", 5),)
    whole, *tiles = cut.places
    pairs = [tuple(tiles[at : at + 2]) for at in range(0, len(tiles), 2)]
    slots = (Slot("image", 5, (whole,)), *(Slot("image", 7, pair) for pair in pairs))
    return tuple(piece for slot in slots for piece in (Written(f"<{len(slot.places)}>"), slot))


def picture(width: int = 3, height: int = 2, colour: str = "red") -> Media:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return Media("image", file.getvalue())


def processor(
    template: Template = OWL, arrange=five, context: int = 200, cut=None, when: str = "always", **options
) -> Processor:
    tokenizer = metaspace() if template is OWL else chatml()
    layout = Layout(template, {"image": MediaLayout(PIXELS, arrange, cut, when)}, context)
    return Processor(layout, tokenizer, **options)


def chat(*said: str, learn: bool = True) -> tuple[Turn, ...]:
    return tuple(
        Turn("assistant", (Text(text),), learn) if at % 2 else Turn("user", (Text(text),))
        for at, text in enumerate(said)
    )


def test_owl_ids_are_those_of_the_published_chunks() -> None:
    make = processor()
    turns = (Turn("user", (picture(), Text("hi there"))), Turn("assistant", (Text("an owl"),), learn=True))
    example = make(Sample(turns, "row 1", "owls"))
    words = make.tokenizer.encode_text
    head = [make.tokenizer.id_of("<s>"), *words("A chat.\nHuman: ")]
    middle, reply = words("\nHuman: hi there\nAI: "), [*words("an owl"), make.tokenizer.id_of("</s>")]
    assert example.ids_T.tolist() == [*head, 0, 0, 0, 0, 0, *middle, *reply]
    assert example.learn_T.tolist() == [False] * (len(head) + 5 + len(middle)) + [True] * len(reply)
    assert example.spans == (Span("image", len(head), 5),)
    assert example.media["image"][0].shape == (3, 6, 4)
    assert example.digests == {"image": (digest(turns[0].parts[0].source, PIXELS),)}
    assert (example.name, example.dataset) == ("row 1", "owls")


def test_a_prompt_is_the_beginning_of_its_training_row() -> None:
    for template in (OWL, CHATML):
        make = processor(template)
        turns = (Turn("user", (picture(), Text("hi"))), Turn("assistant", (Text("an owl"),), learn=True))
        row, prompt = make(Sample(turns)), make(Sample(turns[:1]), reply=True)
        first = int(row.learn_T.argmax())
        assert prompt.ids_T.tolist() == row.ids_T[:first].tolist()
        assert prompt.spans == row.spans
        assert not prompt.learn_T.any()


def test_chatml_learns_the_reply_and_its_end_but_not_the_newline() -> None:
    make = processor(CHATML)
    example = make(Sample(chat("hi", "an owl")))
    learnt = make.tokenizer.decode(example.ids_T[example.learn_T].tolist(), skip_special=False)
    assert learnt == "an owl<|im_end|>"
    assert make.tokenizer.decode(example.ids_T.tolist(), skip_special=False) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nan owl<|im_end|>\n"
    )


@pytest.mark.parametrize("make", TOKENIZERS)
def test_no_text_of_a_user_becomes_a_token_of_the_template(make) -> None:
    tokenizer = make()
    role = Role(before=(Written("u:"),), after=(Special(min(tokenizer.specials)),))
    template = Template({"system": role, "user": role, "assistant": role})
    process = Processor(Layout(template, {"image": MediaLayout(PIXELS, five)}), tokenizer)
    plain = process(Sample(chat("x", "x")))
    for special in (*tokenizer.specials, "<image>", "<|image|>", "<|im_end|>", "</s>"):
        for words in (special, f"a{special}b", f" {special} {special}\n"):
            example = process(Sample(chat(words, words)))
            known = set(tokenizer.specials.values())
            assert sum(one in known for one in example.ids_T) == sum(one in known for one in plain.ids_T) == 2
            assert not example.spans
            assert tokenizer.decode(example.ids_T.tolist()).count(words.strip()) == 2


def test_media_stand_first_last_beside_each_other_or_nowhere() -> None:
    make = processor(arrange=five)
    a, b = picture(colour="red"), picture(colour="blue")
    first = make(Sample((Turn("user", (a, b, Text("x"), a)), *chat("", "y")[1:])))
    assert [span.length for span in first.spans] == [5, 5, 5]
    assert [len(first.media["image"]), len(set(first.digests["image"]))] == [3, 2]
    assert not first.learn_T[[at for span in first.spans for at in range(span.start, span.start + 5)]].any()
    bare = replace(OWL, roles={role: Role() for role in ("system", "user", "assistant")}, start=(), system=None)
    only = processor(bare) if bare is OWL else Processor(Layout(bare, make.layout.media), make.tokenizer)
    prompt = only(Sample((Turn("user", (a, b)),)), reply=True)
    assert prompt.spans == (Span("image", 0, 5), Span("image", 5, 5))
    assert len(prompt) == 10
    assert make(Sample(chat("x", "y"))).media == {}


def test_arranged_words_join_their_neighbours() -> None:
    make = processor(arrange=by_size, cut=one_tile)
    example = make(Sample((Turn("user", (Text("see"), picture(3, 7), Text("so"))), *chat("", "y")[1:])))
    words = make.tokenizer.encode_text
    assert example.spans[0].length == 7
    head = [make.tokenizer.id_of("<s>"), *words("A chat.\nHuman: see\nHuman: 7x3")]
    tail = [*words("end\nHuman: so\nAI: "), *words("y"), make.tokenizer.id_of("</s>")]
    assert example.ids_T.tolist() == [*head, *[0] * 7, *tail]


def test_tiles_stand_where_the_layout_says_and_are_the_pictures_parts() -> None:
    make = processor(arrange=one_by_one, cut=quarters)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8))
    example = make(Sample((Turn("user", (Media("image", image),)), *chat("", "y")[1:])))
    tiles = ((0, 0), (0, 1)), ((1, 0), (1, 1))
    assert [(span.length, span.places) for span in example.spans] == [(5, (WHOLE,)), *((7, pair) for pair in tiles)]
    pictures, digests = example.media["image"], example.digests["image"]
    assert len(pictures) == len(set(digests)) == 5
    levels = (np.asarray(image, np.float32).transpose(2, 0, 1) / 255 - 0.5) / 0.5
    for (row, column), tile in zip([place for pair in tiles for place in pair], pictures[1:], strict=True):
        np.testing.assert_allclose(tile, levels[:, row * 6 : row * 6 + 6, column * 4 : column * 4 + 4], atol=1e-6)
    batch = pad([example, example], pad_id=0)
    assert batch.tiles["image"].count_M == (1, 2, 2) * 2
    assert batch.tiles["image"].place_I2.tolist()[:3] == [[-1, -1], [0, 0], [0, 1]]
    assert batch.media["image"].shape == (10, 3, 6, 4)


def test_each_picture_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from scops.data import items

    seen: list[object] = []
    measure = items.measure
    monkeypatch.setattr(items, "measure", lambda source, name: (seen.append(source), measure(source, name))[1])
    pictures = picture(colour="red"), picture(colour="blue")
    processor()(Sample((Turn("user", (*pictures, Text("x"))), *chat("", "y")[1:])))
    assert seen == [one.source for one in pictures]


def test_only_a_picture_alone_is_cut_where_the_layout_says_so() -> None:
    make = processor(arrange=one_by_one, cut=quarters, when="alone")
    one, two = (make.outline(Sample((Turn("user", (picture(),) * n), *chat("", "y")[1:]))) for n in (1, 2))
    assert [span.length for span in one.spans] == [5, 7, 7]
    assert [span.places for span in two.spans] == [(WHOLE,)] * 2


def test_an_item_beside_the_sequence_begins_at_its_mark_whose_ids_stay() -> None:
    mark = Slot("image", 0, written="<|image|>")
    make = processor(arrange=lambda cut: (mark,))
    example = make(Sample((Turn("user", (Text("see"), picture(), picture())), *chat("", "y")[1:])))
    ids = make.tokenizer.encode_text("<|image|>")
    for span in example.spans:
        assert example.ids_T[span.start : span.start + len(ids)].tolist() == ids
        assert span.length == 0
    with pytest.raises(ValueError, match="tokens in the sequence or words"):
        Slot("image", 3, written="<|image|>")


def test_an_item_beside_the_sequence_may_leave_no_mark() -> None:
    make = processor(arrange=lambda cut: (Slot("image", 0),))
    turns = (Turn("user", (picture(), Text("see"))), *chat("", "y")[1:])
    example, without = make(Sample(turns)), make(Sample((Turn("user", (Text("see"),)), *turns[1:])))
    assert [(span.kind, span.length) for span in example.spans] == [("image", 0)]
    assert len(example.media["image"]) == 1
    batch = pad([example, without], pad_id=0)
    assert batch.where["image"].row_M == (0,)
    assert len(batch.where["image"].index_R) == 0


def test_pictures_are_prepared_as_stated() -> None:
    example = processor()(Sample((Turn("user", (picture(colour="white"),)), *chat("", "y")[1:])))
    np.testing.assert_array_equal(example.media["image"][0], np.ones((3, 6, 4), np.float32))


def test_outline_counts_without_unpacking() -> None:
    make = processor(arrange=by_size, cut=one_tile)
    turns = (Turn("user", (picture(2, 9), Text("x"))), *chat("", "y")[1:])
    full, outline = make(Sample(turns)), make.outline(Sample(turns))
    np.testing.assert_array_equal(full.ids_T, outline.ids_T)
    assert full.spans == outline.spans
    assert not outline.media
    cut = picture(400, 9).source[:60]  # a header without its pixels
    assert len(make.outline(Sample((Turn("user", (Media("image", cut),)), *turns[1:])))) > 9
    with pytest.raises(MediaError, match="row 4"):
        make(Sample((Turn("user", (Media("image", cut),)), *turns[1:]), "row 4"))


def test_known_pictures_are_not_unpacked() -> None:
    a, b = picture(colour="red"), picture(colour="blue")
    known = {digest(a.source, PIXELS)}
    make = processor(known=known.__contains__)
    both, one = (Sample((Turn("user", parts), *chat("", "y")[1:])) for parts in ((a, b), (a,)))
    assert len(make(both).media["image"]) == 2  # one is new
    assert make(one).media == {}
    assert make(one).digests == {"image": tuple(known)}


def test_too_long_is_an_error_with_numbers() -> None:
    sample = Sample((Turn("user", (picture(), Text("x" * 50))), *chat("", "y")[1:]), "row 9")
    found = len(processor()(sample))
    for overflow in ("error", "drop", "shorten"):
        with pytest.raises(TooLong, match=rf"row 9: {found} tokens \(5 of media\).* room for 40"):
            processor(context=40, overflow=overflow)(sample)
    assert len(processor(capacity=found)(sample)) == found


def test_shortening_drops_the_oldest_exchanges_whole() -> None:
    old = (Turn("user", (picture(colour="red"), Text("old"))), Turn("assistant", (Text("reply"),), learn=True))
    new = (Turn("user", (Text("new"), picture(colour="blue"))), Turn("assistant", (Text("last"),), learn=True))
    system = (Turn("system", (Text("Be brief."),)),)
    for keep in (system, ()):
        wanted = processor()(Sample((*keep, *new)))
        make = processor(overflow="shorten", capacity=len(wanted) + 2)
        cut = make(Sample((*keep, *old, *old, *new)))
        np.testing.assert_array_equal(cut.ids_T, wanted.ids_T)
        np.testing.assert_array_equal(cut.learn_T, wanted.learn_T)
        assert cut.spans == wanted.spans
        assert cut.digests == wanted.digests
    prompt = processor(overflow="shorten", capacity=30)(Sample((*old, *old, *old, new[0])), reply=True)
    np.testing.assert_array_equal(prompt.ids_T, processor()(Sample((new[0],)), reply=True).ids_T)


def test_shortening_never_drops_all_that_is_learnt() -> None:
    turns = (*chat("a", "learnt " * 9), *chat("b", "not " * 9, learn=False))
    with pytest.raises(TooLong, match="row 2"):
        processor(overflow="shorten", context=80)(Sample(turns, "row 2"))


def test_nothing_to_learn_is_said() -> None:
    for turns in (chat("a"), chat("a", "b", learn=False)):
        with pytest.raises(NothingToLearn, match=r"row 5: none of .* turns: user"):
            processor()(Sample(turns, "row 5"))


def test_a_prompt_of_nothing_is_refused() -> None:
    bare = Template(dict.fromkeys(("system", "user", "assistant"), Role()))
    for reply in (True, False):
        with pytest.raises(BadSample, match="row 6: "):
            processor(bare)(Sample((Turn("user", (Text(""),)),), "row 6"), reply=reply)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(MediaError, match="no 'imag'; did you mean 'image'"):
        processor()(Sample((Turn("user", (Media("imag", b""),)),)), reply=True)
    with pytest.raises(ValueError, match="error, drop, shorten, not 'cut'"):
        processor(overflow="cut")
    with pytest.raises(ValueError, match="1 to 200"):
        processor(capacity=201)
    with pytest.raises(ValueError, match="the layout has slots"):
        processor(arrange=lambda cut: ())(Sample((Turn("user", (picture(),)),)), reply=True)
    with pytest.raises(MediaError, match=r"row 8.*missing"):
        processor()(Sample((Turn("user", (Media("image", Path("none.png")),)),), "row 8"), reply=True)


def test_processors_travel_to_workers() -> None:
    sample = Sample((Turn("user", (picture(), Text("x"))), *chat("", "y")[1:]))
    make = processor()
    again = pickle.loads(pickle.dumps(make))
    np.testing.assert_array_equal(again(sample).ids_T, make(sample).ids_T)


@given(st.lists(st.text(max_size=12), min_size=2, max_size=6), st.sampled_from([OWL, CHATML]))
def test_any_words_come_back_and_only_replies_are_learnt(said: list[str], template: Template) -> None:
    make = processor(CHATML, context=1000) if template is CHATML else processor(context=1000)
    said = said[: len(said) // 2 * 2]
    example = make(Sample(chat(*said)))
    closing = make.tokenizer.id_of("</s>" if template is OWL else "<|im_end|>")
    learnt = example.ids_T[example.learn_T].tolist()
    wanted = [one for text in said[1::2] for one in (*(make.tokenizer.encode_text(text) if text else []), closing)]
    assert learnt == wanted


def test_where_a_reply_begins_is_known_where_a_special_token_opens_it() -> None:
    opened = Role(before=(Special("<s>"),), after=(Special("</s>"),))
    for assistant, known in ((opened, True), (Role(before=(Written(" AI: "),)), False)):
        make = processor()
        roles = make.layout.template.roles | {"assistant": assistant}
        make.layout = replace(make.layout, template=replace(make.layout.template, roles=roles))
        first, second = chat("one", "two"), chat("three four", "five")
        whole = make(Sample((*first, *second)))
        asked = make(Sample((*first, *second[:1])), reply=True)
        assert (whole.reply is not None) == (asked.reply is not None) == known
        if known:
            assert whole.reply == asked.reply == len(asked) - 1
            assert pad([whole, asked], pad_id=0).replies == (whole.reply, asked.reply)
    assert pad([whole], pad_id=0).replies == ()
