"""Every stage of every recipe moves what it names, bit by bit nothing else."""

from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from scops.connectors.abstractor import AbstractorSpec
from scops.core.batch import Batch
from scops.core.layout import WHOLE, Cut, Slot
from scops.core.stage import Stage
from scops.language.bloom import BloomSpec
from scops.language.llama import LlamaSpec
from scops.systems import (
    docowl2,
    docowl15,
    llama,
    mplug,
    mplug_owl,
    mplug_owl2,
    mplug_owl3,
    mplug_owl21,
    mplug_owl_video,
    owl_small,
    ureader,
)
from scops.train.optimise import Optimiser
from scops.train.stage import enter
from scops.train.step import gradients
from tests.conftest import batch_of, example, randomise
from tests.models.test_beside import PROMPTS
from tests.models.test_beside import SPEC as BESIDE
from tests.systems import (
    pieces,
    test_docowl2,
    test_docowl15,
    test_mplug,
    test_mplug_owl2,
    test_mplug_owl21,
    test_ureader,
)
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
MEDIA_EXPERTS = tuple(
    f"language.blocks.{i}.{module}.experts.1."
    for i in range(LANGUAGE.layers)
    for module in ("attn.norm", "attn.body.k", "attn.body.v", "mlp.norm")
)
MPLUG_OWL2 = {
    "paper": (((*EYES, *MEDIA_EXPERTS), ""), ((*EYES, *DECODER), "")),
    "finetune": (((*BRIDGE, *DECODER), ""),),
    "lora": ((BRIDGE, "q 0 1 o gate up down"),),  # k and v are of two experts
}
MPLUG_OWL21 = {"finetune": MPLUG_OWL2["finetune"], "lora": ((BRIDGE, "0 1 o gate up down"),)}
PICTURES = ("image.connector.", *(f"language.blocks.{i}.attn.pictures." for i in (0, 2)))
GATES = tuple(f"language.blocks.{i}.attn.gate." for i in (0, 2))
MPLUG_OWL3 = {
    "mplug-owl3-7b-240728": ((PICTURES + GATES, ""), *(((*BRIDGE, *DECODER), ""),) * 2),
    "mplug-owl3-7b-241101": ((PICTURES, ""), *(((*BRIDGE, *DECODER), ""),) * 2),
}
OWL_SMALL = {
    "owl-tiny": ((BRIDGE, ""), (BRIDGE, ""), (BRIDGE, "q k v o")),
    "owl-nano": ((("image.connector.", "language.embed."), ""), (DECODER, ""), (DECODER, "")),
}
UREADER = {"ureader-7b": ((BRIDGE, "q v"),)}
STRUCTURE, TASKS = ((*EYES, *MEDIA_EXPERTS), ""), ((*BRIDGE, *DECODER), "")
DOCOWL15 = {
    "docowl1.5": (STRUCTURE, TASKS),
    "docowl1.5-chat": (STRUCTURE, TASKS),
    "docowl1.5-stage1": (STRUCTURE,),
    "docowl1.5-omni": (STRUCTURE, TASKS),
    "finetune": (TASKS,),
    "lora": ((BRIDGE, "q o 0 1 gate up down"),),  # 0 and 1 are the experts of k and of v
}
DOCOWL2 = {"docowl2": (STRUCTURE, ((*BRIDGE, *MEDIA_EXPERTS), ""), TASKS)}
READING = ("image.", "encoder.text.", "encoder.fusion.blocks.")
MPLUG = {
    size: (((*READING, "encoder.fusion.embeddings.words.", "pairs.", "decoder."), ""), ((*READING, "decoder."), ""))
    for size in ("mplug-base", "mplug-large")
}
LLAMA = {"finetune": ((DECODER, ""),), "lora": (((), "q k v o gate up down"),)}


def pictures(side: int) -> Batch:
    """One picture per row, so that word_reading has pairs too; answers differ."""
    rows = [([5, *[0] * ROOM, 6, 7], (1, ROOM)), ([*[0] * ROOM, 9, 8], (0, ROOM)), ([3, 4, *[0] * ROOM, 11], (2, ROOM))]
    return batch_of(*(example(ids, (span,), [torch.randn(3, side, side)]) for ids, span in rows))


def clips(side: int) -> Batch:
    """One clip per row, of two frames and of three."""
    rows = [([5, *[0] * ROOM, 6, 7], 1, 2), ([*[0] * ROOM, 9, 8], 0, 3)]
    return batch_of(
        *(example(i, ((s, ROOM, (WHOLE,) * n),), [torch.randn(3, side, side) for _ in range(n)]) for i, s, n in rows)
    )


