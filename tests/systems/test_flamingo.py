"""The paper's Flamingo: sizes, clips, sessions, stages; and two steps of training for all three of the family."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

import scops
from scops.cli.train import train
from scops.core.batch import Batch
from scops.data.messages import sample_of
from scops.language.gated import GatedSpec
from scops.language.gpt_neox import GptNeoxSpec
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import flamingo
from scops.systems.flamingo import PerceiverSpec, VitSpec
from tests import tiny
from tests.conftest import batch_of, randomise
from tests.films import film
from tests.systems import marked
from tests.systems.test_stages import follow
from tests.twins import cache_of, cached_equals_recompute, rows_stand_alone, shared_equals_recompute

TINY = flamingo.Spec(
    VitSpec(dim=12, hidden=20, layers=2, heads=2, image=8, patch=4, activation="gelu"),
    PerceiverSpec(12, 20, 2, heads=2, head_dim=5, queries=3, activation="squared_relu", first=1, frames=3),
    GptNeoxSpec(dim=24, hidden=36, layers=4, heads=4, vocab=53),
    GatedSpec(every=2, heads=2, head_dim=6, activation="squared_relu"),
)
MARK = 51


prompt = partial(marked.prompt, MARK)
PROMPTS = {
    "none": prompt(1, 2, 3, 4, 5),
    "a clip first": prompt("abc", 5, 6, 7),
    "a picture last": prompt(1, 9, 8, 7, "b"),
    "adjacent": prompt(1, 3, "a", "bc", "a", 4),
    "several": prompt(1, "c", 2, 3, "ab", 4, "bca", 8, 9, 10),
}


def system() -> torch.nn.Module:
    return randomise(flamingo.build(TINY), 0.3)


@pytest.mark.parametrize(("size", "gated"), [("flamingo-3b", 24), ("flamingo-9b", 10), ("flamingo-80b", 11)])
def test_sizes_have_as_many_gated_layers_as_the_paper_s_every_gives(size: str, gated: int) -> None:
    """Recalled: before every, every fourth and every seventh layer."""
    spec = flamingo.SIZES[size]
    with torch.device("meta"):
        made = flamingo.build(spec)
    found = [block for block in made.language.blocks if hasattr(block, "gated_attn")]
    assert len(found) == gated
    assert found[0].gated_attn.body.k.weight.shape == (spec.language.dim, 1536)
    assert made.image.connector.latents.shape == (64, 1536)
    assert made.image.connector.frames.shape == (8, 1536)


@torch.no_grad()
def test_frames_matter_and_their_order_too() -> None:
    made = system()
    said = [made(batch_of(prompt(1, shown, 4)))[0, -1] for shown in ("abc", "acb", "ab", "aab", "b")]
    apart = torch.stack(said)[:, None] - torch.stack(said)
    assert (apart.abs().amax(-1) + torch.eye(len(said))).min() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_session_equals_recompute(cache: type) -> None:
    assert cached_equals_recompute(system(), list(PROMPTS.values()), cache_of(cache, len(PROMPTS)))


@torch.no_grad()
def test_conversations_in_pages_equal_recompute_and_rows_stand_alone() -> None:
    assert shared_equals_recompute(system(), list(PROMPTS.values()), tokens=200, page=2, most=3)
    assert rows_stand_alone(system(), PROMPTS)


def lessons() -> Batch:
    return batch_of(prompt("abc", 5, 6, 7), prompt(1, 9, "b", 7), prompt(1, "c", 2, "a", 3, 4))


LEARNT = ("image.connector.", *(f"language.blocks.{i}.gated_{name}." for i in (1, 3) for name in ("attn", "mlp")))


@pytest.mark.parametrize("recipe", flamingo.STAGES)
def test_stages_move_exactly_what_they_name(recipe: str) -> None:
    follow(system(), flamingo.STAGES[recipe], ((LEARNT, ""),), lessons())


def test_a_film_is_one_item_of_a_frame_a_second(tmp_path: Path) -> None:
    model = tiny.flamingo()
    film(tmp_path / "a.mp4", 40, fps=8)
    made = model.processor(sample_of("Output:", videos=[tmp_path / "a.mp4"]), reply=True)
    assert [len(span.places) for span in made.spans] == [3]
    assert made.ids_T[0] == model.tokenizer.id_of("<image>")
    assert isinstance(model.chat("Output:", videos=[tmp_path / "a.mp4"], max_tokens=3), str)


@pytest.mark.parametrize(
    ("name", "system_name"), [("open_flamingo", "open-flamingo"), ("idefics", "idefics"), ("flamingo", "flamingo")]
)
def test_two_steps_of_training_change_what_the_stage_names(name: str, system_name: str, tmp_path: Path) -> None:
    """Few-shot rows through `scops train`; what comes out answers."""
    tiny.MODELS[name]().save(tmp_path / "fresh")
    with (tmp_path / "rows.jsonl").open("w") as rows:
        for number, colour in enumerate(("red", "green", "blue", "white")):
            turns = []
            for shot in range(1 + number % 2):
                tiny.picture(colour, (30 + shot, 40)).save(tmp_path / f"{number}{shot}.png")
                shown = {"type": "image", "image": f"{number}{shot}.png"}
                turns += [
                    {"role": "user", "content": [shown, {"type": "text", "text": "Output:"}]},
                    {"role": "assistant", "content": colour},
                ]
            rows.write(json.dumps({"messages": turns}) + "\n")
    data = {"path": str(tmp_path / "rows.jsonl")}
    words = {
        "system": system_name, "init": str(tmp_path / "fresh"), "output_dir": str(tmp_path / "out"), "device": "cpu",
        "data": {"shots": data},
        "stages": [{"name": "pretrain", "max_steps": 2, "batch": 2, "data": ["shots"], "warmup_steps": 0}],
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(words))
    train(tmp_path / "run.yaml", [])
    before, model = scops.load(tmp_path / "fresh").module.state_dict(), scops.load(tmp_path / "out" / "final")
    moved = {path for path, tensor in model.module.state_dict().items() if not torch.equal(tensor, before[path])}
    assert {path.split(".")[0] for path in moved} == {"image", "language"}
    assert not {path for path in moved if path.startswith("image.encoder") or ".attn.body" in path}
    assert isinstance(model.chat("Output:", [tiny.picture()], max_tokens=3), str)
