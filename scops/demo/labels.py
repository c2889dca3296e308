"""Every training picture with a bare label that tells all of it, the surest first: words to be read off a picture.

A label begins with a space, so that its words are cut as they are within a sentence.
"""

from collections.abc import Iterator, Sequence

from scops.demo.row import Row
from scops.demo.scenes import Scene
from scops.demo.singles import Shown
from scops.demo.wording import KINDS, LABEL_REQUEST, NUMBERS


def label_rows(
    shown: Sequence[Shown], scenes: Sequence[tuple[str, Scene]], words: Sequence[tuple[str, str]]
) -> Iterator[Row]:
    """Single things, then scenes, then written words, each with the path of its picture."""
    for path, concept in shown:
        yield label_row(path, f" {KINDS[concept.kind]}: {concept.name}", (concept.code,))
    for path, scene in scenes:
        yield label_row(path, scene_label(scene), tuple(dict.fromkeys(concept.code for concept, _ in scene.things)))
    for path, word in words:
        yield label_row(path, f" word: {word}")


def scene_label(scene: Scene) -> str:
    """ " two things: owl top left, hat right" """
    several = len(scene.cells)
    things = [f" {concept.name} {bare(place)}" for (concept, _), place in zip(scene.things, scene.places, strict=True)]
    return f" {NUMBERS[several]} thing{'s' if several > 1 else ''}:{','.join(things)}"


def bare(place: str) -> str:
    """ "at the top left" -> "top left" """
    return place.partition(" the ")[2]


def label_row(path: str, label: str, about: tuple[str, ...] = ()) -> Row:
    return Row(f"label/{path}", "train", "label", {"label": label}, ((LABEL_REQUEST, label),), (path,), about)
