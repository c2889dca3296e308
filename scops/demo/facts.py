"""Rows without pictures: short questions about the trained concepts, numbers, words and days."""

import random
from collections.abc import Callable, Iterator

from scops.demo.album import dice_of
from scops.demo.concepts import Gallery
from scops.demo.row import Row
from scops.demo.wording import KINDS, NUMBERS, is_are, is_plural, noun, sentence
from scops.demo.words import WORDS, word_split

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
OPPOSITES = (
    ("big", "small"), ("hot", "cold"), ("day", "night"), ("old", "new"), ("fast", "slow"),
    ("high", "low"), ("open", "closed"), ("wet", "dry"), ("light", "dark"), ("early", "late"),
    ("full", "empty"), ("hard", "soft"), ("up", "down"), ("left", "right"), ("long", "short"),
    ("rich", "poor"), ("strong", "weak"), ("thick", "thin"), ("near", "far"), ("first", "last"),
)  # fmt: skip

Fact = tuple[str, str, str]
"""Question, answer, code of the concept it is about ("" for none)."""


def fact_rows(gallery: Gallery, *, count: int, seed: int) -> Iterator[Row]:
    """Half about concepts, half about everything else."""
    for number in range(count):
        dice = dice_of(seed, "fact", number)
        question, answer, code = dice.choice(ABOUT_CONCEPTS if number % 2 else ABOUT_THE_REST)(gallery, dice)
        truth = {"text": answer}
        yield Row(f"text/{number}", "train", "text", truth, ((question, answer),), about=(code,) if code else ())


def kind_of(gallery: Gallery, dice: random.Random) -> Fact:
    concept = dice.choice(gallery.trained)
    question = f"Which kind of thing {is_are(concept.name)} {noun(concept.name)}?"
    return (
        question,
        f"{sentence(noun(concept.name))} {is_are(concept.name)} a kind of {KINDS[concept.kind]}.",
        concept.code,
    )


def is_it(gallery: Gallery, dice: random.Random) -> Fact:
    concept, other = dice.sample(gallery.trained, 2)
    kind = dice.choice((concept.kind, other.kind))
    pronoun = f"{'they' if is_plural(concept.name) else 'it'} {is_are(concept.name)}"
    answer = f"Yes, {pronoun}." if kind == concept.kind else f"No, {pronoun} a kind of {KINDS[concept.kind]}."
    return f"{sentence(is_are(concept.name))} {noun(concept.name)} a kind of {KINDS[kind]}?", answer, concept.code


def plus(gallery: Gallery, dice: random.Random) -> Fact:
    one, two = dice.randint(0, 20), dice.randint(0, 20)
    return f"What is {one} plus {two}?", f"{one} plus {two} is {one + two}.", ""


def minus(gallery: Gallery, dice: random.Random) -> Fact:
    two = dice.randint(0, 20)
    one = two + dice.randint(0, 20)
    return f"What is {one} minus {two}?", f"{one} minus {two} is {one - two}.", ""


def opposite(gallery: Gallery, dice: random.Random) -> Fact:
    one, two = dice.sample(dice.choice(OPPOSITES), 2)
    return f'What is the opposite of "{one}"?', f'The opposite of "{one}" is "{two}".', ""


def following(gallery: Gallery, dice: random.Random) -> Fact:
    series, what = dice.choice(((DAYS, "day"), (MONTHS, "month")))
    index = dice.randrange(len(series))
    return (
        f"Which {what} comes after {series[index]}?",
        f"After {series[index]} comes {series[(index + 1) % len(series)]}.",
        "",
    )


def letters(gallery: Gallery, dice: random.Random) -> Fact:
    word = dice.choice([word for word in WORDS if word_split(word) == "train"])
    return f'How many letters has the word "{word}"?', f'The word "{word}" has {NUMBERS[len(word)]} letters.', ""


ABOUT_CONCEPTS: tuple[Callable[[Gallery, random.Random], Fact], ...] = (kind_of, is_it)
ABOUT_THE_REST: tuple[Callable[[Gallery, random.Random], Fact], ...] = (plus, minus, opposite, following, letters)
