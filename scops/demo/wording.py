"""The sentences of the demo, asked and answered; scops.demo.score reads the truth back out of an answer."""

import re

KINDS = {
    "face-smiling": "smiling face",
    "face-affection": "affectionate face",
    "face-tongue": "face with its tongue out",
    "face-hand": "face with a hand",
    "face-neutral-skeptical": "neutral or doubtful face",
    "face-sleepy": "sleepy face",
    "face-unwell": "unwell face",
    "face-hat": "face with a hat",
    "face-glasses": "face with glasses",
    "face-concerned": "worried face",
    "face-negative": "angry face",
    "face-costume": "costume face",
    "cat-face": "cat face",
    "monkey-face": "monkey face",
    "heart": "heart",
    "emotion": "sign of emotion",
    "hand-fingers-open": "open hand",
    "hand-fingers-partial": "hand sign",
    "hand-single-finger": "pointing hand",
    "hand-fingers-closed": "closed hand",
    "hands": "pair of hands",
    "hand-prop": "hand with an object",
    "body-parts": "body part",
    "person": "person",
    "person-gesture": "gesturing person",
    "person-role": "person in a role",
    "person-fantasy": "fantasy figure",
    "person-activity": "active person",
    "person-sport": "person doing sport",
    "person-resting": "resting person",
    "family": "family or couple",
    "person-symbol": "symbol of people",
    "animal-mammal": "mammal",
    "animal-bird": "bird",
    "animal-amphibian": "amphibian",
    "animal-reptile": "reptile",
    "animal-marine": "sea animal",
    "animal-bug": "bug",
    "plant-flower": "flower",
    "plant-other": "plant",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "food-prepared": "prepared food",
    "food-asian": "Asian food",
    "food-sweet": "sweet food",
    "drink": "drink",
    "dishware": "dishware",
    "place-map": "map",
    "place-geographic": "landscape",
    "place-building": "building",
    "place-religious": "religious building",
    "place-other": "place",
    "transport-ground": "ground transport",
    "transport-water": "water transport",
    "transport-air": "air transport",
    "hotel": "hotel item",
    "time": "time",
    "sky-weather": "sky or weather",
    "event": "celebration",
    "award-medal": "award",
    "sport": "sport",
    "game": "game",
    "arts-crafts": "art or craft",
    "clothing": "clothing",
    "sound": "sound sign",
    "music": "music item",
    "musical-instrument": "musical instrument",
    "phone": "phone",
    "computer": "computer item",
    "light-video": "light or video item",
    "book-paper": "book or paper",
    "money": "money",
    "mail": "mail",
    "writing": "writing tool",
    "office": "office item",
    "lock": "lock or key",
    "tool": "tool",
    "science": "science item",
    "medical": "medical item",
    "household": "household item",
    "other-object": "other object",
    "transport-sign": "traffic sign",
    "warning": "warning sign",
    "arrow": "arrow",
    "religion": "religious symbol",
    "zodiac": "zodiac sign",
    "av-symbol": "player button",
    "gender": "gender symbol",
    "math": "mathematical sign",
    "punctuation": "punctuation mark",
    "currency": "currency sign",
    "other-symbol": "other symbol",
    "keycap": "keycap",
    "alphanum": "sign with letters",
    "geometric": "geometric shape",
    "flag": "flag",
    "shape-round": "round shape",
    "shape-cornered": "shape with corners",
    "shape-pointed": "pointed shape",
    "letter": "letter",
}
"""Kinds (emojibase's subgroups and the drawn shapes) as they stand after "a kind of"."""

KIND_OF = {phrase: kind for kind, phrase in KINDS.items()}

