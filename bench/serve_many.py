"""Tokens per second of 16 requests at once, mixed lengths, some with pictures: against transformers, one by one and its own
continuous batching."""

# V vocabulary
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import ContinuousBatchingConfig
from transformers.generation import GenerationConfig

import scops
from bench import peers
from bench.decode import SIZE
from bench.llava_peer import asked, endless, inputs_of, llava, peer_of, picture
from bench.pair import Pair, Settings, Skip, interleave, run, timed
from bench.peers import TOLERANCE, prompt
from scops.core.batch import Example
from scops.data.processor import Processor
from scops.encoders.vit import VitSpec
from scops.generate.desk import Desk
from scops.generate.sampler import Sampling
from scops.model import Model
from scops.models.decoder import MultimodalDecoder

REQUESTS = 16
WORDS, REPLIES = (16, 192), (16, 48)
EVEN = 32
"""Tokens of a reply where the peer gives all the same."""
EYES = VitSpec(dim=384, hidden=1536, layers=12, heads=6, image=112)
"""A small tower: 64 tokens a picture."""
PICTURES = 3
"""Different ones; every second request shows one."""


@dataclass(frozen=True)
class Work:
    """What is asked, and how many tokens each answer has."""

    examples: Sequence[Example]
    limits: Sequence[int]

    @property
    def tokens(self) -> int:
        """That are written."""
        return sum(self.limits)


def work(model: Model, eyes: VitSpec | None, *, even: bool, requests: int = REQUESTS) -> Work:
    """eyes: every second request shows a picture; None: words alone. even: all replies have the same length."""
    dice, examples = np.random.default_rng(0), []
    for number in range(requests):
        words = prompt(model, int(dice.integers(*WORDS)) + number)[number:]
        shown = picture(number % PICTURES, eyes) if eyes is not None and number % 2 else None
        examples.append(asked(words[:4], shown, words[4:], eyes or EYES))
    return Work(examples, [EVEN if even else int(dice.integers(*REPLIES)) for _ in range(requests)])


@dataclass(frozen=True)
class Written:
    """Replies, and how sure of each token its writer was.

    Args:
        logprobs: of the tokens; gaps: to the second best.
    """

    ids: list[list[int]]
    logprobs: list[list[float]]
    gaps: list[list[float]]


