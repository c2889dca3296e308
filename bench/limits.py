"""How near decoding, reading a prompt and a training step come to what the machine can do, in bfloat16: no peer, a CPU or a GPU.

Decoding is held against the rate at which memory is read, the others against the rate of plain products.
"""

# B rows, T tokens
import argparse
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.pair import Settings, beginning, head, keep, options
from scops.core.batch import Batch, Example
from scops.core.device import device_of
from scops.core.session import Session
from scops.core.stage import Stage
from scops.data.collate import pack, pad
from scops.models.decoder import MultimodalDecoder
from scops.nn.initialise import begin
from scops.systems import mplug_owl, owl_small
from scops.train.optimise import Optimiser
from scops.train.profile import Operations, gemm_rate
from scops.train.stage import enter
from scops.train.step import gradients

WHAT, DTYPE = "limits", torch.bfloat16
CONTEXTS, PROMPTS, NEW = (64, 512, 2048), (512, 2048), 32
DOCUMENTS, DOCUMENT = 8, 512
"""Of a training step, a fifth of them learnt; and tokens of each."""
READ = {"cpu": 2**30, "cuda": 2**32}
"""Bytes of the vector that measures how fast memory is read."""


@dataclass(frozen=True)
class Member:
    """A random system of a published shape.

    Args:
        stage: what the training step moves; None where there is no room for it.
    """

    name: str
    build: Callable[[], MultimodalDecoder]
    stage: Stage | None


SMALL = Member(
    "SmolLM2-135M",
    lambda: owl_small.build(owl_small.SIZES["owl-tiny"]),
    Stage("LoRA", train=(), data=(), lora=owl_small.ADAPTERS),
)
LARGE = Member("mPLUG-Owl 7B", lambda: mplug_owl.build(mplug_owl.SIZES["mplug-owl-llama-7b"]), mplug_owl.INSTRUCT)


