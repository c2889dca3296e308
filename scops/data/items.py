"""One item of media on its way to numbers: what stands for it in the prompt, its digests, and its prepared pictures."""

# I prepared pictures, C channels
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from scops.core.layout import WHOLE, Arranged, ClipLayout, Cut, MediaLayout, Place, Slot
from scops.core.sample import Media, Sample
from scops.data import video
from scops.data.image import Source, decode, digests, measure, prepare
from scops.data.source import Stored
from scops.data.tiling import tiles

CHANNELS = 3


@dataclass(frozen=True)
class Picture:
    """A picture as its layout cuts it."""

    source: Source
    name: str
    layout: MediaLayout
    cut: Cut

    def pieces(self) -> Sequence[Arranged]:
        return checked(self.layout.arrange(self.cut), self.cut.places, self.name)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of `pictures`."""
        return len(self.cut), CHANNELS, self.layout.pixels.height, self.layout.pixels.width

    def digests(self) -> tuple[str, ...]:
        return digests(self.source, self.layout.pixels, self.cut, self.name)

    def pictures(self) -> np.ndarray:
        """(I, C, height, width)"""
        return tiles(self.unpack(), self.layout.pixels, self.cut, name=self.name)

    def unpack(self) -> Image.Image:
        return decode(self.source, self.name)


@dataclass(frozen=True)
class Frames:
    """A video as its layout looks at it.

    Args:
        numbers: of the frames, chosen before anything is decoded.
        fps: of the video.
    """

    source: Stored
    name: str
    layout: ClipLayout
    numbers: tuple[int, ...]
    fps: float

    def pieces(self) -> Sequence[Arranged]:
        times = tuple(number / self.fps for number in self.numbers)
        return checked(self.layout.arrange(times), (WHOLE,) * len(times), self.name)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of `pictures`."""
        return len(self.numbers), CHANNELS, self.layout.pixels.height, self.layout.pixels.width

    def digests(self) -> tuple[str, ...]:
        return video.digests(self.source, self.numbers, self.layout.pixels, self.name)

    def pictures(self) -> np.ndarray:
        """(I, C, height, width)"""
        return np.stack([prepare(frame, self.layout.pixels, name=self.name) for frame in self.unpack()])

    def unpack(self) -> list[Image.Image]:
        return video.frames(self.source, self.numbers, self.name)


Item = Picture | Frames


def item_of(media: Media, sample: Sample, layout: MediaLayout | ClipLayout) -> Item:
    """Of pictures only the header is read, of videos the container.

    Args:
        sample: the one that the media are in.
    """
    name = media.name or sample.name
    if isinstance(layout, ClipLayout):
        found = video.facts(media.source, name)
        numbers = tuple(layout.frames(found.count, found.fps))
        if not numbers or any(not 0 <= number < found.count for number in numbers):
            raise ValueError(f"{name}: of {found.count} frames the layout chose {numbers}")
        return Frames(media.source, name, layout, numbers, found.fps)
    height, width = measure(media.source, name)
    alone = sum(other.kind == media.kind for other in sample.media) == 1
    return Picture(media.source, name, layout, layout.cut_of(height, width, alone=alone))


def checked(pieces: Sequence[Arranged], places: Sequence[Place], name: str) -> Sequence[Arranged]:
    """The pieces, if their slots take exactly the pictures that are made, all for one input of the model."""
    slots = [piece for piece in pieces if isinstance(piece, Slot)]
    if [place for slot in slots for place in slot.places] != list(places) or len({slot.kind for slot in slots}) != 1:
        raise ValueError(f"{name}: pictures are made for the places {tuple(places)}, but the layout has slots {slots}")
    return pieces
