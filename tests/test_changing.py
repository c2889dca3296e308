"""Stages and callers that change the side of pictures: positions follow, all else stays to the bit."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

import scops
from scops.core.stage import Lora, Stage
from scops.model import Model
from scops.model.changing import with_changes
from scops.model.empty import outline
from scops.model.training import build, for_spec, start
from scops.nn import lora
from scops.systems import SYSTEMS, changed, module_of
from scops.train import checkpoint
from scops.train import loop as loop_module
from scops.train.run import Run
from tests import tiny
from tests.conftest import close
from tests.train.toy import Toy, Writer

VIT, EYES = "image.encoder.positions", {"eyes": {"vision": {"image": 56}}}
VISION = {"vision": {"image": 56}}
CHANGED: dict[str, tuple[Callable[[], Model], dict[str, Any], str]] = {
    "owl": (tiny.owl, {"side": 96}, ""),
    "mplug": (tiny.mplug, VISION, VIT),
    "mplug_video": (tiny.mplug_video, VISION, "image.encoder.vit.positions"),
    "owl2": (tiny.owl2, EYES, VIT),
    "owl21": (tiny.owl21, EYES, ""),  # its table is of one size, spread at every forward
    "ureader": (tiny.ureader, {"vision": {"image": 42}}, VIT),
    "docowl2": (tiny.docowl2, VISION, VIT),
    "skip": (tiny.skip, {"vision": {"image": 48}}, VIT),
    "blip2": (tiny.blip2_opt, VISION, VIT),
    "llava": (tiny.llava, VISION, "image.encoder.vit.positions"),
    "minigpt_v2": (tiny.minigpt_v2, VISION, VIT),
    "composed": (tiny.composed, {"encoder": {"image": 35}}, VIT),
    "owl3": (tiny.owl3, {"vision": {"image": 39}}, VIT),
}


def spread_by_hand(table_1PD: Tensor, tokens: int, mode: str) -> Tensor:
    """As in LAVIS's interpolate_pos_embed and timm's resize_pos_embed."""
    cls = table_1PD.shape[1] - math.isqrt(table_1PD.shape[1]) ** 2
    old, new = math.isqrt(table_1PD.shape[1]), math.isqrt(tokens)
    grid = table_1PD[:, cls:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, size=(new, new), mode=mode, align_corners=False)
    return torch.cat([table_1PD[:, :cls], grid.permute(0, 2, 3, 1).reshape(1, new * new, -1)], 1)


@pytest.mark.parametrize("name", CHANGED)
def test_positions_follow_the_side_and_all_else_stays(name: str, tmp_path: Path) -> None:
    make, overrides, path = CHANGED[name]
    model = make()
    model.resize_by("torch")
    model.save(tmp_path / "before")
    before = {at: tensor.clone() for at, tensor in model.module.state_dict().items()}
    after = scops.load(tmp_path / "before", overrides=overrides)
    state = after.module.state_dict()
    assert {at for at in before if state[at].shape != before[at].shape} == ({path} if path else set())
    assert all(torch.equal(state[at], before[at]) for at in before if at != path)
    if path:
        expected = spread_by_hand(before[path], state[path].shape[1], "bilinear" if name == "skip" else "bicubic")
        assert close(state[path], expected)
        assert torch.equal(state[path][:, 0], before[path][:, 0]) or name == "owl3"  # the class token
    assert after.spec == changed(model.spec, overrides)
    assert all(media.pixels.resize == "torch" for media in after.layout.media.values())
    sizes = [one.layout.media["image"].pixels.height for one in (model, after)]
    assert sizes[0] != sizes[1]
    asked = {"images": [tiny.picture()], "max_tokens": 2}
    after.save(tmp_path / "after")
    again = scops.load(tmp_path / "after")
    assert (again.spec, again.layout) == (after.spec, after.layout)
    assert again.chat("what?", **asked) == after.chat("what?", **asked)


@pytest.mark.parametrize("name", ["owl2", "llava", "minigpt_v2", "skip"])
def test_published_names_of_the_new_side_come_back(name: str, tmp_path: Path) -> None:
    """Tables that the authors' files hold beside the weights are those of the new grid."""
    make, overrides, _ = CHANGED[name]
    after = with_changes(make(), overrides)
    after.save(tmp_path / "theirs", layout="authors")
    again = scops.load(tmp_path / "theirs").module.state_dict()
    assert all(torch.equal(again[at], tensor) for at, tensor in after.module.state_dict().items())


