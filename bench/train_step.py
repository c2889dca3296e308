"""Rows per second and peak memory of one optimiser step: packed rows and a head on supervised tokens only (scops),
against padded rows and logits of every token (as transformers' models train), with the same parts, rows and optimiser.
"""

# B rows, T tokens, M pictures, P grid cells, D width
import gc
import multiprocessing
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.pair import Pair, Settings, Skip, interleave, run, timed
from bench.peers import TOLERANCE, language_of
from bench.rows import DEMO, LLAVA, Mix, rows_of
from scops.checkpoints.hub_llama import HUB_LLAMA_TIED
from scops.connectors.abstractor import AbstractorSpec
from scops.core.batch import Batch
from scops.core.stage import Stage
from scops.data.collate import pack, pad
from scops.nn import lora
from scops.nn.initialise import initialise
from scops.nn.training import train_blocks
from scops.systems import owl_small
from scops.train.optimise import Optimiser
from scops.train.stage import enter
from scops.train.step import gradients

Made = TypeVar("Made")
IGNORED = -100
NOTHING = 3e-5
"""Of the largest gradient; real ones are over 1e-4 of it. A key's bias has none in theory, and 1e-9 of it by rounding."""
APART = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""How far all gradients together may be from the peer's, as a share of their norm."""

TINY = owl_small.SIZES["owl-tiny"]
TILES = replace(TINY, abstractor=AbstractorSpec(dim=384, hidden=768, layers=2, heads=6, queries=63))
STAGES = {
    "connector": Stage("connector", train=("image.connector",), data=()),
    "LoRA": Stage("LoRA", train=("image.connector",), data=(), lora=owl_small.ADAPTERS),
    "all": Stage("all", train=("image.connector", "language"), data=()),
}


@dataclass(frozen=True)
class Case:
    """What is trained on what.

    Args:
        capacity: tokens of a packed row.
        compiled: torch compiles our blocks, before anything is timed.
    """

    name: str
    spec: owl_small.Spec
    mix: Mix
    rows: int
    capacity: int
    stage: Stage
    dtype: torch.dtype
    compiled: bool = False


CASES = [
    Case(f"{mix}, {stage}", *words, STAGES[stage], torch.bfloat16)
    for mix, words in {"LLaVA-like": (TILES, LLAVA, 8, 1024), "demo": (TINY, DEMO, 32, 512)}.items()
    for stage in STAGES
]
CASES += [replace(case, name=f"{case.name}, compiled", compiled=True) for case in CASES if case.stage.lora]


@dataclass(frozen=True)
class Step:
    """What one step found."""

    loss: float
    norm: float


@dataclass(frozen=True)
class Side:
    """One way to train.

    Args:
        forward_back: leaves gradients.
        learns: what is trained, by our own paths.
        step: a whole optimiser step.
    """

    batch: Batch
    forward_back: Callable[[], Step]
    learns: Mapping[str, nn.Parameter]
    step: Callable[[], Step]


def ours(case: Case) -> Side:
    """scops: packed, head on supervised tokens only."""
    system, batch = parts(case), rows(case, packed=True)
    learns = enter(system, case.stage)
    _fill_adapters(system)
    train_blocks(system, compiled=case.compiled)

    def forward_back() -> Step:
        found = gradients(system, "next_token", [batch], learns, state={}, clip=case.stage.clip, where="bench")
        total, count = found.sums["loss"]
        return Step(total / count, found.norm)

    return Side(batch, forward_back, learns, _stepper(forward_back, learns, system, case))


