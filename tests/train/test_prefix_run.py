"""Systems with a Q-Former are trained by the command line, from saved folders, and talk afterwards."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import scops
from scops.cli.app import main
from scops.cli.train import train
from tests import tiny

COLOURS = ("red", "green", "blue")
SIZES = {
    "blip2_opt": ("blip2-opt-2.7b", "generate", "pairs"),
    "blip2_t5": ("blip2-flan-t5-xl", "generate", "pairs"),
    "instructblip": ("instructblip-vicuna-7b", "instruct", "instructions"),
    "instructblip_t5": ("instructblip-flan-t5-xl", "instruct", "instructions"),
}


def run_file(name: str, home: Path, **changes: object) -> Path:
    size, stage, data = SIZES[name]
    tiny.MODELS[name]().save(home / "fresh")
    with (home / "rows.jsonl").open("w") as rows:
        for number in range(6):
            tiny.picture(COLOURS[number % 3], (30 + number, 40)).save(home / f"{number}.png")
            asked = [
                {"type": "image", "image": f"{number}.png"},
                {"type": "text", "text": "what is this?"[: 5 + number]},
            ]
            answer = {
                "role": "assistant",
                "content": [{"type": "text", "text": f"an owl on a {COLOURS[number % 3]} branch"}],
            }
            rows.write(json.dumps({"messages": [{"role": "user", "content": asked}, answer]}) + "\n")
    words = {
        "system": size, "init": str(home / "fresh"), "output_dir": str(home / "out"), "logging_steps": 1, "device": "cpu",
        "data": {data: {"path": str(home / "rows.jsonl")}}, "stages": [{"name": stage, "max_steps": 2, "batch": 3}], **changes,
    }  # fmt: skip
    (home / "run.yaml").write_text(yaml.safe_dump(words))
    return home / "run.yaml"


@pytest.mark.parametrize("name", SIZES)
def test_two_steps_by_the_command_line_and_an_answer(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(run_file(name, tmp_path))])
    assert not stopped.value.code, capsys.readouterr().err
    before, after = (scops.load(tmp_path / part).module.state_dict() for part in ("fresh", "out"))
    moved = {path for path in before if not torch.equal(before[path], after[path])}
    assert moved
    assert all(path.startswith("image.connector.") for path in moved)
    with pytest.raises(SystemExit) as stopped:
        main(["chat", str(tmp_path / "out" / "final"), str(tmp_path / "0.png"), "what is this?", "--max-tokens", "4"])
    assert not stopped.value.code
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    "words", [{"system": "blip2-flan-t5-xl"}, {"system": "blip2-opt-2.7b", "recipe": "blip2-flan-t5-xl"}]
)
@pytest.mark.parametrize("init", [True, False])
def test_an_opt_model_does_not_follow_the_recipe_of_a_flan_t5(words: dict, init: bool, tmp_path: Path) -> None:
    begins = {} if init else {"init": None, "pretrained": False, "tokenizer": str(tmp_path / "fresh")}
    if not init and words["system"] != "blip2-opt-2.7b":
        begins["system_overrides"] = {"language": {"kind": "OptSpec"}}
    path = run_file("blip2_opt", tmp_path, **words, **begins)
    named = " ".join(f"{name} {value!r}" for name, value in words.items() if value == "blip2-flan-t5-xl")
    with pytest.raises(ValueError, match=f"has a language of OptSpec, but the run's {named} is of one of T5Spec"):
        train(path, [])


def test_packing_is_refused_where_replies_are_a_decoder_s(tmp_path: Path) -> None:
    stages = [{"name": "generate", "max_steps": 1, "batch": 2, "packing": 100}]
    with pytest.raises(ValueError, match="leave out `packing`"):
        train(run_file("blip2_t5", tmp_path, stages=stages), [])
