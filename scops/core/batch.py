"""What travels from the processor to a system: Example (one row, numpy) and Batch (many rows, tensors).

Everything that needs counting is counted here on the CPU, so that the device never has to answer a question.
"""

# B rows, T tokens, M media items of all rows in reading order, I prepared pictures that they are made of,
# R selected flat positions (row * T + token)
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scops.core.layout import WHOLE, Place

Extent = tuple[int, int] | None


@dataclass(frozen=True)
class Span:
    """Where one item's tokens stand in an example.

    Args:
        length: 0 for an item beside the sequence, which begins where its mark does.
        places: of the prepared pictures that make the item.
        extent: as in Slot.
    """

    kind: str
    start: int
    length: int
    places: tuple[Place, ...] = (WHOLE,)
    extent: Extent = None


@dataclass(frozen=True)
class Example:
    """One conversation as numbers.

    Args:
        ids_T: token ids; at media positions the id has no meaning.
        learn_T: True where the token is to be predicted.
        media: by kind, prepared pictures (C, height, width) float32 in reading order.
            Usually one makes an item; spans with several places take as many.
        digests: by kind, a full content digest per prepared picture (pixels and preparation).
        reply: where the last assistant's turn begins; None where the template opens it with words, which may share
            tokens with what stands before them.
        words: by kind, ids per prepared picture of what the connector reads with it; a kind without words is not named.
    """

    ids_T: np.ndarray
    learn_T: np.ndarray
    spans: tuple[Span, ...] = ()
    media: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)
    digests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    name: str = ""
    dataset: str = ""
    reply: int | None = None
    words: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids_T)

    def items(self) -> Iterator[tuple[Span, slice]]:
        """Each span in reading order, and which of its kind's prepared pictures (`media`, `digests`, `words`) make it."""
        met: dict[str, int] = {}
        for span in self.spans:
            first = met.get(span.kind, 0)
            met[span.kind] = first + len(span.places)
            yield span, slice(first, met[span.kind])


@dataclass(frozen=True)
class Where:
    """Where one kind of media stands in a batch.

    Args:
        index_R: flat positions of all media tokens, items in reading order.
        row_M, start_M, length_M: the same per item, on the host.
    """

    index_R: Tensor
    row_M: tuple[int, ...]
    start_M: tuple[int, ...]
    length_M: tuple[int, ...]


@dataclass(frozen=True)
class Words:
    """What a connector reads with prepared pictures.

    Args:
        ids_IT: of the connector's own tokenizer, padded on the right.
        real_IT: bool, which of them are no padding.
        length_I: how many those are, on the host; () where nobody counted them.
    """

    ids_IT: Tensor
    real_IT: Tensor
    length_I: tuple[int, ...] = ()

    @classmethod
    def of(cls, ids: Sequence[np.ndarray], device: torch.device | str = "cpu") -> "Words":
        lengths = tuple(map(len, ids))
        ids_IT, real_IT = (np.zeros((len(ids), max(lengths)), kind) for kind in (np.int64, np.bool_))
        for row, ids_T in enumerate(ids):
            ids_IT[row, : len(ids_T)], real_IT[row, : len(ids_T)] = ids_T, True
        return cls(torch.from_numpy(ids_IT).to(device), torch.from_numpy(real_IT).to(device), lengths)