def test_adapters_and_roundings_are_kept(tmp_path: Path) -> None:
    model = tiny.composed()
    lora.add(model.module, Lora(("language.blocks.*.attn.body.q",), rank=2, alpha=3.0))
    after = with_changes(model, {"encoder": {"image": 35}})
    assert {path for path in after.module.state_dict() if path.endswith("lora_a")}
    model = tiny.mplug().quantise("int8")
    model.save(tmp_path / "rounded")
    after = scops.load(tmp_path / "rounded", overrides=VISION)
    assert after.quantised == {"language": "int8"}
    assert isinstance(after.chat("what?", images=[tiny.picture()], max_tokens=2), str)


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (
            {"vision": {"image": 50}},
            r"vision\.image is 50, expected whole patches of 14 pixels, such as 42 or 56; it was 28",
        ),
        ({"vision": {"image": 7}}, r"vision\.image is 7, expected whole patches of 14 pixels, such as 14 or 28"),
        ({"vision": {"image": 56, "patch": 28}}, r"'image\.encoder\.patch\.weight' is \(12, 3, 14, 14\) and would be"),
        ({"abstractor": {"queries": 4}}, r"'image\.connector\.queries' is \(1, 3, 12\) and would be \(1, 4, 12\)"),
        ({"language": {"layers": 1}}, r"'language\.blocks\.1\.\S+ would be left over"),
        ({"language": {"layers": 3}}, r"there is no 'language\.blocks\.2\."),
        ({"vision": {"imgae": 56}}, "did you mean 'image'"),
    ],
)
def test_what_does_not_fit_is_named(overrides: dict, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        with_changes(tiny.mplug(), overrides)


# Recipes ----------------------------------------------------------------------------------------------------------------

STAGES = [
    (system, size, stage)
    for system in SYSTEMS
    for size in SYSTEMS[system].sizes
    for recipe in module_of(system).STAGES.values()
    for stage in recipe
    if stage.overrides
]


@pytest.mark.parametrize(("system", "size"), sorted({(system, size) for system, size, _ in STAGES}))
def test_every_recipe_s_sizes_are_of_their_systems(system: str, size: str) -> None:
    """And change positions at most; where a tower is not published, they are not meant."""
    spec = module_of(system).SIZES[size]
    run = Run(system=size, stages=["any"])
    seen: list[dict] = []
    for stage in (stage for one, name, stage in STAGES if (one, name) == (system, size)):
        if stage.overrides in seen:
            continue
        seen.append(dict(stage.overrides))
        assert for_spec(stage, run, spec) == stage
        shapes = [
            {path: tuple(p.shape) for path, p in outline(system, one).named_parameters()}
            for one in (spec, changed(spec, stage.overrides))
        ]
        assert shapes[0].keys() == shapes[1].keys()
        assert {path for path in shapes[0] if shapes[0][path] != shapes[1][path]} <= {VIT}


def test_a_recipe_s_sides_are_those_of_the_published_tower() -> None:
    system = module_of("mplug-owl2")
    align, instruct = system.STAGES["paper"]
    sides = [stage.overrides["eyes"]["vision"]["image"] for stage in (align, instruct)]
    assert sides == [224, 448]
    spec = system.SIZES["mplug-owl2-llama2-7b"]
    words = {"system": "mplug-owl2", "stages": ["align"]}
    assert for_spec(align, Run(**words), spec).overrides == align.overrides
    longer = changed(spec, {"language": {"context": 8192}})
    assert for_spec(align, Run(**words), longer).overrides == align.overrides
    small = changed(spec, {"eyes": {"vision": {"layers": 2}}})
    assert not for_spec(align, Run(**words), small).overrides
    told = Run(**words, system_overrides={"eyes": {"vision": {"image": 336}}})
    assert not for_spec(align, told, changed(spec, told.system_overrides)).overrides


# Runs -------------------------------------------------------------------------------------------------------------------

COLOURS = ("red", "green", "blue", "white")


@pytest.fixture
def words(tmp_path: Path) -> dict[str, Any]:
    """A run over a tiny mPLUG-Owl2 whose tower learns at 28 pixels and rests at 56."""
    tiny.owl2().save(tmp_path / "fresh")
    rows = []
    for number in range(8):
        tiny.picture(COLOURS[number % 4], (30 + number, 40)).save(tmp_path / f"{number}.png")
        rows.append(json.dumps({"image": f"{number}.png", "caption": COLOURS[number % 4]}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    sides = [{"eyes": {"vision": {"image": side}}} for side in (28, 56)]
    stage: dict[str, Any] = {"data": ["squares"], "batch": 4, "warmup_steps": 0, "learning_rate": 1e-2, "lr_of": {}}
    trains = [["image"], ["image.connector", "language.blocks"]]
    return {
        "system": "mplug-owl2", "init": str(tmp_path / "fresh"), "output_dir": str(tmp_path / "out"),
        "data": {"squares": {"path": str(tmp_path / "rows.jsonl")}}, "eval_data": {"held": {"path": str(tmp_path / "rows.jsonl")}},
        "stages": [
            stage | {"name": name, "max_steps": 3, "train": train, "system_overrides": side}
            for name, train, side in zip(("align", "instruct"), trains, sides, strict=True)
        ],
        "eval_steps": 2, "eval_samples": 4, "save_steps": 1, "save_total_limit": 9, "logging_steps": 1, "device": "cpu",
    }  # fmt: skip


def losses(folder: str) -> list[float]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def test_a_run_goes_from_small_pictures_to_large_ones(words: dict, capsys: pytest.CaptureFixture) -> None:
    start(Run.check(words))
    said = capsys.readouterr().err
    assert f"stage 'instruct': {VIT} (1, 5, 12) -> (1, 17, 12)" in " ".join(said.split())
    out = Path(words["output_dir"])
    aligned, ended = (checkpoint.read(out / f"checkpoint-{step}").weights[VIT] for step in (3, 6))
    assert close(ended, spread_by_hand(aligned, 17, "bicubic"))  # the tower rests in the second stage
    model = scops.load(out)
    assert model.spec.eyes.vision.image == 56
    assert model.layout.media["image"].pixels.height == 56
    assert torch.equal(model.module.state_dict()[VIT], ended)
    assert isinstance(model.chat("what?", images=[tiny.picture()], max_tokens=2), str)
    assert len(losses(str(out))) == 6


@pytest.mark.parametrize("step", [2, 3, 4, 5])
def test_a_run_that_stops_in_either_stage_goes_on_bit_by_bit(
    words: dict, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words["feature_cache"] = "off"  # kernels may round a picture by its place among those encoded with it
    start(Run.check(words))
    whole, keep, count = words["output_dir"], loop_module.gradients, [0]

    class Stop(Exception):
        pass

    def gradients(*args: Any, **kept: Any) -> Any:
        if count[0] == step:
            raise Stop
        count[0] += 1
        return keep(*args, **kept)

    broken = Run.check(words | {"output_dir": whole + "-broken"})
    monkeypatch.setattr(loop_module, "gradients", gradients)
    with pytest.raises(Stop):
        start(broken)
    monkeypatch.undo()
    start(broken)
    assert losses(broken.output_dir) == losses(whole)
    one, two = (scops.load(folder).module.state_dict() for folder in (whole, broken.output_dir))
    assert all(torch.equal(one[path], two[path]) for path in one)


def test_features_of_one_side_are_not_taken_for_another_s(words: dict) -> None:
    """The encoder rests in both stages, and has the same numbers: only the pictures differ."""
    tiny.owl21().save(Path(words["init"]).parent / "grid")
    words = words | {"system": "mplug-owl2.1", "recipe": "finetune", "init": words["init"].replace("fresh", "grid")}
    first, second = words["stages"]
    train = {"train": ["image.connector"], "name": "finetune"}
    both = [first | train, second | train]
    kept, off = words | {"stages": both}, words | {"stages": both, "feature_cache": "off"}
    start(Run.check(kept | {"output_dir": words["output_dir"] + "-kept"}))
    start(Run.check(off | {"output_dir": words["output_dir"] + "-off"}))
    pairs = zip(losses(words["output_dir"] + "-kept"), losses(words["output_dir"] + "-off"), strict=True)
    assert all(abs(one - two) < 1e-5 for one, two in pairs)


def test_a_fresh_system_begins_with_the_first_stage_s_pictures(words: dict) -> None:
    vision = {"dim": 12, "hidden": 20, "layers": 2, "heads": 2, "patch": 14}
    sizes = {"eyes": {"vision": vision, "abstractor": tiny.ABSTRACTOR}, "language": tiny.LANGUAGE}
    fresh = words | {"init": None, "pretrained": False, "system_overrides": sizes, "tokenizer": words["init"]}
    assert build(Run.check(fresh)).spec.eyes.vision.image == 28
    last = fresh | {"stages": fresh["stages"][1:]}
    assert build(Run.check(last)).spec.eyes.vision.image == 56
    said = [{**stage, "system_overrides": None} for stage in fresh["stages"]]
    assert build(Run.check(fresh | {"stages": said})).spec.eyes.vision.image == 448  # as the size has it: another tower


def test_a_run_begins_from_a_folder_with_pictures_of_another_side(words: dict) -> None:
    stages = [words["stages"][1] | {"system_overrides": None}]
    run = Run.check(words | {"stages": stages, "system_overrides": EYES})
    assert build(run).spec.eyes.vision.image == 56
    start(run)
    assert scops.load(words["output_dir"]).spec.eyes.vision.image == 56


def test_a_wrong_side_of_a_stage_is_named(words: dict) -> None:
    words["stages"][1]["system_overrides"] = {"eyes": {"vision": {"image": 50}}}
    with pytest.raises(ValueError, match=r"eyes\.vision\.image is 50, expected whole patches of 14 pixels"):
        start(Run.check(words))


def test_a_system_that_nobody_can_change_says_so(tmp_path: Path) -> None:
    run = Run(system="toy", stages=["align"], data={"rows": {}}, output_dir=str(tmp_path), device="cpu")
    stage = Stage("align", train=("image.connector",), data=("rows",), overrides={"side": 3})
    with pytest.raises(
        ValueError, match=r"stage .align. changes \{.side.: 3\}, but nothing here can change the system"
    ):
        loop_module.train(run, Toy(), {"align": stage}, Writer(), {"rows": []}, save=lambda *_: None)
