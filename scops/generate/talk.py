"""Samples in, words out: prompt, session, sampling and text of any system with a layout."""

# B rows
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from scops.core.batch import Batch, Example
from scops.core.sample import Sample
from scops.core.system import Decoder
from scops.data.collate import pad
from scops.data.processor import Processor
from scops.generate.request import Logprob
from scops.generate.sampler import Sampler, Sampling
from scops.generate.text import Piece, Words, stream

MAX_TOKENS = 256


@dataclass(frozen=True)
class Answer:
    """What a model said to one conversation.

    Args:
        ended: "stop" or "length".
        tokens: of the reply, the stop token included.
        prompt: ids of the question, media positions included.
        logprobs: of each token, when asked for.
    """

    text: str
    ended: str
    tokens: int
    prompt: tuple[int, ...] = field(repr=False)
    logprobs: tuple[Logprob, ...] = field(default=(), repr=False)


def prompts(processor: Processor, samples: Sequence[Sample]) -> list[Example]:
    """The samples as numbers, each ending where the assistant begins to answer."""
    if not samples:
        raise ValueError("there is no question to answer; give at least one")
    return [processor(sample, reply=True) for sample in samples]


@torch.no_grad()
def pieces(
    system: Decoder,
    processor: Processor,
    examples: Sequence[Example],
    *,
    sampling: Sampling,
    limit: int = MAX_TOKENS,
    stops: Sequence[str] = (),
) -> Iterator[Piece]:
    """All rows together, their new text as it becomes certain; a row ends at the system's context at the latest.

    Args:
        limit: the most tokens of a reply; stops: words before which a reply ends.
    """
    tokenizer, template = processor.tokenizer, processor.layout.template
    limits = [min(limit, room(processor, example)) for example in examples]
    batch = placed(pad(examples, pad_id=tokenizer.pad_id or 0), system)
    yield from stream(
        system.session(batch, max(map(len, examples)) + max(limits)),
        words=[Words(tokenizer.stream(), stops=(*stops, *template.ends)) for _ in examples],
        stops=[tokenizer.stop_id(token) for token in template.stops],
        limit=limits,
        sampler=Sampler(sampling, rows=len(examples), prompts=[words_of(example) for example in examples]),
    )


def answers(
    system: Decoder,
    processor: Processor,
    examples: Sequence[Example],
    *,
    sampling: Sampling,
    limit: int = MAX_TOKENS,
    stops: Sequence[str] = (),
) -> list[Answer]:
    """Every row to its end."""
    found = [Answer("", "", 0, tuple(example.ids_T.tolist())) for example in examples]
    for piece in pieces(system, processor, examples, sampling=sampling, limit=limit, stops=stops):
        so_far = found[piece.row]
        found[piece.row] = replace(so_far, text=so_far.text + piece.text, ended=piece.ended or "", tokens=piece.tokens)
    return found


def room(processor: Processor, example: Example) -> int:
    """Tokens of a reply that the system's context leaves; at least 1 or a ValueError."""
    context = processor.layout.context
    if len(example) >= context:
        raise ValueError(
            f"{example.name}: the prompt fills all {context} tokens of the system's context; there is no room to answer"
        )
    return context - len(example)


def placed(batch: Batch, system: Decoder) -> Batch:
    """The batch where the system is, pictures in the system's dtype."""
    weight = next(system.parameters())
    media = {kind: items.to(weight.dtype) for kind, items in batch.media.items()}
    return replace(batch, media=media).to(weight.device)


def words_of(example: Example) -> list[int]:
    """The ids that have a meaning: those at media positions have none."""
    is_media = {at for span in example.spans for at in range(span.start, span.start + span.length)}
    return [token for at, token in enumerate(example.ids_T.tolist()) if at not in is_media]