def ours(system: MultimodalDecoder, processor: Processor, asked: Work, *, sure: bool = False) -> Written:
    """A new desk, so that nothing is known from before."""
    pages = sum(-(-(len(e) + n) // 16) for e, n in zip(asked.examples, asked.limits, strict=True))
    desk = Desk(system, processor, tokens=16 * pages, rows=len(asked.examples))
    top = 2 if sure else None
    some = [
        desk.enter(example, Sampling(), limit=limit, logprobs=top)
        for example, limit in zip(asked.examples, asked.limits, strict=True)
    ]
    told = [ticket.answer().logprobs for ticket in some]
    return Written(
        [ticket.request.ids for ticket in some],
        [[one.logprob for one in row] for row in told],
        [[one.top[0][1] - one.top[1][1] for one in row] for row in told],
    )


@torch.no_grad()
def one_by_one(peer: nn.Module, asked: Work, dtype: torch.dtype) -> Written:
    """transformers' generate as it comes, a request after the other."""
    ids, logprobs, gaps = [], [], []
    for example, limit in zip(asked.examples, asked.limits, strict=True):
        inputs = inputs_of(example, dtype)
        wanted = GenerationConfig(do_sample=False, max_new_tokens=limit, eos_token_id=None, pad_token_id=0)
        wanted.return_dict_in_generate = wanted.output_logits = True
        found = peer.generate(**inputs, generation_config=wanted)
        best_TV = torch.cat(found.logits).float().log_softmax(-1).topk(2).values
        ids.append(found.sequences[0, inputs["input_ids"].shape[1] :].tolist())
        logprobs.append(best_TV[:, 0].tolist())
        gaps.append((best_TV[:, 0] - best_TV[:, 1]).tolist())
    return Written(ids, logprobs, gaps)


def together(peer: nn.Module, asked: Work) -> Written:
    """transformers' own continuous batching, with room for all."""
    size = 256
    pages = sum(-(-(len(e) + n) // size) for e, n in zip(asked.examples, asked.limits, strict=True))
    wanted = GenerationConfig(do_sample=False, max_new_tokens=asked.limits[0], eos_token_id=-1, pad_token_id=0)
    room = ContinuousBatchingConfig(page_size=size, num_blocks=pages + 1, max_batch_tokens=512)
    found = peer.generate_batch(
        [example.ids_T.tolist() for example in asked.examples],
        generation_config=wanted, continuous_batching_config=room, progress_bar=False, warmup=False,
    )  # fmt: skip
    replies = [found[f"req_{at}"].generated_tokens for at in range(len(asked.examples))]
    return Written(replies, [], [])


def check(mine: Written, other: Written, dtype: torch.dtype) -> str:
    """Words are the same; where they part, the best two scored alike. Their log-probabilities are equal until then.

    Raises:
        ValueError: they are not.
    """
    allowed, same, worst = 20 * TOLERANCE[dtype], 0, 0.0  # scores are some tens large, and tolerances shares of that
    for row, (a, b) in enumerate(zip(mine.ids, other.ids, strict=True)):
        if len(a) != len(b):
            raise ValueError(f"request {row}: ours has {len(a)} tokens, theirs {len(b)}")
        count = next((n for n in range(len(a)) if a[n] != b[n]), len(a))
        if count < len(a) and mine.gaps[row][count] > allowed:
            raise ValueError(f"request {row}: token {count} differs, though ours was {mine.gaps[row][count]:.2g} surer")
        if other.logprobs:
            differ = np.abs(np.subtract(mine.logprobs[row][:count], other.logprobs[row][:count])).max(initial=0.0)
            if differ > allowed:
                raise ValueError(f"request {row}: log-probabilities differ by {differ:.2g}; {allowed:.2g} is allowed")
            worst = max(worst, float(differ))
        same += count
    told = f", log-probabilities differ by {worst:.1e} at most" if other.logprobs else ""
    return f"{same} of {sum(map(len, mine.ids))} tokens equal{told}"


def measure(settings: Settings) -> Iterator[Pair | Skip]:
    yield Skip("continuous batching of transformers with pictures", "its generate_batch takes token ids alone")
    for dtype in (torch.float32, torch.bfloat16):
        model = scops.load(SIZE, dtype=dtype)
        yield with_pictures(model, settings)
        yield against_batching(model, settings)


def with_pictures(model: Model, settings: Settings, *, eyes: VitSpec = EYES, requests: int = REQUESTS) -> Pair:
    system, processor, dtype = llava(model, eyes), endless(model), model.dtype
    peer, wanted = peer_of(system, model, eyes), work(model, eyes, even=False, requests=requests)
    checked = check(ours(system, processor, wanted, sure=True), one_by_one(peer, wanted, dtype), dtype)
    mine, other = timed(lambda: ours(system, processor, wanted)), timed(lambda: one_by_one(peer, wanted, dtype))
    seconds = interleave(mine, other, settings.rounds)
    return Pair(
        _case(requests, "half of them with pictures", dtype), "transformers one by one",
        "tokens", wanted.tokens, checked, seconds,
    )  # fmt: skip


def against_batching(model: Model, settings: Settings, *, requests: int = REQUESTS) -> Pair | Skip:
    system, processor, dtype = model.module, endless(model), model.dtype
    peer, wanted = peers.peer_of(model), work(model, None, even=True, requests=requests)
    case = _case(requests, "words alone", dtype)
    try:
        theirs = together(peer, wanted)
    except (RuntimeError, ImportError, KeyError) as error:
        return Skip(case, f"continuous batching of transformers does not run here: {error}")
    checked = check(ours(system, processor, wanted, sure=True), theirs, dtype)
    mine, other = timed(lambda: ours(system, processor, wanted)), timed(lambda: together(peer, wanted))
    seconds = interleave(mine, other, settings.rounds)
    return Pair(case, "transformers' continuous batching", "tokens", wanted.tokens, checked, seconds)


def _case(requests: int, what: str, dtype: torch.dtype) -> str:
    return f"{requests} requests, {what}, {str(dtype).removeprefix('torch.')}"


if __name__ == "__main__":
    run("serve_many", measure, rounds=3)