def pages(room: int, *, one_slot: bool) -> Batch:
    """Pages of a whole view and tiles: all in one slot, or each in its own."""
    rows = []
    for ids, grid in (((5, 6, 7), (1, 2)), ((9, 8, 4), (2, 1)), ((3, 11, 2), (1, 1))):
        places = Cut(grid, ((1, 1),), "first").places
        slots = [Slot("image", room, some) for some in ([places] if one_slot else [(place,) for place in places])]
        rows.append(pieces.written([1, *slots, *ids]))
    return batch_of(*rows)


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
    of = dict.fromkeys(stage.lr_of, 1e-2)
    lora = stage.lora and replace(stage.lora, rank=min(stage.lora.rank, 16))  # fits
    stage = replace(stage, lr=1e-2, lr_of=of, warmup=0, lora=lora)  # so that rounding hides no movement
    trainables = enter(module, stage)
    optimiser, before = Optimiser(trainables, module, stage=stage), snapshot(module)
    for done in range(2):
        gradients(module, stage.objective, [batch], trainables, state={}, clip=stage.clip, where=f"step {done}")
        optimiser.step(done)
    return {path for path, tensor in snapshot(module).items() if not torch.equal(tensor, before[path])}


def follow(
    module: nn.Module, stages: tuple[Stage, ...], expected: tuple, batch: Batch, *, unused: tuple[str, ...] = ()
) -> None:
    """Walk through a recipe's stages on one module.

    Args:
        unused: paths that are published, learn by their names, and have no part in any result.
    """
    for stage, (beginnings, projections) in zip(stages, expected, strict=True):
        moved = two_steps(module, stage, batch)
        paths = {path for path, _ in module.named_parameters()}
        adapters = {path for path in paths if path.endswith((".lora_a", ".lora_b"))}
        assert {path.split(".")[-2] for path in adapters} == set(projections.split()), stage.name
        named = {path for path in paths if path.startswith(beginnings)} - {*unused}
        assert moved == named | adapters, stage.name
        for path, part in module.named_modules():
            parameters = list(part.parameters())
            if parameters:
                assert part.training == any(p.requires_grad for p in parameters), f"{stage.name}: {path}"


@pytest.mark.parametrize("recipe", MPLUG_OWL)
def test_stages_of_mplug_owl_move_exactly_what_they_name(recipe: str) -> None:
    spec = replace(TINY, language=replace(LANGUAGE, tied=False))
    follow(randomise(mplug_owl.build(spec)), mplug_owl.STAGES[recipe], MPLUG_OWL[recipe], pictures(14))


@pytest.mark.parametrize("recipe", MPLUG_OWL)
def test_stages_of_mplug_owl_with_bloomz_move_exactly_what_they_name(recipe: str) -> None:
    spec = replace(TINY, language=BloomSpec(dim=32, layers=2, heads=2, vocab=53))
    follow(randomise(mplug_owl.build(spec)), mplug_owl.STAGES[recipe], MPLUG_OWL[recipe], pictures(14))


@pytest.mark.parametrize("recipe", MPLUG_OWL)
def test_stages_of_mplug_owl_video_move_exactly_what_they_name(recipe: str) -> None:
    """Clips, since a picture passes no temporal part."""
    spec = mplug_owl_video.Spec(TINY.vision, TINY.abstractor, replace(LANGUAGE, tied=False))
    system = randomise(mplug_owl_video.build(spec))
    follow(system, mplug_owl_video.STAGES[recipe], MPLUG_OWL[recipe], clips(14))


@pytest.mark.parametrize("recipe", MPLUG_OWL2)
def test_stages_of_mplug_owl2_move_exactly_what_they_name(recipe: str) -> None:
    language = replace(LANGUAGE, tied=False, dim=128, hidden=130, kv_heads=2)  # adapters of rank 128 fit
    eyes = test_mplug_owl2.TINY.eyes
    eyes = replace(eyes, vision=replace(eyes.vision, layers=mplug_owl2.LAYERS))  # each has its learning rate
    module = randomise(mplug_owl2.build(mplug_owl2.Spec(eyes, language)))
    follow(module, mplug_owl2.STAGES[recipe], MPLUG_OWL2[recipe], pictures(14))


@pytest.mark.parametrize("recipe", MPLUG_OWL21)
def test_stages_of_mplug_owl21_move_exactly_what_they_name(recipe: str) -> None:
    tiny = test_mplug_owl21.TINY
    module = randomise(mplug_owl21.build(replace(tiny, language=replace(tiny.language, dim=128, hidden=130))))
    follow(module, mplug_owl21.STAGES[recipe], MPLUG_OWL21[recipe], pictures(14))