def transformers(case: Case) -> Side:
    """LlamaForCausalLM on embeddings into which the connector's tokens are scattered, padded, its own loss."""
    system, batch = parts(case), rows(case, packed=False)
    language = language_of(case.spec.language, HUB_LLAMA_TIED.save(system.language.state_dict())).train()
    whole = nn.ModuleDict({"language": language, "connector": system.image.connector})
    adapters = case.stage.lora and replace(
        case.stage.lora, targets=tuple(_published(glob) for glob in case.stage.lora.targets)
    )
    renamed = {"image.connector": "connector", "language": "language"}
    learns = enter(whole, replace(case.stage, train=tuple(renamed[glob] for glob in case.stage.train), lora=adapters))
    _fill_adapters(whole)
    connector, labels_BT = system.image.connector, _labels(batch)
    real_BT = (torch.arange(batch.ids_BT.shape[1]) < torch.tensor(batch.lengths)[:, None]).long()
    is_media_BT = torch.zeros(batch.ids_BT.numel(), dtype=torch.bool)
    is_media_BT[batch.where["image"].index_R] = True
    is_media_BT1 = is_media_BT.view_as(batch.ids_BT)[..., None]
    moved = list(learns.values())

    def forward_back() -> Step:
        x_BTD = language.get_input_embeddings()(batch.ids_BT)
        x_BTD = x_BTD.masked_scatter(is_media_BT1, connector(batch.features["image"]))
        loss = language(inputs_embeds=x_BTD, attention_mask=real_BT, labels=labels_BT, use_cache=False).loss
        loss.backward()
        return Step(loss.item(), nn.utils.clip_grad_norm_(moved, case.stage.clip or torch.inf).item())

    return Side(
        batch, forward_back, {_ours(p): t for p, t in learns.items()}, _stepper(forward_back, learns, whole, case)
    )


SIDES = {"ours": ours, "transformers": transformers}


def check(mine: Side, other: Side, dtype: torch.dtype) -> str:
    """Loss, norm and gradients are the same; in float32 every single gradient.

    Raises:
        ValueError: naming what differs.
    """
    if mine.learns.keys() != other.learns.keys():
        raise ValueError(f"only one side trains {sorted(mine.learns.keys() ^ other.learns.keys())[:5]}")
    here, there = mine.forward_back(), other.forward_back()
    shares = {"the loss": abs(here.loss / there.loss - 1), "the gradient's norm": abs(here.norm / there.norm - 1)}
    offs = {path: p.grad.float() - other.learns[path].grad.float() for path, p in mine.learns.items()}
    if dtype == torch.float32:
        largest = {path: float(p.grad.abs().max()) for path, p in other.learns.items()}
        floor = NOTHING * max(largest.values())
        shares |= {path: float(off.abs().max()) / max(largest[path], floor) for path, off in offs.items()}
    apart = sum(float(off.square().sum()) for off in offs.values()) ** 0.5 / min(there.norm, 1.0)
    for side in (mine, other):
        for parameter in side.learns.values():
            parameter.grad = None
    worst = max(shares, key=lambda name: shares[name])
    if not shares[worst] <= TOLERANCE[dtype]:
        raise ValueError(f"{worst} differs by {shares[worst]:.2g} of its size; {TOLERANCE[dtype]:.2g} is allowed")
    if not apart <= APART[dtype]:
        raise ValueError(f"all gradients differ by {apart:.2g} of their norm; {APART[dtype]:.2g} is allowed")
    return f"loss {here.loss:.4f} and {there.loss:.4f}, gradients differ by {apart:.1e} of their norm"


def measure(settings: Settings) -> Iterator[Pair | Skip]:
    """Each case in a process of its own, and before it each peak, so that memory is given back between them."""
    cases = [case for case in CASES if settings.only in case.name]
    if not cases:
        raise ValueError(f"--only {settings.only!r} is in none of {', '.join(case.name for case in CASES)}")
    for case in cases:
        exact = replace(case, dtype=torch.float32)
        sides = {"ours": ("ours", case), "bf16": ("transformers", case), "float32": ("transformers", exact)}
        peaks = {name: alone(peak_of, *side, settings.threads) for name, side in sides.items()}
        yield from alone(pairs, case, peaks, settings)


def pairs(case: Case, peaks: Mapping[str, float], settings: Settings) -> list[Pair]:
    """Against the peer in both dtypes, one after the other.

    Args:
        peaks: GB of "ours", "bf16", "float32".
    """
    torch.set_num_threads(settings.threads)
    mine, theirs, found = ours(case), transformers(case), []
    checked, filled = check(mine, theirs, case.dtype), _filled(mine, theirs)
    for peer in ("bf16", "float32"):
        if peer == "float32":
            del theirs
            gc.collect()
            theirs = transformers(replace(case, dtype=torch.float32))
        seconds = interleave(timed(mine.step), timed(theirs.step), settings.rounds)
        memory = f"peak {peaks['ours']:.2f} and {peaks[peer]:.2f} GB"
        found.append(Pair(f"{case.name}; {filled}", f"transformers {peer}, padded", "rows", case.rows,
                          f"{checked}; {memory}", seconds))  # fmt: skip
    return found


