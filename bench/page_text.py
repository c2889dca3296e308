"""What is written on pages: sentences of Python's own reference, and forms with made-up values. Each belongs to one split."""

import hashlib
import random
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from pydoc_data.topics import topics

SPLITS = ("train", "heldout")
HELD_SHARE = 0.15
LETTERS = 3
"""A word that is asked for has at least so many."""
SENTENCE = re.compile(r"[A-Z][A-Za-z0-9 ,;:'()\-]+[.]")
WORDS = range(6, 25)
"""How long a sentence may be."""

FIRST = "Ada Alan Barbara Carl Clara Dora Edith Emil Frida Grace Hanna Henri Ida Ivan Jane John Karl Lena Maria Nils Olga Paul Rosa Tim".split()  # noqa: E501, SIM905
LAST = "Adams Becker Clark Dietz Evans Fischer Garcia Hansen Ito Jones Keller Lopez Meyer Novak Olsen Peters Quinn Rossi Smith Turner Weber".split()  # noqa: E501, SIM905
CITIES = "Athens Berlin Bern Boston Cairo Delhi Dublin Geneva Hanoi Kyoto Lagos Lima Lisbon London Lyon Madrid Milan Nairobi Oslo Paris Prague Quito Riga Rome Seoul Sofia Tokyo Turin Vienna Zagreb".split()  # noqa: E501, SIM905
MONTHS = "January February March April May June July August September October November December".split()  # noqa: SIM905
GOODS = "Bun Egg Fig Ham Jam Nut Oil Pie Rye Tea Wax Yam".split()  # noqa: SIM905
Maker = Callable[[random.Random], str]
VALUES: dict[str, Maker] = {
    "number": lambda dice: f"{dice.choice('ABCDEFGHKLMNPRSTUVWXYZ')}{dice.randrange(1000, 100_000)}",
    "date": lambda dice: f"{dice.randint(1, 28)} {dice.choice(MONTHS)} {dice.randint(1990, 2029)}",
    "name": lambda dice: f"{dice.choice(FIRST)} {dice.choice(LAST)}",
    "city": lambda dice: dice.choice(CITIES),
    "money": lambda dice: f"{dice.randint(1, 9999):,}.{dice.randrange(100):02} euros",
    "weight": lambda dice: f"{dice.randint(1, 99)}.{dice.randrange(10)} kg",
    "count": lambda dice: str(dice.randint(2, 999)),
    "room": lambda dice: f"{dice.choice('ABCDE')}{dice.randint(1, 9)}.{dice.randrange(100):02}",
    "cents": lambda dice: str(dice.randint(100, 999)),
}
FORMS: dict[str, dict[str, str]] = {
    "Invoice": {"Invoice": "number", "Date": "date", "Customer": "name", "City": "city", "Total": "money", "Discount": "money"},
    "Delivery note": {"Order": "number", "Driver": "name", "City": "city", "Weight": "weight", "Parcels": "count"},
    "Ticket": {"Ticket": "number", "Passenger": "name", "From": "city", "To": "city", "Price": "money", "Seat": "room"},
    "Report": {"Report": "number", "Author": "name", "Date": "date", "Room": "room", "Pages": "count"},
    "Receipt": dict.fromkeys(GOODS, "cents"),
}  # fmt: skip
"""Title -> key -> kind of its value."""
QUESTIONS = {
    "Invoice": "What is the number of the invoice?", "Order": "What is the number of the order?",
    "Ticket": "What is the number of the ticket?", "Report": "What is the number of the report?",
    "Date": "What is the date?", "Customer": "Who is the customer?", "Driver": "Who is the driver?",
    "Passenger": "Who is the passenger?", "Author": "Who is the author?", "City": "Which city is named?",
    "From": "Where does the journey begin?", "To": "Where does the journey end?", "Total": "What is the total?",
    "Discount": "What is the discount?", "Price": "What is the price?", "Weight": "What is the weight?",
    "Parcels": "How many parcels are there?", "Pages": "How many pages are there?", "Seat": "Which seat is it?",
    "Room": "Which room is it?", **{one: f"{one}?" for one in GOODS},
}  # fmt: skip


@dataclass(frozen=True)
class Content:
    """Of one page."""

    title: str
    fields: tuple[tuple[str, str], ...]
    passage: tuple[str, ...]

    def words(self) -> list[str]:
        return [
            *self.title.split(),
            *(word for pair in self.fields for part in pair for word in part.split()),
            *self.passage,
        ]


def content(
    split: str, kinds: Collection[str], fields: tuple[int, int], prose: int, dice: random.Random, *, unseen: bool = True
) -> Content:
    """A form of so many fields, from few to many, and at most so many sentences below it.

    Args:
        kinds: of values, as in VALUES.
        unseen: values are the split's own, as sentences are.
    """
    title = dice.choice([title for title, form in FORMS.items() if set(kinds) & set(form.values())])
    form = {key: kind for key, kind in FORMS[title].items() if kind in kinds}
    keys = dice.sample(tuple(form), min(dice.randint(*fields), len(form)))
    values = tuple(
        (key, value(form[key], split, dice) if unseen else VALUES[form[key]](dice)) for key in form if key in keys
    )
    some = dice.sample(sentences()[split], dice.randint(min(1, prose), prose))
    return Content(title, values, tuple(" ".join(some).split()))


def value(kind: str, split: str, dice: random.Random) -> str:
    """One of the split's own."""
    while True:
        made = VALUES[kind](dice)
        if split_of(made) == split:
            return made


def split_of(text: str) -> str:
    """By hash, so that it never changes."""
    number = int.from_bytes(hashlib.sha256(f"scops page {text}".encode()).digest()[:8], "big")
    return "heldout" if number < HELD_SHARE * 2**64 else "train"


@cache
def sentences() -> dict[str, tuple[str, ...]]:
    """By split, those of whole chapters; a sentence of both is held out."""
    found: dict[str, dict[str, None]] = {split: {} for split in SPLITS}
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            for sentence in re.split(r"(?<=[.])\s+(?=[A-Z])", " ".join(paragraph.split())):
                if SENTENCE.fullmatch(sentence) and len(sentence.split()) in WORDS and "- " not in sentence:
                    found[split_of(name)][sentence] = None
    train = tuple(sentence for sentence in found["train"] if sentence not in found["heldout"])
    return {"train": train, "heldout": tuple(found["heldout"])}


def followers(page: Content) -> list[int]:
    """Numbers of words of the passage whose follower can be asked for: both are plain, and the word stands on the page once."""
    seen = [bare(word) for word in page.words()]
    return [
        at
        for at, (word, after) in enumerate(zip(page.passage, page.passage[1:], strict=False))
        if word.isalpha() and len(word) >= LETTERS and len(bare(after)) >= LETTERS and bare(after).isalpha()
        and seen.count(bare(word)) == 1
    ]  # fmt: skip


def bare(word: str) -> str:
    return word.strip(".,;:'()").lower()
