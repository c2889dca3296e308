"""Tokens per second of greedy decoding, one row, after the prompt is read: SmolLM2-135M-Instruct against transformers."""

# N new tokens, V vocabulary
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn
from transformers.generation import BaseStreamer, GenerationConfig

import scops
from bench import llama_cpp_peer
from bench.llama_cpp_peer import LlamaCpp
from bench.pair import Pair, Settings, Skip, interleave, run
from bench.peers import TOLERANCE, batch_of, compare, peer_of, prompt
from scops.core.batch import Batch
from scops.core.system import Decoder
from scops.generate.engine import tokens
from scops.generate.sampler import Sampler, Sampling
from scops.model import Model

SIZE, PACKAGE = "smollm2-135m-instruct", "smollm2-135m"
CONTEXTS = (64, 512, 2048)
NEW = 32


@dataclass(frozen=True)
class Written:
    """What greedy decoding wrote.

    Args:
        scores_NV: from which each was chosen.
        seconds: from the first new token to the last, so that reading the prompt does not count.
    """

    ids: list[int]
    scores_NV: Tensor
    seconds: float


@torch.no_grad()
def ours(system: Decoder, asked: Batch, new: int) -> Written:
    """scops.generate's engine on a cached session of one row."""
    session = system.session(asked, asked.ids_BT.shape[1] + new)
    written, scores, at = [], [], []
    for step in tokens(session, stops=(), limit=new, sampler=Sampler(Sampling(), rows=1)):
        at.append(perf_counter())
        written.append(step[0].id)
        scores.append(session.logits_BV[0])
    return Written(written, torch.stack(scores), at[-1] - at[0])


class Clock(BaseStreamer):
    """When transformers' generate gave out each piece; the first is the prompt."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def put(self, value: Tensor) -> None:
        self.at.append(perf_counter())

    def end(self) -> None:
        pass


@torch.no_grad()
def theirs(peer: nn.Module, asked: Mapping[str, Tensor], new: int) -> Written:
    """transformers' generate as it comes: greedy, its own cache."""
    clock, length = Clock(), asked["input_ids"].shape[1]
    options = GenerationConfig(
        do_sample=False, max_new_tokens=new, min_new_tokens=new, pad_token_id=0, output_logits=True
    )
    options.return_dict_in_generate = True
    found = peer.generate(**asked, generation_config=options, streamer=clock)
    return Written(found.sequences[0, length:].tolist(), torch.cat(found.logits), clock.at[-1] - clock.at[1])


def of_words(ids: list[int]) -> dict[str, Tensor]:
    """What transformers' is asked with words alone."""
    ids_1T = torch.tensor([ids])
    return {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}


def of_llama_cpp(peer: LlamaCpp, ids: list[int], new: int) -> Written:
    scores, at = [peer.read(ids)], [perf_counter()]
    written = [int(scores[0].argmax())]
    while len(written) < new:
        scores.append(peer.step(written[-1:]))
        written.append(int(scores[-1].argmax()))
        at.append(perf_counter())
    return Written(written, torch.stack(scores), at[-1] - at[0])


def check(mine: Written, other: Written, *, tolerance: Mapping[torch.dtype, float] = TOLERANCE) -> str:
    """Scores are equal within the tolerance as long as the words are; words may part only where two scores are so close.

    Raises:
        ValueError: they are not.
    """
    count = len(mine.ids)
    same = next((n for n in range(count) if mine.ids[n] != other.ids[n]), count)
    read = min(same + 1, count)  # the scores from which different words were chosen still have the same past
    share = compare(mine.scores_NV[:read], other.scores_NV[:read], f"scores of {read} tokens", tolerance=tolerance)
    return f"{same} of {count} tokens equal, scores differ by {share:.1e} at most"


def check_model(model: Model, *, context: int, new: int) -> str:
    """scops and transformers write the same."""
    ids = prompt(model, context)
    return check(ours(model.module, batch_of(ids), new), theirs(peer_of(model), of_words(ids), new))


def measure(settings: Settings) -> Iterator[Pair | Skip]:
    if not llama_cpp_peer.is_here():
        yield Skip(llama_cpp_peer.PEER, llama_cpp_peer.MISSING)
    exact, brief = (scops.load(SIZE, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    peers = {"float32": peer_of(exact), "bfloat16": peer_of(brief)}
    for context in CONTEXTS:
        yield against_transformers(exact, peers, "float32", context, settings)
        for form in peers:
            yield against_transformers(brief, peers, form, context, settings)
    if llama_cpp_peer.is_here():
        small = [scops.load(SIZE, dtype=torch.bfloat16, quantise=kind) for kind in ("int8", "int4")]
        for context in CONTEXTS:
            for model in (brief, *small):
                yield against_llama_cpp(model, context, settings)


def against_transformers(
    model: Model, peers: Mapping[str, nn.Module], form: str, context: int, settings: Settings
) -> Pair:
    ids = prompt(model, context)
    mine = lambda: ours(model.module, batch_of(ids), NEW)
    other = lambda: theirs(peers[form], of_words(ids), NEW)
    checked = check(mine(), other())
    seconds = interleave(lambda: mine().seconds, lambda: other().seconds, settings.rounds)
    return Pair(_case(model, context), f"transformers generate, {form}", "tokens", NEW - 1, checked, seconds)


def against_llama_cpp(model: Model, context: int, settings: Settings) -> Pair:
    ids, capacity = prompt(model, context), context + NEW
    tolerance = llama_cpp_peer.QUANTISED_TOLERANCE if model.quantised else llama_cpp_peer.TOLERANCE
    with llama_cpp_peer.opened(PACKAGE, form_of(model), capacity=capacity, threads=settings.threads) as peer:
        mine, other = lambda: ours(model.module, batch_of(ids), NEW), lambda: of_llama_cpp(peer, ids, NEW)
        written = other()
        checked = check(mine(), written, tolerance=tolerance)
        seconds = interleave(lambda: mine().seconds, lambda: other().seconds, settings.rounds)
    name = f"{llama_cpp_peer.PEER} {llama_cpp_peer.FORMS[form_of(model)].rpartition('MOSTLY_')[2]}"
    return Pair(_case(model, context), name, "tokens", NEW - 1, checked, seconds)


def _case(model: Model, context: int) -> str:
    return f"greedy after {context} tokens, {form_of(model)}"


def form_of(model: Model) -> str:
    """Of the language model's weights."""
    return model.quantised.get("language", str(model.dtype).removeprefix("torch."))


if __name__ == "__main__":
    run("decode", measure, rounds=5)
