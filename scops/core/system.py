"""What training and generation may ask of a system."""

# B rows, T tokens, D width, V vocabulary, M media items, Q tokens per item
from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from scops.core.batch import Batch
from scops.core.session import Session, SharedSession


class Decoder(Protocol):
    """A system that reads media and text and writes text. It is also an nn.Module."""

    def parameters(self) -> Iterator[Tensor]:
        """As every nn.Module: where and in which dtype the system is."""
        ...

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """By kind, the encoder's features (M, P, D); frozen encoders let these be kept instead of pixels."""
        ...

    def connect(self, batch: Batch) -> dict[str, Any]:
        """By kind, media as tokens of the language model (M, Q, D), or (Q, D) of each where items differ in length."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings, ids.shape + (D,)."""
        ...

    def hidden(self, batch: Batch) -> Tensor:
        """(B, T, D) before the language head."""
        ...

    def head(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        ...

    def __call__(self, batch: Batch) -> Tensor:
        """(B, T, V)."""
        ...

    def session(self, batch: Batch, capacity: int) -> Session:
        """A cached conversation of at most `capacity` tokens per row."""
        ...

    def shared(self, tokens: int, *, page: int, media_bytes: int) -> SharedSession:
        """Many conversations that come and go in a memory of so many tokens together, in pages.

        Args:
            page: tokens per page; a beginning is shared in whole pages.
            media_bytes: how much of what the connectors made is kept, so that a picture asked about again is encoded once.
        """
        ...

    def token_bytes(self) -> int:
        """What a session keeps of one token, in bytes."""
        ...