def test_the_tower_of_mplug_owl2_learns_the_slower_the_deeper() -> None:
    with torch.device("meta"):
        system = mplug_owl2.build(mplug_owl2.SIZES["mplug-owl2-llama2-7b"])
    align, _ = mplug_owl2.STAGES["paper"]
    trainables = enter(system, align)
    added = sum(p.numel() for path, p in trainables.items() if path.startswith("language."))
    assert added == 32 * (2 * 4096 + 2 * 4096**2)
    lrs = Optimiser(trainables, system, stage=align).lrs
    block = [lrs[f"image.encoder.blocks.{i}.mlp.body.up.weight"] for i in range(24)]
    assert all(low == pytest.approx(0.9 * high) for low, high in pairwise(block))
    assert (block[-1], lrs["image.encoder.post_norm.weight"]) == (pytest.approx(0.9e-4), 1e-4)
    assert lrs["image.encoder.patch.weight"] == lrs["image.encoder.cls"] == pytest.approx(0.9 * block[0])
    assert lrs["image.connector.queries"] == lrs["language.blocks.31.attn.body.k.experts.1.weight"] == 1e-4


@pytest.mark.parametrize("recipe", MPLUG_OWL3)
def test_stages_of_mplug_owl3_move_exactly_what_they_name(recipe: str) -> None:
    release = mplug_owl3.SIZES[recipe]
    system = randomise(mplug_owl3.build(replace(BESIDE, attention=release.attention, projector=release.projector)))
    follow(system, mplug_owl3.STAGES[recipe], MPLUG_OWL3[recipe], batch_of(*PROMPTS.values()))


@pytest.mark.parametrize("recipe", UREADER)
def test_stages_of_ureader_move_exactly_what_they_name(recipe: str) -> None:
    spec = replace(test_ureader.TINY, language=replace(LANGUAGE, tied=False))
    batch = pages(test_ureader.ROOM, one_slot=False)
    follow(randomise(ureader.build(spec)), ureader.STAGES[recipe], UREADER[recipe], batch)


@pytest.mark.parametrize("recipe", DOCOWL15)
def test_stages_of_docowl15_move_exactly_what_they_name(recipe: str) -> None:
    spec = replace(test_docowl15.TINY, language=replace(LANGUAGE, tied=False))
    unused = ("image.connector.norm.weight", "image.connector.norm.bias")
    batch = pages(test_docowl15.ROOM, one_slot=False)
    follow(randomise(docowl15.build(spec)), docowl15.STAGES[recipe], DOCOWL15[recipe], batch, unused=unused)


@pytest.mark.parametrize("recipe", DOCOWL2)
def test_stages_of_docowl2_move_exactly_what_they_name(recipe: str) -> None:
    tiny = test_docowl2.TINY
    spec = replace(
        tiny, language=replace(LANGUAGE, tied=False), compressor=replace(tiny.compressor, dim=LANGUAGE.dim, heads=2)
    )
    unused = tuple(f"image.connector.reducer.{name}" for name in ("norm.weight", "norm.bias", "end"))
    batch = pages(test_docowl2.ROOM, one_slot=True)
    follow(randomise(docowl2.build(spec)), docowl2.STAGES[recipe], DOCOWL2[recipe], batch, unused=unused)


@pytest.mark.parametrize("recipe", OWL_SMALL)
def test_stages_of_owl_small_move_exactly_what_they_name(recipe: str) -> None:
    follow(small(SMALL), owl_small.STAGES[recipe], OWL_SMALL[recipe], pictures(SIDE))


@pytest.mark.parametrize("recipe", MPLUG)
def test_stages_of_mplug_move_exactly_what_they_name(recipe: str) -> None:
    spec = replace(test_mplug.TINY, pairing=replace(test_mplug.TINY.pairing, masked=0.5))
    texts = ((0,), [], [8, 9, 3]), ((0,), [5], [12, 13, 14, 3]), ((0,), [6, 7], [9, 16, 3])
    batch = batch_of(*(test_mplug.row(*text) for text in texts))
    follow(randomise(mplug.build(spec)), mplug.STAGES[recipe], MPLUG[recipe], batch)


@pytest.mark.parametrize("recipe", LLAMA)
def test_stages_of_llama_move_exactly_what_they_name(recipe: str) -> None:
    follow(randomise(llama.build(llama.Spec(LANGUAGE))), llama.STAGES[recipe], LLAMA[recipe], words())


@pytest.mark.parametrize(
    ("system", "recipes"),
    [
        (mplug, MPLUG),
        (mplug_owl, MPLUG_OWL),
        (mplug_owl_video, MPLUG_OWL),
        (mplug_owl2, MPLUG_OWL2),
        (mplug_owl21, MPLUG_OWL21),
        (mplug_owl3, MPLUG_OWL3),
        (ureader, UREADER),
        (docowl15, DOCOWL15),
        (docowl2, DOCOWL2),
        (owl_small, OWL_SMALL),
        (llama, LLAMA),
    ],
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