def alone(call: Callable[..., Made], *given: Any) -> Made:
    """What the call makes in a process of its own, which then ends."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *given).result()


def parts(case: Case) -> nn.Module:
    """The same random parts for every side."""
    torch.manual_seed(0)
    system = owl_small.build(case.spec)
    initialise(system)
    return system.to(case.dtype)


def rows(case: Case, *, packed: bool) -> Batch:
    """The case's rows, with random features of their pictures."""
    examples = rows_of(case.spec, case.rows, mix=case.mix)
    batch = pack(examples, capacity=case.capacity, pad_id=0) if packed else pad(examples, pad_id=0)
    dice, shape = torch.Generator().manual_seed(1), (int(case.spec.side / 32) ** 2, 1280)
    digests = [digest for example in examples for digest in example.digests.get("image", ())]
    known = {digest: torch.randn(shape, generator=dice).to(case.dtype) for digest in digests}
    return replace(batch, features={"image": torch.stack([known[digest] for digest in batch.digests["image"]])})


def peak_of(side: str, case: Case, threads: int) -> float:
    """GB that this process holds at most while it makes its second step, above what torch alone takes."""
    torch.set_num_threads(threads)
    torch.randn(64, 64) @ torch.randn(64, 64)
    before = _status("VmRSS")
    made = SIDES[side](case)
    made.step()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew (proc(5))
    made.step()
    return (_status("VmHWM") - before) / 1e9


def _status(name: str) -> int:
    return int(re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) * 1024


def _stepper(
    forward_back: Callable[[], Step], learns: Mapping[str, nn.Parameter], module: nn.Module, case: Case
) -> Callable[[], Step]:
    optimiser = Optimiser(learns, module, stage=replace(case.stage, lr=1e-6))

    def step() -> Step:
        found = forward_back()
        optimiser.step(0)
        return found

    return step


def _fill_adapters(module: nn.Module) -> None:
    """Zero would let the adapters' first halves learn nothing."""
    dice = torch.Generator().manual_seed(2)
    for path in sorted(found := lora.adapters(module)):
        for half in found[path]:
            with torch.no_grad():
                half.copy_(torch.randn(half.shape, generator=dice) * 0.02)


def _labels(batch: Batch) -> Tensor:
    """(B, T): the id where it is learnt."""
    assert batch.targets is not None
    labels = torch.full((batch.ids_BT.numel(),), IGNORED)
    labels[batch.targets.index_R + 1] = batch.targets.ids_R
    return labels.view_as(batch.ids_BT)


def _filled(*sides: Side) -> str:
    packed, padded = (side.batch for side in sides)
    assert packed.targets is not None
    shares = [f"{batch.tokens / batch.ids_BT.numel():.0%}" for batch in (padded, packed)]
    learnt = len(packed.targets.ids_R) / packed.tokens
    return f"{packed.tokens} tokens ({learnt:.0%} learnt), {shares[0]} real padded, {shares[1]} packed"


_NAMES = (
    ("language.blocks.", "language.model.layers."), (".attn.body.", ".self_attn."), (".mlp.body.", ".mlp."),
    (".attn.norm", ".input_layernorm"), (".mlp.norm", ".post_attention_layernorm"),
    ("language.embed.", "language.model.embed_tokens."), ("language.norm.", "language.model.norm."),
)  # fmt: skip
"""Ours and theirs."""


def _published(glob: str) -> str:
    """Our glob of a projection of attention as the peer writes it."""
    for mine, other in _NAMES:
        glob = glob.replace(mine, other)
    return f"{glob}_proj"


def _ours(path: str) -> str:
    if path.startswith("connector."):
        return f"image.{path}"
    for mine, other in _NAMES:
        path = path.replace(other, mine)
    return re.sub(r"(?<=\.)(q|k|v|o|gate|up|down)_proj\.", r"\1.", path)


if __name__ == "__main__":
    run("train_step", measure, rounds=3)
