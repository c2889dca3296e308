"""Many conversations with one model at once: submit, stream, cancel, from any thread."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Condition
from typing import Any

from scops.core.batch import Example
from scops.core.sample import Sample
from scops.core.system import Decoder
from scops.data.messages import Ask, sample_of
from scops.data.processor import Processor
from scops.generate.request import Request
from scops.generate.sampler import Sampler, Sampling
from scops.generate.scheduler import CHUNK, ROWS, Scheduler
from scops.generate.talk import MAX_TOKENS, Answer, prompts, room, words_of
from scops.generate.text import Piece, Words

MEMORY, MEDIA = 2**30, 2**28
PAGE = 16


class Desk:
    """Keeps what it has read, so that the next question about the same picture, or behind the same system prompt, is
    answered at once. The weights must not change while it is in use.

    Nothing runs by itself: whoever waits for an answer turns the wheel for all, one thread at a time.

    Args:
        memory: bytes for keys and values of all conversations together; what does not fit waits.
        tokens: the same in tokens, in place of memory.
        rows: the most conversations that are read or written at once; chunk: the most tokens of prompts that are read
            between two steps; page: tokens per page.
        media_bytes: how much of what the connectors made of media is kept beside that.
    """

    def __init__(
        self,
        system: Decoder,
        processor: Processor,
        *,
        memory: int = MEMORY,
        tokens: int | None = None,
        rows: int = ROWS,
        chunk: int = CHUNK,
        page: int = PAGE,
        media_bytes: int = MEDIA,
    ) -> None:
        self.processor = processor
        if tokens is None:
            tokens = min(memory // system.token_bytes(), rows * (processor.layout.context + page))
        if tokens < page:
            raise ValueError(f"the memory has room for {tokens} tokens, but a page takes {page}; give more")
        self.scheduler = Scheduler(system.shared(tokens, page=page, media_bytes=media_bytes), rows=rows, chunk=chunk)
        self._turn, self._turning = Condition(), False

    def submit(
        self,
        ask: Ask,
        images: Sequence[Any] = (),
        *,
        sampling: Sampling | None = None,
        limit: int = MAX_TOKENS,
        stops: Sequence[str] = (),
        logprobs: int | None = None,
    ) -> "Ticket":
        """A place in the queue. What can be told at once is: a picture that cannot be read, a prompt that never fits.

        Args:
            ask, images: as in scops.model.Model.chat.
            limit: the most tokens of the reply; stops: words before which it ends.
            logprobs: tell how likely each token was, and as many others in its place.
        """
        (example,) = prompts(self.processor, [ask if isinstance(ask, Sample) else sample_of(ask, images)])
        return self.enter(example, sampling or Sampling(), limit=limit, stops=stops, logprobs=logprobs)

    def enter(
        self,
        example: Example,
        sampling: Sampling,
        *,
        limit: int = MAX_TOKENS,
        stops: Sequence[str] = (),
        logprobs: int | None = None,
    ) -> "Ticket":
        """As `submit`, for what is numbers already."""
        tokenizer, template = self.processor.tokenizer, self.processor.layout.template
        request = Request(
            sampler=Sampler(sampling, rows=1, prompts=[words_of(example)]),
            words=Words(tokenizer.stream(), stops=(*stops, *template.ends)),
            stops=[tokenizer.stop_id(token) for token in template.stops],
            limit=min(limit, room(self.processor, example)),
            logprobs=logprobs,
            name=example.name,
        )
        self.scheduler.submit(request, example)
        return Ticket(self, request, tuple(example.ids_T.tolist()))

    def answers(self, samples: Sequence[Sample], sampling: Sampling, **wishes: Any) -> list[Answer]:
        """Every sample to its end, in order; sample r with seed + r. Only as many are prepared as will soon be read."""
        tickets = []
        for at, sample in enumerate(samples):
            seed = sampling.seed if sampling.seed is None else sampling.seed + at
            tickets.append(self.submit(sample, sampling=replace(sampling, seed=seed), **wishes))
            self.until(lambda: self.scheduler.queued < self.scheduler.rows)
        return [ticket.answer() for ticket in tickets]

    def until(self, reached: Callable[[], bool]) -> None:
        """Turn the wheel, or wait while another thread does, until what this thread waits for is so."""
        while True:
            with self._turn:
                self._turn.wait_for(lambda: reached() or not self._turning)
                if reached():
                    return
                self._turning = True
            try:
                self.scheduler.tick()
            finally:
                with self._turn:
                    self._turning = False
                    self._turn.notify_all()


class Ticket:
    """One conversation at a desk."""

    def __init__(self, desk: Desk, request: Request, prompt: tuple[int, ...]):
        self.desk, self.request, self.prompt = desk, request, prompt

    def __iter__(self) -> Iterator[str]:
        """New words as they become certain."""
        return (piece.text for piece in self.pieces() if piece.text)

    def pieces(self) -> Iterator[Piece]:
        """The same with counts, once; the last says why the reply ended. Raises what ended it if that was an error."""
        while True:
            self.desk.until(lambda: self.request.news)
            if self.request.pieces:
                yield self.request.pieces.popleft()
            elif self.request.error is not None:
                raise self.request.error
            else:
                return

    def answer(self) -> Answer:
        """The whole reply, also when pieces of it were taken before."""
        self.desk.until(lambda: self.request.done)
        if self.request.error is not None:
            raise self.request.error
        request = self.request
        return Answer(
            request.words.text, request.ended or "", len(request.ids), self.prompt, logprobs=tuple(request.likely)
        )

    def cancel(self) -> None:
        """It ends at the next turn with what it has; the others go on."""
        self.request.cancelled = True
