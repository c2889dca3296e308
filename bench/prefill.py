"""Tokens per second of reading a prompt of one row into a cache: SmolLM2-135M-Instruct against transformers."""

# V vocabulary
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

import scops
from bench import llama_cpp_peer
from bench.decode import PACKAGE, SIZE, form_of
from bench.pair import Pair, Settings, Skip, interleave, run, timed
from bench.peers import TOLERANCE, batch_of, compare, peer_of, prompt
from scops.model import Model

LENGTHS = (64, 512, 2048)


@torch.no_grad()
def ours(model: Model, ids: list[int]) -> Tensor:
    """The next token's scores (V,) of a new session."""
    return model.module.session(batch_of(ids), len(ids)).logits_BV[0]


@torch.no_grad()
def theirs(peer: nn.Module, ids: list[int]) -> Tensor:
    """The same from a forward that fills a cache and gives the last token's scores only."""
    return peer(torch.tensor([ids]), use_cache=True, logits_to_keep=1).logits[0, -1]


def check(mine_V: Tensor, other_V: Tensor, *, tolerance: Mapping[torch.dtype, float] = TOLERANCE) -> str:
    share = compare(mine_V, other_V, "the next token's scores", tolerance=tolerance)
    return f"next token's scores differ by {share:.1e} at most"


def check_model(model: Model, *, context: int) -> str:
    """scops and transformers score the next token alike."""
    ids = prompt(model, context)
    return check(ours(model, ids), theirs(peer_of(model), ids))


def measure(settings: Settings) -> Iterator[Pair | Skip]:
    if not llama_cpp_peer.is_here():
        yield Skip(llama_cpp_peer.PEER, llama_cpp_peer.MISSING)
    for dtype in (torch.float32, torch.bfloat16):
        model = scops.load(SIZE, dtype=dtype)
        peer = peer_of(model)
        for length in LENGTHS:
            yield against_transformers(model, peer, length, settings)
            if llama_cpp_peer.is_here():
                yield against_llama_cpp(model, length, settings)


def against_transformers(model: Model, peer: nn.Module, length: int, settings: Settings) -> Pair:
    ids = prompt(model, length)
    checked = check(ours(model, ids), theirs(peer, ids))
    seconds = interleave(timed(lambda: ours(model, ids)), timed(lambda: theirs(peer, ids)), settings.rounds)
    return Pair(_case(model, length), "transformers", "tokens", length, checked, seconds)


def against_llama_cpp(model: Model, length: int, settings: Settings) -> Pair:
    ids = prompt(model, length)
    with llama_cpp_peer.opened(PACKAGE, form_of(model), capacity=length, threads=settings.threads) as peer:
        checked = check(ours(model, ids), peer.read(ids), tolerance=llama_cpp_peer.TOLERANCE)
        seconds = interleave(timed(lambda: ours(model, ids)), timed(lambda: peer.read(ids)), settings.rounds)
    return Pair(_case(model, length), llama_cpp_peer.PEER, "tokens", length, checked, seconds)


def _case(model: Model, length: int) -> str:
    return f"{length} tokens, {form_of(model)}"


if __name__ == "__main__":
    run("prefill", measure, rounds=9)
