"""A whole run: stages, files, refusals."""

import json
from dataclasses import replace

import pytest
import torch
import yaml

from scops.train import checkpoint
from scops.train.loop import train
from scops.train.run import Run
from tests.train.toy import DATA, STAGES, Toy, Writer, go, rows, run, save


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_each_stage_moves_exactly_what_it_names(tmp_path):
    fresh, module = Toy(), Toy()
    result = go(tmp_path, module)
    before, after = dict(fresh.named_parameters()), dict(module.named_parameters())
    moved = {path for path in before if not torch.equal(before[path], after[path])}
    assert moved == {"image.connector.0.weight", "image.connector.0.bias"}
    assert set(after) - set(before) == {f"language.{p}.lora_{ab}" for p in ("q", "up") for ab in "ab"}
    assert all(after[f"language.{p}.lora_b"].any() for p in ("q", "up"))
    assert torch.equal(fresh.image.encoder[1].running_mean, module.image.encoder[1].running_mean)
    assert result.steps == 30


def test_the_folder_tells_the_run(tmp_path):
    result = go(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run.yaml", "metrics.jsonl", "tensorboard", "loss.png", "final", "checkpoint-25", "checkpoint-30"}
    assert Run.load(tmp_path / "run.yaml") == run(tmp_path) == Run.load(result.final / "run.yaml")
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 31))
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_second", "samples_per_second", "a"} <= set(
        lines(tmp_path)[0]
    )
    assert result.losses == {"align": lines(tmp_path)[13]["loss"], "tune": lines(tmp_path)[29]["loss"]}


def test_it_learns(tmp_path):
    stage = replace(STAGES["align"], train=("image.connector", "language"), steps=120, lr=3e-2)
    train(run(tmp_path, stages=["align"], save_steps=500), Toy(), {"align": stage}, Writer(), DATA, save=save)
    found = [line["loss"] for line in lines(tmp_path)]
    assert sum(found[-5:]) < sum(found[:5]) / 3


def test_a_line_is_the_mean_over_all_tokens_since_the_last(tmp_path):
    go(tmp_path / "each", stages=["align"])
    go(tmp_path / "some", stages=["align"], logging_steps=4)
    state = [line["step"] for line in lines(tmp_path / "some")]
    assert state == [4, 8, 12, 14]
    first = [line["loss"] for line in lines(tmp_path / "each")[:4]]
    assert min(first) < lines(tmp_path / "some")[0]["loss"] < max(first)


def test_accumulation_and_packing_leave_the_losses_as_they_are(tmp_path):
    still = {"lora": {"dropout": 0.0}}
    stages = {name: replace(stage, train=("image.connector.0",)) for name, stage in STAGES.items()}

    def losses(name, **words):
        module = Toy()
        for dropout in (m for m in module.modules() if isinstance(m, torch.nn.Dropout)):
            dropout.p = 0.0
        given = run(tmp_path / name, stages=[{"name": "tune", **still, **words.pop("stage", {})}], **words)
        train(given, module, stages, Writer(), DATA, save=save)
        return [line["loss"] for line in lines(tmp_path / name)]

    plain = losses("plain")
    assert losses("cut", gradient_accumulation_steps=3) == pytest.approx(plain, rel=1e-5)
    assert len(losses("packed", stage={"packing": 25})) == len(plain)


def test_held_out_loss_comes_every_eval_steps_and_disturbs_nothing(tmp_path):
    go(tmp_path / "plain")
    held = {"c": rows(9, start=500), "d": rows(4, start=600, pictures=False)}
    words = {"eval_steps": 7, "eval_samples": 5, "eval_data": {"c": {}, "d": {}}}
    module = Toy()
    train(run(tmp_path / "eval", **words), module, STAGES, Writer(), DATA, save=save, held_out=held)
    found = [line for line in lines(tmp_path / "eval") if "eval_loss" in line]
    assert [line["step"] for line in found] == [7, 14, 21, 28]
    assert {"eval_c", "eval_d"} <= set(found[0])
    losses = [line["loss"] for line in lines(tmp_path / "eval") if "loss" in line]
    assert losses == [line["loss"] for line in lines(tmp_path / "plain")]
    assert module.image.connector.training


def test_a_frozen_part_that_moves_stops_the_save(tmp_path):
    class Leaky(Toy):
        def hidden(self, batch):
            with torch.no_grad():
                self.language.embed.weight[0, 0] += 1
            return super().hidden(batch)

    with pytest.raises(
        ValueError, match="language changed during stage 'align' but should be frozen; nothing was saved"
    ):
        go(tmp_path, Leaky())
    assert not checkpoint.complete(tmp_path)


def test_a_role_without_gradient_is_warned_of(tmp_path, capsys):
    train(run(tmp_path, stages=[{"name": "align", "data": ["b"]}]), Toy(), STAGES, Writer(), DATA, save=save)
    assert "image.connector should learn, but all of its gradient is zero" in capsys.readouterr().err


def test_the_table_comes_before_the_first_step(tmp_path, capsys):
    go(tmp_path)
    said = capsys.readouterr().err
    assert said.index("image.encoder") < said.index("align 1/14")
    assert "frozen" in said


def test_bad_rows_are_reported_and_refused(tmp_path, capsys):
    data = {**DATA, "a": rows(17, bad=(2, 5))}
    train(run(tmp_path / "few"), Toy(), STAGES, Writer(), data, save=save)
    assert "2 of 17 rows of 'a' cannot be used" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"more than max_bad_share 0.01"):
        train(run(tmp_path / "many", max_bad_share=0.01), Toy(), STAGES, Writer(), data, save=save)


def test_a_missing_data_set_is_named(tmp_path):
    with pytest.raises(ValueError, match="the run learns from 'b', but no such data set was given"):
        train(run(tmp_path), Toy(), STAGES, Writer(), {"a": DATA["a"]}, save=save)


def test_bfloat16_trains_and_saves(tmp_path):
    module = Toy()
    go(tmp_path, module, bf16=True)
    assert module.language.embed.weight.dtype == torch.bfloat16
    assert module.language.q.lora_a.dtype == torch.float32
    assert all(line["loss"] == line["loss"] for line in lines(tmp_path))


def test_alignment_runs_as_a_stage_of_its_own(tmp_path):
    stage = replace(STAGES["align"], objective="word_alignment", data=("a",), steps=40)
    train(run(tmp_path, stages=["align"]), Toy(), {"align": stage}, Writer(), DATA, save=save)
    found = lines(tmp_path)
    assert sum(line["loss"] for line in found[-10:]) < sum(line["loss"] for line in found[:10]) * 0.8
    assert 0 <= found[-1]["accuracy"] <= 1


def test_another_run_may_not_go_on_from_these_checkpoints(tmp_path):
    go(tmp_path)
    with pytest.raises(ValueError, match=r"learning_rate was None and is 0.5"):
        go(tmp_path, learning_rate=0.5)
    with pytest.raises(ValueError, match="has checkpoints"):
        train(run(tmp_path), Toy(), STAGES, Writer(), DATA, save=save, resume=False)
    with pytest.raises(ValueError, match=r"the frozen .*is not what the checkpoint was trained with"):
        go(tmp_path, Toy(seed=1))
    go(tmp_path, logging_steps=3)
    assert yaml.safe_load((tmp_path / "run.yaml").read_text())["logging_steps"] == 3
