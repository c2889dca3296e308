"""What was made of media, by content, so that a picture asked about again is encoded once."""

# I pictures of an item, C channels, Q tokens per item, D width, K key heads, H head width
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scops.core.batch import Batch, Example, Extent, Tiles
from scops.core.layout import WHOLE, Place

PLAIN = ((WHOLE,), None, ())
"""Places, extent and words of an item that is one whole picture."""
GROUP = 4
"""Pictures encoded at once: more gain nothing on a CPU and need more memory."""


@dataclass(frozen=True, eq=False)
class Item:
    """One item of an example and where its tokens stand.

    Args:
        digest: of its content and preparation, in full.
        pixels: (I, C, height, width); None when the example came without.
        places: of its pictures.
        extent: as in Slot; words: as in Example.
    """

    kind: str
    digest: str
    start: int
    length: int
    pixels: np.ndarray | None
    places: tuple[Place, ...] = (WHOLE,)
    extent: Extent = None
    words: tuple[np.ndarray, ...] = ()

    @property
    def end(self) -> int:
        return self.start + self.length


def items_of(example: Example) -> tuple[Item, ...]:
    """In reading order; pictures without a digest get one of their pixels."""
    items = []
    for span, here in example.items():
        media, digests = example.media.get(span.kind, ())[here], example.digests.get(span.kind, ())[here]
        if not media and not digests:
            raise ValueError(f"{example.name}: {span} has neither pixels nor a digest")
        pixels, words = np.stack(media) if media else None, example.words.get(span.kind, ())[here]
        found = digests or [_digest(picture) for picture in media]
        told = span.places, span.extent, tuple(ids_T.tobytes() for ids_T in words)
        digest = found[0] if told == PLAIN else hashlib.sha256(repr((tuple(found), told)).encode()).hexdigest()
        items.append(Item(span.kind, digest, span.start, span.length, pixels, span.places, span.extent, words))
    return tuple(items)


def _digest(pixels: np.ndarray) -> str:
    head = repr((pixels.dtype.str, pixels.shape)).encode()
    return hashlib.sha256(head + np.ascontiguousarray(pixels).tobytes()).hexdigest()


Kept = tuple[Tensor, ...]
"""What is kept of one item: its tokens (Q, D), or beside the sequence keys and values (K, Q, H) of all who ask."""


class Encoded:
    """What is kept of items, by kind and digest; those not asked for the longest go when there are too many bytes.

    Args:
        make: a decoder's own, of a batch with media, by kind and item.
    """

    def __init__(self, make: Callable[[Batch], Mapping[str, Sequence[Kept]]], most_bytes: int):
        self.make, self.most_bytes, self.bytes = make, most_bytes, 0
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()

    def __call__(self, items: Sequence[Item], like: Tensor) -> list[Kept]:
        """Of each item; equal ones and those known are not encoded again.

        Args:
            like: pixels go to its device and dtype.
        """
        found: dict[tuple[str, str], Kept] = {}
        new: dict[tuple[str, tuple[int, ...]], dict[str, tuple[Item, np.ndarray]]] = {}
        for item in items:
            key = item.kind, item.digest
            if key in self._kept:
                self._kept.move_to_end(key)
                found[key] = self._kept[key]
            elif item.pixels is None:
                raise ValueError(f"{item.kind} {item.digest} came without pixels, and it is not kept any more")
            else:
                new.setdefault((item.kind, item.pixels.shape), {})[item.digest] = item, item.pixels
        for (kind, _), group in new.items():
            digests = [*group]
            for some in (digests[start : start + GROUP] for start in range(0, len(digests), GROUP)):
                for digest, made in zip(some, self._made(kind, [group[d] for d in some], like), strict=True):
                    found[kind, digest] = made
                    self._keep((kind, digest), made)
        return [found[item.kind, item.digest] for item in items]

    def _made(self, kind: str, items: Sequence[tuple[Item, np.ndarray]], like: Tensor) -> list[Kept]:
        pixels_ICHW = torch.from_numpy(np.concatenate([pixels for _, pixels in items])).to(like)
        tiles = Tiles.of(
            [item.places for item, _ in items], like.device, extents=[item.extent for item, _ in items],
            words=[ids_T for item, _ in items for ids_T in item.words],
        )  # fmt: skip
        nothing_11 = torch.zeros(1, 1, dtype=torch.long, device=like.device)
        batch = Batch(nothing_11, nothing_11, (1,), ((0,),), tiles={kind: tiles}, media={kind: pixels_ICHW})
        return [tuple(x.clone() for x in made) for made in self.make(batch)[kind]]  # of its own, to be let go alone

    def _keep(self, key: tuple[str, str], made: Kept) -> None:
        if _bytes(made) > self.most_bytes:
            return
        self._kept[key] = made
        self.bytes += _bytes(made)
        while self.bytes > self.most_bytes:
            _, gone = self._kept.popitem(last=False)
            self.bytes -= _bytes(gone)


def _bytes(made: Kept) -> int:
    return sum(x.nbytes for x in made)