NAME_QUESTIONS = (
    "What is this?",
    "What does the picture show?",
    "What do you see?",
    "Name the thing in the picture.",
    "What can be seen here?",
    "Tell me what this is.",
)
KIND_QUESTIONS = (
    "What kind of thing is this?",
    "Which kind of thing does the picture show?",
    "What sort of thing is it?",
    "To which kind does this belong?",
)
LABEL_REQUEST = "Label:"
CHINESE_QUESTIONS = ("What is this called in Chinese?", "Name this in Chinese.")
COUNT_QUESTIONS = (
    "How many things are in the picture?",
    "Count the things.",
    "How many things do you see?",
    "What is the number of things here?",
)
WHERE_QUESTIONS = (
    "Where {is_are} the {name}?",
    "Where in the picture {is_are} the {name}?",
    "At which place {is_are} the {name}?",
)
AT_QUESTIONS = ("What is {place}?", "Which thing is {place}?", "Name the thing {place}.")
PRESENT_QUESTIONS = ("Is there {a_name} in the picture?", "Do you see {a_name}?", "Does the picture show {a_name}?")
WHICH_QUESTIONS = (
    "Which picture shows the {name}?",
    "In which picture {is_are} the {name}?",
    "Find the picture with the {name}.",
)
WORD_QUESTIONS = (
    "What does the picture say?",
    "Read the word.",
    "Which word is written here?",
    "What is written in the picture?",
)

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ORDINALS = ("first", "second", "third", "fourth")
PLURALS = ("people", "men", "women", "lips", "dice")
SINGULARS = (
    "bus", "trolleybus", "minibus", "octopus", "compass", "rhinoceros", "hippopotamus", "claus", "taurus",
    "sagittarius", "aquarius", "ophiuchus", "americas", "fleur-de-lis", "plus", "minus", "tennis",
)  # fmt: skip
PROPER = (
    "aries", "taurus", "gemini", "cancer", "leo", "virgo", "libra", "scorpio", "sagittarius", "capricorn", "aquarius",
    "pisces", "ophiuchus", "mount fuji", "tokyo tower", "mrs. claus", "mx claus", "santa claus", "zzz",
)  # fmt: skip
CONSONANT_AFTER_ALL = ("uni", "uk", "euro", "one", "ufo", "ewe")
VOWEL_AFTER_ALL = ("hour", "x-", "sos", "8", "m ", "f ")


def spoken(label: str) -> str:
    """A label of emojibase as it can stand in a sentence."""
    text = label.translate(str.maketrans("’‘“”", "''\"\"")).replace('"', "")
    for pattern, better in (
        (r"^(man|woman|person): bald$", r"bald \1"),
        (r"^(man|woman|person): (.*)$", r"\1 with \2"),
        (r"^family: ", "family of "),
        (r"^couple with heart: ", "couple with heart, "),
        (r": facing", " facing"),
        (r"^keycap: ", "keycap "),
        (r": ", " of "),
    ):
        text = re.sub(pattern, better, text)
    return text


def noun(name: str) -> str:
    """A name with its article: an owl, a trumpet, books, Aries."""
    lowered = name.lower()
    if lowered in PROPER or is_plural(name):
        return name
    vowel = lowered[0] in "aeiou" and not lowered.startswith(CONSONANT_AFTER_ALL)
    return f"{'an' if vowel or lowered.startswith(VOWEL_AFTER_ALL) else 'a'} {name}"


def is_plural(name: str) -> bool:
    """Whether a name stands for several things: its last word before a preposition ends like a plural."""
    head = re.split(r" (?:with|of|in|on|at|holding|over|facing) ", name.lower())[0].split(" ")[-1]
    return head in PLURALS or (head.endswith("s") and not head.endswith(("ss", "'s")) and head not in SINGULARS)


def is_are(name: str) -> str:
    return "are" if is_plural(name) else "is"


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def name_answer(name: str) -> str:
    return f"{'These are' if is_plural(name) else 'This is'} {noun(name)}."


def kind_answer(kind: str) -> str:
    return f"It is a kind of {KINDS[kind]}."


def chinese_answer(chinese: str) -> str:
    return f"In Chinese this is {chinese}."


def count_answer(count: int) -> str:
    return "There is one thing." if count == 1 else f"There are {NUMBERS[count]} things."


def where_answer(name: str, place: str) -> str:
    return f"The {name} {is_are(name)} {place}."


def at_answer(name: str) -> str:
    return f"It is {noun(name)}."


def present_answer(name: str, present: bool) -> str:
    there = "there are" if is_plural(name) else "there is"
    return f"Yes, {there} {noun(name)}." if present else f"No, there {is_are(name)} no {name}."


def which_answer(index: int) -> str:
    return f"The {ORDINALS[index]} picture."


def word_answer(word: str) -> str:
    return f'It says "{word}".'