@dataclass(frozen=True)
class Found:
    """One number.

    Args:
        amount: bytes that must be read, or floating-point operations, in one call.
        most: of these per second.
        seconds: of each call.
    """

    case: str
    tokens: int
    amount: float
    most: float
    seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Tokens per second in the median call."""
        return self.tokens / median(self.seconds)

    @property
    def share(self) -> float:
        """Of what the machine can do."""
        return self.amount / median(self.seconds) / self.most

    def __str__(self) -> str:
        return f"{self.case}: {self.rate:,.4g} tokens/s, {self.share:.0%} of what the machine can do"


@dataclass(frozen=True)
class Machine:
    """Args:
    reads: bytes per second.
    multiplies: floating-point operations per second.
    """

    device: torch.device
    reads: float
    multiplies: float

    @classmethod
    def of(cls, device: torch.device) -> "Machine":
        return cls(device, read_rate(device), gemm_rate(device, DTYPE))

    def __str__(self) -> str:
        return f"{self.device}: reads {self.reads / 1e9:,.4g} GB/s, multiplies {self.multiplies / 1e12:,.4g} TFLOP/s"


def read_rate(device: torch.device) -> float:
    """Bytes per second of the fastest of a few sums and products with a vector, over far more than caches hold."""
    width = 4096
    x_RC = torch.ones(READ[device.type] // 4 // width, width, device=device)
    ones_C, seconds = torch.ones(width, device=device), []
    for read in (x_RC.sum, lambda: x_RC @ ones_C) * 5:
        seconds.append(clocked(device, read))
    return READ[device.type] / min(seconds)


def clocked(device: torch.device, call: Callable[[], Any]) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = perf_counter()
    call()
    wait()
    return perf_counter() - start


def opened(member: Member, device: torch.device) -> MultimodalDecoder:
    with torch.device("meta"):
        system = member.build()
    begin(system.to(DTYPE), device)
    return system.eval()


@torch.no_grad()
def decoding(member: Member, system: MultimodalDecoder, machine: Machine, context: int, rounds: int) -> Found:
    """Every weight but the words' and all that the cache holds are read once per token."""
    batch, seconds = words(system, [context], machine.device), []
    for round_ in range(rounds + 1):
        session = system.session(batch, context + NEW)
        found = clocked(machine.device, lambda: write(session))  # noqa: B023
        seconds += [found] if round_ else []
    kept = session.cache.nbytes * (context + NEW // 2) / (context + NEW)
    amount = (read_per_token(system) + kept) * NEW
    return Found(f"{member.name}: decoding after {context} tokens", NEW, amount, machine.reads, tuple(seconds))


def write(session: Session) -> None:
    """Greedily; each token is read by the host, as whoever writes it out must."""
    for _ in range(NEW):
        ids_B = session.logits_BV.argmax(-1)
        ids_B.tolist()
        session.step(ids_B)


@torch.no_grad()
def reading(member: Member, system: MultimodalDecoder, machine: Machine, tokens: int, rounds: int) -> Found:
    """Two operations per weight of a block and token; attention and the one token that reaches the head are not counted."""
    batch = words(system, [tokens], machine.device)
    seconds = [clocked(machine.device, lambda: system.session(batch, tokens)) for _ in range(rounds + 1)][1:]
    amount = 2.0 * tokens * sum(p.numel() for p in system.language.blocks.parameters())
    return Found(f"{member.name}: reading {tokens} tokens", tokens, amount, machine.multiplies, tuple(seconds))


def training(member: Member, system: MultimodalDecoder, machine: Machine, rounds: int) -> Found:
    """Operations of products in one real step, as `profile=true` counts them (MFU)."""
    assert member.stage is not None, f"{member.name} has no stage"
    batch = words(system, [DOCUMENT] * DOCUMENTS, machine.device, packed=True)
    learns = enter(system, member.stage)
    optimiser = Optimiser(learns, system, stage=member.stage)

    def step() -> None:
        gradients(system, "next_token", [batch], learns, state={}, clip=1.0, where="bench")
        optimiser.step(0)

    with Operations() as counted:
        step()
    seconds = [clocked(machine.device, step) for _ in range(rounds + 1)][1:]
    case = f"{member.name}: training step, {DOCUMENTS} documents of {DOCUMENT} tokens, {member.stage.name}"
    return Found(case, DOCUMENTS * DOCUMENT, counted.count, machine.multiplies, tuple(seconds))


def words(system: MultimodalDecoder, lengths: list[int], device: torch.device, *, packed: bool = False) -> Batch:
    dice, vocab = np.random.default_rng(0), system.language.embed.num_embeddings
    rows = [Example(dice.integers(1, vocab, n), np.arange(n) >= n - n // 5) for n in lengths]
    batch = pack(rows, capacity=sum(lengths), pad_id=0) if packed else pad(rows, pad_id=0)
    return batch.to(device)


def read_per_token(system: MultimodalDecoder) -> int:
    """Bytes of all weights behind the embedding."""
    language = system.language
    parts: list[nn.Module] = [language.blocks, language.norm, language.projection()]
    return sum(p.numel() * p.element_size() for part in parts for p in part.parameters())


def measure(members: list[Member], machine: Machine, rounds: int) -> Iterator[Found]:
    for member in members:
        system = opened(member, machine.device)
        if machine.device.type == "cuda":
            system.compile_steps()
        for context in CONTEXTS:
            yield decoding(member, system, machine, context, rounds)
        for tokens in PROMPTS:
            yield reading(member, system, machine, tokens, rounds)
        if member.stage is not None:
            yield training(member, system, machine, rounds)
        del system
        gc.collect()


def markdown(result: dict[str, Any]) -> str:
    lines = [
        *beginning(result), f"{result['machine']}.", "",
        "| case | tokens/s | of what the machine can do | least | most |", "|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for one in result["limits"]:
        least, most = (one["amount"] / pick(one["seconds"]) / one["most"] for pick in (max, min))
        lines.append(f"| {one['case']} | {one['rate']:,.4g} | {one['share']:.0%} | {least:.0%} | {most:.0%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    more, gpu = argparse.ArgumentParser(add_help=False), torch.cuda.is_available()
    more.add_argument("--device", default="cuda" if gpu else "cpu", help="cpu or cuda (%(default)s)")
    more.add_argument(
        "--large", action="store_true", help="a random mPLUG-Owl of 7B too: 15 GB; on a GPU 30, trained too"
    )
    asked = options(WHAT, 5, more=more)
    device = device_of(asked.device)
    members = [SMALL]
    if asked.large:
        members.append(LARGE if device.type == "cuda" else replace(LARGE, stage=None))
    machine, result = Machine.of(device), head(WHAT, Settings(asked.rounds, asked.threads))
    result |= {"command": f"{result['command']} --device {device}{' --large' * asked.large}", "machine": str(machine)}
    if device.type == "cuda":
        result["hardware"] = torch.cuda.get_device_name(device)
    result["limits"] = []
    say = (lambda words: None) if asked.json else (lambda words: print(words, flush=True))
    say(machine)
    for found in measure(members, machine, asked.rounds):
        say(found)
        result["limits"].append(asdict(found) | {"rate": found.rate, "share": found.share})
    place = keep(asked.results, result, markdown(result))
    print(json.dumps(result, indent=2) if asked.json else f"kept in {place}.json and .md")


if __name__ == "__main__":
    main()
