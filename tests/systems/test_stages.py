"""Every stage of every recipe moves what it names, bit by bit nothing else."""

from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from scops.connectors.abstractor import AbstractorSpec
from scops.core.batch import Batch
from scops.core.stage import Stage
from scops.language.llama import LlamaSpec
from scops.systems import llama, mplug_owl, owl_small
from scops.train.optimise import Optimiser
from scops.train.stage import enter
from scops.train.step import gradients
from tests.conftest import batch_of, example, randomise
from tests.systems.test_mplug_owl import TINY

SIDE, ROOM = 64, 4  # of the small owls below: pixels of a picture, tokens of a picture
LANGUAGE = LlamaSpec(dim=32, hidden=36, layers=2, heads=2, kv_heads=1, vocab=53, tied=True)  # adapters of rank 16 fit
SMALL = owl_small.Spec(AbstractorSpec(dim=12, hidden=20, layers=2, heads=2, queries=3), LANGUAGE, side=SIDE)

# recipe -> per stage: beginnings of the paths that learn, projections whose adapters learn
BRIDGE, EYES, DECODER = ("image.connector.",), ("image.encoder.", "image.connector."), ("language.",)
MPLUG_OWL = {
    "code": ((EYES, ""), ((), "q v")),
    "abstract": ((EYES, ""), (BRIDGE, "q v")),
    "full": ((EYES, ""), (DECODER, "")),
}
OWL_SMALL = {
    "owl-tiny": ((BRIDGE, ""), (BRIDGE, ""), (BRIDGE, "q k v o")),
    "owl-nano": ((("image.connector.", "language.embed."), ""), (DECODER, ""), (DECODER, "")),
}
LLAMA = {"finetune": ((DECODER, ""),), "lora": (((), "q k v o gate up down"),)}


def pictures(side: int) -> Batch:
    """One picture per row, so that word_reading has pairs too; answers differ."""
    rows = [([5, *[0] * ROOM, 6, 7], (1, ROOM)), ([*[0] * ROOM, 9, 8], (0, ROOM)), ([3, 4, *[0] * ROOM, 11], (2, ROOM))]
    return batch_of(*(example(ids, (span,), [torch.randn(3, side, side)]) for ids, span in rows))


def words() -> Batch:
    return batch_of(example([1, 2, 3, 4, 5]), example([9, 8, 7]))


def small(spec: owl_small.Spec) -> nn.Module:
    system = randomise(owl_small.build(spec))
    for part in system.image.encoder.modules():  # so that something of the picture reaches the end
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    return system


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, each once however often it is tied, and buffers such as running means."""
    return {path: t.detach().clone() for path, t in [*module.named_parameters(), *module.named_buffers()]}


def two_steps(module: nn.Module, stage: Stage, batch: Batch) -> set[str]:
    """Paths that two real training steps changed."""
    stage = replace(stage, lr=1e-2, warmup=0)  # so that rounding hides no movement
    trainables = enter(module, stage)
    optimiser, before = Optimiser(trainables, module, stage=stage), snapshot(module)
    for done in range(2):
        gradients(module, stage.objective, [batch], trainables, state={}, clip=stage.clip, where=f"step {done}")
        optimiser.step(done)
    return {path for path, tensor in snapshot(module).items() if not torch.equal(tensor, before[path])}


def follow(module: nn.Module, stages: tuple[Stage, ...], expected: tuple, batch: Batch) -> None:
    """Walk through a recipe's stages on one module."""
    for stage, (beginnings, projections) in zip(stages, expected, strict=True):
        moved = two_steps(module, stage, batch)
        paths = {path for path, _ in module.named_parameters()}
        adapters = {path for path in paths if path.endswith((".lora_a", ".lora_b"))}
        assert {path.split(".")[-2] for path in adapters} == set(projections.split()), stage.name
        assert moved == {path for path in paths if path.startswith(beginnings)} | adapters, stage.name
        for path, part in module.named_modules():
            parameters = list(part.parameters())
            if parameters:
                assert part.training == any(p.requires_grad for p in parameters), f"{stage.name}: {path}"


@pytest.mark.parametrize("recipe", MPLUG_OWL)
def test_stages_of_mplug_owl_move_exactly_what_they_name(recipe: str) -> None:
    spec = replace(TINY, language=replace(LANGUAGE, tied=False))
    follow(randomise(mplug_owl.build(spec)), mplug_owl.STAGES[recipe], MPLUG_OWL[recipe], pictures(14))


@pytest.mark.parametrize("recipe", OWL_SMALL)
def test_stages_of_owl_small_move_exactly_what_they_name(recipe: str) -> None:
    follow(small(SMALL), owl_small.STAGES[recipe], OWL_SMALL[recipe], pictures(SIDE))


@pytest.mark.parametrize("recipe", LLAMA)
def test_stages_of_llama_move_exactly_what_they_name(recipe: str) -> None:
    follow(randomise(llama.build(llama.Spec(LANGUAGE))), llama.STAGES[recipe], LLAMA[recipe], words())


@pytest.mark.parametrize(
    ("system", "recipes"),
    [(mplug_owl, MPLUG_OWL), (owl_small, OWL_SMALL), (llama, LLAMA)],
    ids=lambda x: getattr(x, "PAPER", ""),
)
def test_no_recipe_is_left_out_here(system: ModuleType, recipes: dict) -> None:
    assert system.STAGES.keys() == recipes.keys()


def test_instruction_tuning_of_the_full_size_learns_the_published_count() -> None:
    with torch.device("meta"):
        system = mplug_owl.build(mplug_owl.SIZES["mplug-owl-llama-7b"])
    _, instruct = mplug_owl.STAGES["code"]
    trainables = enter(system, instruct)
    assert sum(p.numel() for p in trainables.values()) == 4_194_304
    assert {path.split(".")[-2] for path in trainables} == {"q", "v"}
