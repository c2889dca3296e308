"""Many conversations whose pictures stand beside the text: everyone gets what it would get alone."""

import random
from functools import cache

import pytest
import torch

from scops.core.batch import Example
from scops.data.messages import sample_of
from scops.generate.desk import Desk, Ticket
from scops.generate.sampler import Sampling
from scops.generate.talk import Answer, answers, prompts
from scops.model import Model
from tests import tiny
from tests.generate.test_desk import COLOURS, sampling, sound, words

LIMIT = 7
STARTS = (("what is",), ("an owl on a branch. ", "red"), ("red", "blue", "the user asks"), ("green", "green"), ())


@cache
def model(name: str) -> Model:
    made = tiny.MODELS[name]()
    with torch.no_grad():
        for part in (made.module.image.connector, *(b.attn.pictures.v for b in made.module.language.blocks)):
            for weight in part.parameters():
                weight *= 4  # random pictures speak softly
    return made


def asked(name: str, *parts: str) -> Example:
    """A prompt; colours are pictures."""
    shown = [tiny.picture(part, (20, 40)) if part in COLOURS else part for part in parts]
    return prompts(model(name).processor, [sample_of(shown)])[0]


def alone(name: str, example: Example, chosen: Sampling, limit: int) -> Answer:
    """A session of its own, over a fixed cache."""
    made = model(name)
    return answers(made.module, made.processor, [example], sampling=chosen, limit=limit)[0]


@pytest.mark.parametrize("name", ["owl3", "owl3-fused"])
@pytest.mark.parametrize("seed", range(4))
def test_whoever_comes_goes_or_waits_everyone_gets_what_it_gets_alone(name: str, seed: int) -> None:
    dice, made = random.Random(seed), model(name)
    page = dice.choice((2, 7, 16))
    front = Desk(
        made.module, made.processor, page=page, tokens=-(-900 // page) * page, rows=dice.randint(2, 5),
        chunk=dice.choice((9, 60)), media_bytes=dice.choice((0, 3_000, 10**6)),
    )  # fmt: skip
    came: list[tuple[Ticket, Example, Sampling, int]] = []
    while len(came) < 6 or not all(ticket.request.done for ticket, *_ in came):
        if len(came) < 6 and dice.random() < 0.5:
            rest = [dice.choice((*COLOURS, "what", "an owl? ")) for _ in range(dice.randint(0, 2))]
            example = asked(name, *dice.choice(STARTS), *rest, dice.choice(("hm", "this?", "red")))
            chosen, limit = sampling(dice), dice.randint(1, LIMIT)
            came.append((front.enter(example, chosen, limit=limit), example, chosen, limit))
        if came and dice.random() < 0.05:
            dice.choice(came)[0].cancel()
        front.scheduler.tick()
        assert sound(front)
    session = front.scheduler.session
    assert session.free == session.pages
    assert session.encoded.bytes <= session.encoded.most_bytes
    for ticket, example, chosen, limit in came:
        got, expected = ticket.answer(), alone(name, example, chosen, limit)
        assert got.ended == "cancelled" or words(got) == words(expected)


@pytest.mark.parametrize("name", ["owl3", "owl3-fused"])
def test_the_same_words_with_other_pictures_are_never_taken_for_the_same(name: str) -> None:
    made, said = model(name), set()
    front = Desk(made.module, made.processor, tokens=900, page=2)
    for first in COLOURS:
        for second in COLOURS[:2]:
            example = asked(name, first, second, "what?")
            got = front.enter(example, Sampling(), limit=LIMIT).answer()
            assert words(got) == words(alone(name, example, Sampling(), LIMIT))
            said.add(got.text)
    assert len(said) > 2  # else pictures do not matter, and this shows nothing
