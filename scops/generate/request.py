"""One answer on its way: what is still to come of it, what has come, and why it ended."""

# V vocabulary
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from scops.generate.sampler import Sampler
from scops.generate.text import Piece, Words


@dataclass(frozen=True)
class Logprob:
    """How likely one token of a reply was, before any sampling: no temperature, no bias, nothing left out.

    Args:
        top: the most likely tokens in its place with theirs, best first.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def logprob(logits_V: Tensor, token: int, top: int) -> Logprob:
    logprobs_V = logits_V.float().log_softmax(-1)
    best = logprobs_V.topk(min(top, len(logprobs_V)))
    likely = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Logprob(token, logprobs_V[token].item(), likely)


class Request:
    """What one conversation wants of a scheduler, and what it got.

    Args:
        sampler: of one row.
        stops: token ids that end it.
        limit: the most tokens of the reply.
        logprobs: how many likely tokens to tell at each place; None tells nothing.
        name: for errors.
    """

    def __init__(
        self,
        *,
        sampler: Sampler,
        words: Words,
        stops: Collection[int],
        limit: int,
        logprobs: int | None = None,
        name: str = "",
    ):
        if limit < 1:
            raise ValueError(f"generate: the limit is at least 1 token, not {limit}")
        if logprobs is not None and logprobs < 0:
            raise ValueError(f"generate: logprobs tells 0 or more likely tokens, not {logprobs}")
        self.sampler, self.words, self.stops = sampler, words, frozenset(stops)
        self.limit, self.logprobs, self.name = limit, logprobs, name
        self.ids: list[int] = []
        self.likely: list[Logprob] = []
        self.pieces: deque[Piece] = deque()
        self.ended: str | None = None
        self.error: Exception | None = None
        self.cancelled = False

    @property
    def done(self) -> bool:
        return self.ended is not None

    @property
    def news(self) -> bool:
        """There is something to take, or nothing will come any more."""
        return bool(self.pieces) or self.done

    def choose(self, logits_V: Tensor) -> int:
        """The next token; with it the request may be done."""
        token = int(self.sampler(logits_V[None], [0]))
        if self.logprobs is not None:
            self.likely.append(logprob(logits_V, token, self.logprobs))
        self.ids.append(token)
        if token in self.stops or self.words.push(token):
            self.end("stop")
        elif len(self.ids) == self.limit:
            self.end("length")
        elif text := self.words.new():
            self.pieces.append(Piece(0, text, None, len(self.ids)))
        return token

    def end(self, why: str) -> None:
        """Its last words; who sees that it has ended, perhaps in another thread, finds them."""
        self.pieces.append(Piece(0, self.words.new() + self.words.close(), why, len(self.ids)))
        self.ended = why

    def fail(self, error: Exception) -> None:
        """It ends with an error of its own."""
        self.error, self.ended = error, "error"
