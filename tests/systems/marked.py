"""What the tests of Flamingo's relatives share: rows of ids among which one id marks a picture that stands beside the text."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scops.core.batch import Example
from scops.core.layout import WHOLE
from tests.conftest import batch_of, example

SIDE = 8


def picture(name: str) -> Tensor:
    return 2 * torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(ord(name)))


def prompt(mark: int, *parts: int | str) -> Example:
    """Numbers are ids; a word is an item, each letter a picture of it."""
    ids = [mark if isinstance(part, str) else part for part in parts]
    spans = tuple((at, 0, (WHOLE,) * len(part)) for at, part in enumerate(parts) if isinstance(part, str))
    shown = tuple("".join(part for part in parts if isinstance(part, str)))
    return replace(example(ids, spans, [picture(name) for name in shown]), digests={"image": shown} if shown else {})


def prompts(mark: int) -> dict[str, Example]:
    """With pictures anywhere; two begin alike."""
    parts = {
        "none": (1, 2, 3, 4, 5),
        "first": ("a", 5, 6, 7),
        "last": (1, 9, 8, 7, "b"),
        "adjacent": (1, 3, "a", "b", "a", 4),
        "several": (1, "c", 2, 3, "a", 4, "b", 8, 9, 10),
        "begins alike": (1, "c", 2, 3, "b", 4),
        "alone": ("b",),
    }
    return {name: prompt(mark, *some) for name, some in parts.items()}


def other_counts_are_refused(system: Any, one: Example) -> bool:
    """Of pictures, than the marks of a row."""
    for count in (len(one.spans) - 1, len(one.spans) + 1):
        wrong = replace(batch_of(one), media={"image": torch.stack([picture("a")] * count)}, tiles={})
        message = f"marks the places of {len(one.spans)} items of 'image', but there are {count}"
        with pytest.raises(ValueError, match=message):
            system(wrong)
    return True
