"""What an answer says, read back into its shortest form: how the demo's held-out rows are scored."""

import re
from collections.abc import Callable

from scops.core.names import nearest
from scops.demo.pictures import GRIDS
from scops.demo.wording import KIND_OF, NUMBERS, ORDINALS

OPENING = re.compile(
    r"^(?:(?:in chinese )?(?:this|it|these|that|here|the picture|i) (?:is|are|shows?|says|sees?|see) )?"
    r"(?:called )?(?:an? |the )?"
)
PLACES = sorted({place for grid in GRIDS for place in grid.places}, key=len, reverse=True)


def right(task: str, truth: str, answer: str) -> bool:
    """Whether the answer says exactly the truth; capitals and a closing full stop do not matter."""
    return said(task, answer) == folded(truth)


def said(task: str, answer: str) -> str:
    """The answer in the form of `truth`; "" where it says nothing of the sort.

    Raises:
        ValueError: no task has this name.
    """
    if task not in READERS:
        raise ValueError(f"no demo task is called {task!r}{nearest(task, READERS)}")
    return folded(READERS[task](folded(answer)))


def folded(text: str) -> str:
    """Lower case, single spaces, no closing full stop."""
    return " ".join(text.lower().split()).rstrip(". ")


def named(answer: str) -> str:
    return OPENING.sub("", answer)


def kind(answer: str) -> str:
    """The longest known kind that the answer ends with, after "kind of" if that is there."""
    stated = re.split(r"\b(?:kind|sort|type) of ", answer)[-1]
    return {folded(phrase): key for phrase, key in KIND_OF.items()}.get(OPENING.sub("", stated), "")


def count(answer: str) -> str:
    for word in re.findall(r"\w+", answer):
        if word.isdigit():
            return word
        if word in NUMBERS:
            return str(NUMBERS.index(word))
    return ""


def where(answer: str) -> str:
    return next((place for place in PLACES if answer.endswith(place)), "")


def present(answer: str) -> str:
    word = re.match(r"\w+", answer)
    return word[0] if word and word[0] in ("yes", "no") else ""


def which(answer: str) -> str:
    for word in re.findall(r"\w+", answer):
        if word in ORDINALS:
            return str(ORDINALS.index(word) + 1)
        if word.isdigit():
            return word
    return ""


def word(answer: str) -> str:
    """What stands in quotes, or else the last word."""
    quoted = re.findall(r'"([^"]*)"', answer)
    return quoted[0] if quoted else (answer.split() or [""])[-1]


def text(answer: str) -> str:
    return answer


READERS: dict[str, Callable[[str], str]] = {
    "name": named,
    "at": named,
    "chinese": named,
    "kind": kind,
    "count": count,
    "where": where,
    "present": present,
    "which": which,
    "word": word,
    "text": text,
    "label": text,
}
