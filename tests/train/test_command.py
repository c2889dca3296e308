"""`scops train` on a real, tiny system."""

import json
import os
import signal

import pytest
import torch
import typer
import yaml
from safetensors.torch import load_file

import scops
from scops.cli.train import train
from scops.model.training import build, stages_of
from scops.native.library import compiler
from scops.train import loop as loop_module
from scops.train.run import Run
from tests import tiny

COLOURS = ("red", "green", "blue", "white", "black")


@pytest.fixture
def file(tmp_path):
    """A run over a tiny owl and a data set of coloured squares."""
    tiny.owl().save(tmp_path / "fresh")
    with (tmp_path / "rows.jsonl").open("w") as rows:
        for number in range(10):
            colour = COLOURS[number % 5]
            tiny.picture(colour, (30 + number, 40)).save(tmp_path / f"{number}.png")
            picture = [{"type": "image", "image": f"{number}.png"}] if number % 4 else []
            question = {"role": "user", "content": [*picture, {"type": "text", "text": "what is this?"}]}
            answer = {"role": "assistant", "content": [{"type": "text", "text": colour}]}
            rows.write(json.dumps({"messages": [question, answer]}) + "\n")
    words = {
        "system": "owl-nano", "init": str(tmp_path / "fresh"), "output_dir": str(tmp_path / "out"), "logging_steps": 1,
        "data": {"squares": {"path": str(tmp_path / "rows.jsonl")}}, "eval_data": {"held": {"path": str(tmp_path / "rows.jsonl")}},
        "stages": [{"name": "align", "max_steps": 3, "batch": 4, "data": ["squares"]},
                   {"name": "instruct", "max_steps": 4, "batch": 4, "data": ["squares"], "train": ["image.connector"],
                    "packing": 120, "lora": {"targets": ["language.blocks.*.attn.body.q"], "rank": 2}}],
        "eval_steps": 3, "eval_samples": 4, "device": "cpu",
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(words))
    return tmp_path / "run.yaml"


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_run_becomes_a_folder_that_answers(file, tmp_path, capsys):
    train(file, ["seed=4"])
    final = tmp_path / "out" / "final"
    assert "7 steps" in capsys.readouterr().out
    assert len(losses(tmp_path / "out")) == 7
    model = scops.load(final)
    assert isinstance(model.chat("what is this?", images=[tiny.picture()], max_tokens=3), str)
    assert Run.load(final / "run.yaml").seed == 4
    assert model.layout.media["image"].pixels.resize == "pillow"
    before, after = scops.load(tmp_path / "fresh").module.state_dict(), model.module.state_dict()
    assert {key.rpartition(".")[2] for key in after.keys() - before.keys()} == {"lora_a", "lora_b"}
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("image.encoder"))


def test_a_run_says_how_pictures_are_resized_and_what_comes_out_keeps_it(file, tmp_path):
    train(file, ["resize=torch", "stages.0.max_steps=1", "stages.1.max_steps=1"])
    assert scops.load(tmp_path / "out" / "final").layout.media["image"].pixels.resize == "torch"


@pytest.mark.skipif(compiler() is None, reason="no compiler here")
def test_compiled_blocks_learn_the_same_and_leave_the_same_folder(file, tmp_path, capsys):
    still = ["stages.instruct.lora.dropout=0", "stages.0.max_steps=1", "gradient_checkpointing=2"]
    train(file, [*still, f"output_dir={tmp_path / 'plain'}"])
    train(file, [*still, "torch_compile=true"])
    assert "compile the blocks" in capsys.readouterr().err
    assert losses(tmp_path / "out") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    plain, made = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("plain", "out"))
    assert plain.keys() == made.keys()


def test_an_interrupt_exits_130_and_the_folder_goes_on(file, tmp_path, monkeypatch, capsys):
    train(file, [f"output_dir={tmp_path / 'whole'}"])
    keep = loop_module.gradients

    def gradients(*args, where, **words):
        if where == "stage 'instruct', step 2":
            os.kill(os.getpid(), signal.SIGINT)
        return keep(*args, where=where, **words)

    monkeypatch.setattr(loop_module, "gradients", gradients)
    with pytest.raises(typer.Exit) as stopped:
        train(file, [])
    assert stopped.value.exit_code == 130
    assert f"go on with: scops train {tmp_path / 'out' / 'run.yaml'}" in capsys.readouterr().err
    monkeypatch.undo()
    train(tmp_path / "out", [])
    assert losses(tmp_path / "out") == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("system=owl-nono", "no system or size is called 'owl-nono'; did you mean 'owl-nano'"),
        ("recipe=owl-tinny", "owl-small has no recipe 'owl-tinny'; did you mean 'owl-tiny'"),
        ("data.squares.path=''", r"data set 'squares' has no path; give data\.squares\.path"),
        ("tokenizer=somewhere", "init .* brings its own parts and tokenizer; leave out tokenizer"),
        ("system_overrides={abstractor: {queries: 4}}", r"image\.connector\.queries"),
        ("system=llama", "is a owl-small, but the run's system 'llama' is a llama"),
        ("stages.align.train=[language.blocs]", "did you mean 'language.blocks'"),
    ],
)
def test_what_does_not_exist_is_named(file, change, error):
    more = ["stages=[finetune]", "data.text.path=" + str(file.parent / "rows.jsonl")] if "llama" in change else []
    with pytest.raises(ValueError, match=error):
        train(file, [change, *more])


def test_a_size_has_its_own_stages_and_a_recipe_chooses_others():
    assert list(stages_of(Run(system="owl-tiny", stages=["align"]))) == ["words", "align", "instruct"]
    assert stages_of(Run(system="owl-nano", stages=["align"]))["align"].train == ("language",)
    assert list(stages_of(Run(system="llama", stages=["lora"], recipe="lora"))) == ["lora"]


def test_a_folder_is_cut_in_another_way_with_the_same_weights(tmp_path):
    """As DocOwl 1.5's second stage begins with the whole view that its first has not."""
    model = tiny.docowl15()
    model.resize_by("torch")
    model.save(tmp_path / "before")
    words = {"system": "docowl1.5-chat", "init": str(tmp_path / "before"), "stages": ["structure"]}
    after = build(Run.check({**words, "system_overrides": {"grids": "grid_1", "whole": ""}}))
    cuts = [len(one.layout.media["image"].cut_of(56, 56)) for one in (model, after)]
    assert cuts == [5, 1]
    assert after.layout.media["image"].pixels.resize == "torch"
    kept = model.module.state_dict()
    assert all(torch.equal(value, kept[path]) for path, value in after.module.state_dict().items())
    with pytest.raises(ValueError, match=r"language\.blocks\.1"):
        build(Run.check({**words, "system_overrides": {"language": {"layers": 1}}}))


def test_what_has_no_spec_of_its_own_is_not_changed():
    with pytest.raises(ValueError, match="owl-tiny is none"):
        scops.load("owl-tiny", overrides={"side": 64})
