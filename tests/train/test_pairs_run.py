"""Pre-training over pairs, then tuning: queues and shadow weights are kept with a run and go on bit by bit."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import scops
from scops.cli.train import train
from scops.train import loop as loop_module
from tests import tiny

COLOURS = ("red", "green", "blue", "white", "black")


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    tiny.skip().save(folder / "fresh")
    with (folder / "pairs.jsonl").open("w") as pairs, (folder / "vqa.jsonl").open("w") as vqa:
        for number in range(12):
            colour = COLOURS[number % 5]
            tiny.picture(colour, (30 + number, 40)).save(folder / f"{number}.png")
            picture = {"type": "image", "image": f"{number}.png"}
            text = {"role": "assistant", "content": [{"type": "text", "text": f"an owl on a {colour} branch"}]}
            pairs.write(json.dumps({"messages": [{"role": "user", "content": [picture]}, text]}) + "\n")
            asked = {"role": "user", "content": [picture, {"type": "text", "text": "what is this?"}]}
            vqa.write(json.dumps({"messages": [asked, text]}) + "\n")
    return folder


def run(data: Path, out: Path) -> None:
    words = {
        "system": "mplug-base", "init": str(data / "fresh"), "output_dir": str(out), "logging_steps": 1, "save_steps": 2,
        "data": {name: {"path": str(data / f"{name}.jsonl")} for name in ("pairs", "vqa")},
        "eval_data": {"held": {"path": str(data / "pairs.jsonl")}}, "eval_steps": 2, "eval_samples": 4, "device": "cpu",
        "stages": [{"name": "pretrain", "max_steps": 5, "batch": 4}, {"name": "vqa", "max_steps": 2, "batch": 4}],
    }  # fmt: skip
    (data / "run.yaml").write_text(yaml.safe_dump(words))
    train(data / "run.yaml", ["seed=4"])


def losses(folder: Path) -> dict[int, tuple]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["grad_norm"]) for line in lines if "grad_norm" in line}


@pytest.mark.parametrize("steps", [3, 6])
def test_a_run_of_mplug_goes_on_bit_by_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    run(data, tmp_path / "whole")
    whole, count = loop_module.gradients, [0]

    def broken(*args: object, **words: object) -> object:
        if count[0] == steps:
            raise Stop
        count[0] += 1
        return whole(*args, **words)

    monkeypatch.setattr(loop_module, "gradients", broken)
    with pytest.raises(Stop):
        run(data, tmp_path / "parts")
    monkeypatch.undo()
    torch.manual_seed(99)
    run(data, tmp_path / "parts")
    assert len(losses(tmp_path / "whole")) == 7
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    one, two = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "parts"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    model = scops.load(tmp_path / "whole" / "final")
    assert isinstance(model.chat("what is this?", images=[tiny.picture()], max_tokens=3), str)
