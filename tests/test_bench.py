"""The benches compare what they time: their checks pass on tiny models and fail on different ones. Nothing here is timed."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from bench import (
    data_path,
    decode,
    limits,
    llama_cpp_peer,
    llava_peer,
    next_question,
    peers,
    prefill,
    serve_many,
    start_up,
    systems,
    tiled,
    train_step,
)
from bench.pair import Pair, Seconds, Settings, Skip, interleave, run
from bench.rows import DEMO, LLAVA, Mix, rows_of
from scops.encoders.vit import VitSpec
from scops.generate.desk import Desk
from scops.model import Model
from scops.systems import changed, owl_small
from tests import tiny
from tests.conftest import randomise


def models() -> dict[str, Model]:
    half = tiny.text_only()
    half.module.to(torch.bfloat16)
    return {"float32": tiny.text_only(), "bfloat16": half}


def other(model: Model) -> torch.nn.Module:
    """The peer of a model of other weights."""
    again = tiny.text_only()
    randomise(again.module, scale=0.3)
    assert any(not torch.equal(a, b) for a, b in zip(model.module.parameters(), again.module.parameters(), strict=True))
    return peers.peer_of(again)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decode_and_prefill_check_equal_outputs(dtype: str) -> None:
    model = models()[dtype]
    assert "tokens equal" in decode.check_model(model, context=11, new=5)
    assert "differ by" in prefill.check_model(model, context=11)


@torch.no_grad()
def test_decode_and_prefill_refuse_other_weights() -> None:
    model = tiny.text_only()
    ids, peer = peers.prompt(model, 11), other(model)
    with pytest.raises(ValueError, match="scores of 1 tokens differ by"):
        decode.check(decode.ours(model.module, peers.batch_of(ids), 5), decode.theirs(peer, decode.of_words(ids), 5))
    with pytest.raises(ValueError, match="the next token's scores differ by"):
        prefill.check(prefill.ours(model, ids), prefill.theirs(peer, ids))


@torch.no_grad()
def test_decode_compares_scores_only_while_the_words_are_the_same() -> None:
    model = tiny.text_only()
    mine = decode.ours(model.module, peers.batch_of(peers.prompt(model, 11)), 5)
    ids = [*mine.ids[:2], mine.ids[2] + 1, *mine.ids[3:]]
    scores = mine.scores_NV.clone()
    scores[3:] = 99.0  # what follows another word is another's
    assert decode.check(mine, replace(mine, ids=ids, scores_NV=scores)).startswith("2 of 5 tokens equal")
    scores[2] = 99.0
    with pytest.raises(ValueError, match="scores of 3 tokens"):
        decode.check(mine, replace(mine, ids=ids, scores_NV=scores))


def case(stage: str, mix: Mix, dtype: torch.dtype) -> train_step.Case:
    small = {"abstractor": tiny.ABSTRACTOR, "language": tiny.LANGUAGE, "side": 64}
    spec, found = changed(owl_small.SIZES["owl-tiny"], small), train_step.STAGES[stage]
    adapters = found.lora and replace(found.lora, rank=2, alpha=4.0)
    return train_step.Case("tiny", spec, mix, 7, 260, replace(found, lora=adapters), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("stage", "mix"), [("connector", DEMO), ("LoRA", LLAVA), ("all", DEMO)])
def test_both_training_steps_have_one_loss_and_one_gradient(stage: str, mix: Mix, dtype: torch.dtype) -> None:
    tried = case(stage, mix, dtype)
    ours, theirs = train_step.ours(tried), train_step.transformers(tried)
    assert ours.batch.packed
    assert not theirs.batch.packed
    assert "gradients differ by" in train_step.check(ours, theirs, dtype)
    for side in (ours, theirs):
        before = {path: parameter.detach().clone() for path, parameter in side.learns.items()}
        side.step()
        moved = [not torch.equal(before[path], parameter) for path, parameter in side.learns.items()]
        assert any(moved) if dtype == torch.bfloat16 else sum(moved) > 0.8 * len(moved)


def test_what_the_machine_can_do_is_counted_in_bytes_and_operations() -> None:
    spec = changed(owl_small.SIZES["owl-tiny"], {"abstractor": tiny.ABSTRACTOR, "language": tiny.LANGUAGE, "side": 64})
    stage = replace(limits.SMALL.stage, lora=replace(limits.SMALL.stage.lora, rank=2, alpha=4.0))
    member = limits.Member("tiny", lambda: owl_small.build(spec), stage)
    system, machine = limits.opened(member, torch.device("cpu")), limits.Machine(torch.device("cpu"), 1e9, 1e12)
    language = spec.language
    layers, heads = language.layers, language.kv_heads * language.head_width
    block = 2 * language.dim * (language.heads * language.head_width + heads) + 3 * language.dim * language.hidden
    norms = language.dim * (2 * layers + 1)
    weights = layers * block + norms + language.vocab * language.dim
    decoded = limits.decoding(member, system, machine, 9, rounds=2)
    assert decoded.amount == limits.NEW * 2 * (weights + 2 * layers * heads * (9 + limits.NEW // 2))
    read = limits.reading(member, system, machine, 11, rounds=2)
    assert read.amount == 2 * 11 * (layers * block + 2 * layers * language.dim)
    assert len(decoded.seconds) == len(read.seconds) == 2
    system = limits.opened(member, torch.device("cpu"))
    trained = limits.training(member, system, machine, rounds=1)
    tokens = limits.DOCUMENTS * limits.DOCUMENT
    attention = 4 * layers * limits.DOCUMENT * language.heads * language.head_width  # forward, all keys
    assert 4 * layers * block < trained.amount / tokens < 4 * layers * block + 4 * attention + 4 * weights


@pytest.mark.parametrize("path", ["image.connector.project.weight", "language.blocks.1.attn.body.k.lora_b"])
def test_a_training_step_with_other_weights_is_refused(path: str) -> None:
    tried = case("LoRA", DEMO, torch.float32)
    ours, theirs = train_step.ours(tried), train_step.transformers(tried)
    with torch.no_grad():
        theirs.learns[path].mul_(1.5)
    with pytest.raises(ValueError, match="differs by"):
        train_step.check(ours, theirs, torch.float32)


@pytest.mark.parametrize("mix", [DEMO, LLAVA])
def test_training_rows_have_the_measured_lengths(mix: Mix) -> None:
    for row in rows_of(owl_small.SIZES["owl-tiny"], 60, mix=mix):
        kind = mix[row.dataset]
        assert kind.learnt[0] <= row.learn_T.sum() <= kind.learnt[1]
        assert kind.pictures[0] <= len(row.spans) <= kind.pictures[1]
        most = max(kind.words[1], 4 + kind.pictures[1] + kind.learnt[1])
        assert kind.words[0] <= len(row) - sum(span.length for span in row.spans) <= most


def test_pictures_and_rows_equal_the_processors_of_transformers() -> None:
    files = [data_path.photograph(seed, (61, 37)) for seed in range(2)]
    crop = replace(data_path.CLIP, height=24, width=24)
    assert "equal to the bit" in data_path.check_pictures([*files, tiny.picture()], crop)
    rows = data_path.Rows(replace(tiny.owl().layout, context=400), tiny.tokenizer())
    samples = [data_path.with_picture(files[0], "row 0"), data_path.of_text("row 1")]
    assert data_path.check_rows(rows, samples) == "ids and pixels of 2 rows equal"


def test_tiles_equal_the_processors_of_transformers_and_torchs_are_close() -> None:
    files = [data_path.photograph(seed, (61, 37)) for seed in range(2)]
    for made in (tiled.llava_next(14, data_path.CLIP), tiled.idefics3(14)):
        assert tiled.check_tiles(files, made, "pillow") == "2 pictures equal to the bit"
        assert tiled.check_tiles(files, made, "torch").startswith("numbers differ by 0.0")
    other = replace(made, pixels=replace(made.pixels, resample="bilinear"))
    for resize in ("pillow", "torch"):
        with pytest.raises(ValueError, match=f"resized by {resize} differ by"):
            tiled.check_tiles(files, other, resize)


def test_rows_that_differ_are_refused() -> None:
    rows = data_path.Rows(tiny.owl().layout, tiny.tokenizer())
    rows.each += 1
    with pytest.raises(ValueError, match=r"row 0: \d+ ids"):
        data_path.check_rows(rows, [data_path.with_picture(data_path.photograph(0, (61, 37)), "row 0")])


def test_both_sides_start() -> None:
    assert start_up.check(start_up.CASES[1]) == "both start, 'chat' is written"
    with pytest.raises(ValueError, match="does not write"):
        start_up.check(replace(start_up.CASES[0], shown="nothing"))


def test_sides_take_turns_and_the_first_of_a_round_alternates() -> None:
    calls: list[str] = []

    def side(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds

    found = interleave(lambda: side("ours", 2.0), lambda: side("theirs", 3.0), 3)
    assert calls == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert found == Seconds((2.0,) * 3, (3.0,) * 3)
    with pytest.raises(ValueError, match="at least 1 round"):
        interleave(lambda: 1.0, lambda: 1.0, 0)


def test_results_are_kept_under_what_hardware_and_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def measure(settings: Settings) -> Iterator[Pair | Skip]:
        assert settings == Settings(3, torch.get_num_threads())
        yield Pair("reading", "a peer", "tokens", 8, "equal", Seconds((1.0, 2.0, 4.0), (2.0, 8.0, 4.0)))
        yield Pair("starting", "a peer", "start", None, "equal", Seconds((0.1,), (0.2,)))
        yield Skip("another", "it is not here")

    threads = str(torch.get_num_threads())
    monkeypatch.setattr(
        sys, "argv", ["bench", "--rounds", "3", "--threads", threads, "--json", "--results", str(tmp_path)]
    )
    run("toy", measure, rounds=9)
    (kept,) = tmp_path.glob("toy_*.json")
    result = json.loads(kept.read_text())
    assert result == json.loads(capsys.readouterr().out)
    assert kept.stem.startswith("toy_")
    assert kept.stem.endswith(f"_{result['date']}")
    reading, starting = result["pairs"]
    assert reading["numbers"] == {"ours": 4.0, "theirs": 2.0}
    assert reading["ratio"] == {"median": 2.0, "min": 1.0, "quartiles": [1.5, 3.0], "max": 4.0}
    assert starting["counted"] == "ms/start"
    assert starting["numbers"] == {"ours": 100.0, "theirs": 200.0}
    assert result["skipped"] == [{"case": "another", "why": "it is not here"}]
    shown = kept.with_suffix(".md").read_text()
    assert "| reading | a peer | 4 | 2 | tokens/s | 2.000 | 1.000 | 4.000 | equal |" in shown
    assert "Skipped: another, it is not here." in shown


def test_cases_that_are_not_measured_again_stay_as_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(settings: Settings) -> Iterator[Pair]:
        for case in ("reading long", "reading short", "writing"):
            if settings.only in case:
                yield Pair(case, "a peer", "tokens", 8, "equal", Seconds((1.0,), (2.0 + bool(settings.only),)))

    for only in ("", "reading"):
        monkeypatch.setattr(sys, "argv", ["bench", "--json", "--results", str(tmp_path), "--only", only])
        run("toy", measure, rounds=1)
        monkeypatch.setattr("bench.pair._commit", lambda: "another commit")
    (kept,) = tmp_path.glob("toy_*.json")
    result = json.loads(kept.read_text())
    assert [(pair["case"], pair["ratio"]["median"]) for pair in result["pairs"]] == [
        ("writing", 2.0), ("reading long", 3.0), ("reading short", 3.0),
    ]  # fmt: skip
    assert [pair["commit"] == "another commit" for pair in result["pairs"]] == [False, True, True]
    assert (
        f"Measured at {result['pairs'][0]['commit']} on {result['date']}: writing."
        in kept.with_suffix(".md").read_text()
    )


@pytest.mark.parametrize("bench", [decode, prefill])
def test_llama_cpp_is_skipped_with_a_line_where_it_is_not_installed(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp_peer, "is_here", lambda: False)
    assert next(bench.measure(Settings(1, 1))) == Skip("llama.cpp", "llama-cpp-python is not installed")


SMALL_EYES = VitSpec(dim=12, hidden=20, layers=3, heads=2, image=42)


@torch.no_grad()
def test_many_requests_write_what_transformers_writes() -> None:
    model = tiny.text_only()
    system = llava_peer.llava(model, SMALL_EYES)
    peer, processor = llava_peer.peer_of(system, model, SMALL_EYES), llava_peer.endless(model)
    shown = [llava_peer.picture(number, SMALL_EYES) if number else None for number in range(3)]
    asked = [llava_peer.asked([3, 4], one, [5, 6, 7], SMALL_EYES) for one in shown]
    wanted = serve_many.Work(asked, [3, 5, 4])
    mine, other = (
        serve_many.ours(system, processor, wanted, sure=True),
        serve_many.one_by_one(peer, wanted, model.dtype),
    )
    assert serve_many.check(mine, other, model.dtype).startswith("12 of 12 tokens equal")
    ids = [[token + 1 for token in row] for row in other.ids]
    with pytest.raises(ValueError, match="though ours was"):
        serve_many.check(mine, replace(other, ids=ids), model.dtype)
    less = [[one - 1 for one in row] for row in other.logprobs]
    with pytest.raises(ValueError, match="log-probabilities differ"):
        serve_many.check(mine, replace(other, logprobs=less), model.dtype)


@torch.no_grad()
def test_next_question_compares_equal_scores_and_refuses_others() -> None:
    model = tiny.text_only()
    system = llava_peer.llava(model, SMALL_EYES)
    peer = llava_peer.peer_of(system, model, SMALL_EYES)
    desk = Desk(system, llava_peer.endless(model), tokens=320)
    questions = next_question.Asking(model, SMALL_EYES, same=True)
    assert "differ by" in next_question.check(desk, peer, questions, model.dtype)
    randomise(system.image.connector, scale=3.0)
    fresh = Desk(system, llava_peer.endless(model), tokens=320)
    with pytest.raises(ValueError, match="scores of question 0 differ"):
        next_question.check(fresh, peer, questions, model.dtype)


def test_no_question_is_asked_twice_and_one_picture_stays() -> None:
    questions = next_question.Asking(tiny.text_only(), SMALL_EYES, same=True)
    made = [questions[number] for number in range(6)]
    assert len({one.ids_T.tobytes() for one in made}) == 6
    assert all(np.array_equal(one.media["image"][0], made[0].media["image"][0]) for one in made)


SMALL = {
    "TOWER": {
        "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    },
    "LANGUAGE": {"hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 4, "num_attention_heads": 4},
    "OPT": {"hidden_size": 16, "ffn_dim": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 16},
    "ASKING": {
        "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 10, "encoder_hidden_size": 12,
    },
    "RESAMPLER": {"resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 6, "resampler_n_latents": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_the_bench_of_systems_compares_equal_answers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for numbers, small in SMALL.items():
        monkeypatch.setattr(systems, numbers, getattr(systems, numbers) | small)
    both = systems.SYSTEMS[name](torch.float32)
    mine, other = decode.ours(both.ours, both.batch, 5), decode.theirs(both.theirs, both.asked, 5)
    assert decode.check(mine, other).startswith("5 of 5 tokens equal")
    with torch.no_grad():
        for parameter in both.ours.parameters():
            parameter.mul_(1.3)
    with pytest.raises(ValueError, match="differ by"):
        decode.check(decode.ours(both.ours, both.batch, 5), other)