@dataclass(frozen=True)
class Tiles:
    """Which prepared pictures make which item of one kind.

    Args:
        count_M: pictures per item, on the host.
        place_I2: row and column of each in its grid, -1 and -1 for one that is no tile.
        grid_M: rows and columns of each item's tiles, on the host; (0, 0) where it has none.
        extent_M: of each item, as in Slot, on the host.
        words: None where the connector reads none.
    """

    count_M: tuple[int, ...]
    place_I2: Tensor
    grid_M: tuple[tuple[int, int], ...]
    extent_M: tuple[Extent, ...] = ()
    words: Words | None = None

    @classmethod
    def of(
        cls,
        places: Sequence[Sequence[Place]],
        device: torch.device | str = "cpu",
        *,
        extents: Sequence[Extent] = (),
        words: Sequence[np.ndarray] = (),
    ) -> "Tiles":
        """From the places of each item's pictures.

        Args:
            extents: of each item; () where all show their whole grids.
            words: ids for each picture, or none.
        """
        flat = [place for item in places for place in item]
        place_I2 = torch.tensor(flat, dtype=torch.long, device=device).view(-1, 2)
        told = Words.of(words, device) if len(words) else None
        grids = tuple((1 + max(row for row, _ in item), 1 + max(column for _, column in item)) for item in places)
        return cls(tuple(map(len, places)), place_I2, grids, tuple(extents) or (None,) * len(places), told)


@dataclass(frozen=True)
class Route:
    """Tokens sorted by expert: index[e] holds the flat positions that expert e treats; inverse_R puts them back in order."""

    index: tuple[Tensor, ...]
    inverse_R: Tensor


@dataclass(frozen=True)
class Targets:
    """Supervised predictions only: at flat position index_R the next token is ids_R; so many per row, on the host."""

    index_R: Tensor
    ids_R: Tensor
    count_B: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, padded on the right.

    Args:
        positions_BT: position of each token within its own document.
        lengths: tokens of each row that are not padding, on the host.
        documents: per row, where its documents start (packing); every row is one document when all are (0,).
        tiles: by kind, which pictures make which item; a kind that is not named has one whole picture per item.
        media: by kind, prepared pictures of all rows (I, C, height, width).
        features: by kind, what the encoder made of them (I, P, D), when that is known already.
        opened: tokens of each row when its conversation was opened, where that is not `lengths`: in a batch that brings a
            part of it, or what was written since.
        connected: by kind, what the connector made (R, D), when that is known already: a row for each of
            `where.index_R`, also where a batch brings only a part of an item; of items beside the sequence (M, Q, D).
        replies: where the last assistant's turn of each row begins, on the host; empty when not known of all, or packed.
    """

    ids_BT: Tensor
    positions_BT: Tensor
    lengths: tuple[int, ...]
    documents: tuple[tuple[int, ...], ...]
    where: Mapping[str, Where] = field(default_factory=dict)
    route: Route | None = None
    targets: Targets | None = None
    tiles: Mapping[str, Tiles] = field(default_factory=dict)
    media: Mapping[str, Tensor] = field(default_factory=dict)
    features: Mapping[str, Tensor] = field(default_factory=dict)
    connected: Mapping[str, Tensor] = field(default_factory=dict)
    digests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    opened: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    replies: tuple[int, ...] = ()

    @property
    def packed(self) -> bool:
        return any(len(starts) > 1 for starts in self.documents)

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return sum(self.lengths)

    @property
    def opened_BT(self) -> np.ndarray:
        """For each token the tokens of its document when that was opened; padding belongs to the last document."""
        made_BT = np.empty(self.ids_BT.shape, np.int64)
        for row, (starts, length) in enumerate(zip(self.documents, self.lengths, strict=True)):
            for start, end in zip(starts, (*starts[1:], length), strict=True):
                made_BT[row, start:] = end - start
        if self.opened is not None:
            made_BT[:] = np.array(self.opened)[:, None]
        return made_BT

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with every tensor on a device; a GPU fetches them by itself, from memory that is pinned for it."""
        return replace(self, **{name: _moved(getattr(self, name), device) for name in self.__dataclass_fields__})


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        if torch.device(device).type == "cuda" and not value.is_cuda:
            value = value.pin_memory()
        return value.to(device, non_blocking=True)
    if isinstance(value, Where | Tiles | Words | Targets | Route):
        return replace(value, **{name: _moved(getattr(value, name), device) for name in value.__dataclass_fields__})
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    return value
