"""A save that is killed or finds the disk full leaves what was there before."""

import json
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from scops.checkpoints.read import open_weights
from scops.checkpoints.write import replacing, save_json, save_tensors, save_weights


def state(value: float, rows: int = 64) -> dict[str, torch.Tensor]:
    return {f"layer.{i}": torch.full((rows, 16), float(value + i)) for i in range(4)}


def run(code: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(folder)], capture_output=True, text=True)


def value_of(folder: Path) -> float:
    reader = open_weights(folder)
    found = {float(reader[f"layer.{i}"].mean()) - i for i in range(4)}
    assert len(found) == 1, "mixed from two saves"
    return found.pop()


@pytest.mark.parametrize("shard_bytes", [10_000_000, 5000])
def test_what_was_saved_is_read_back(tmp_path, shard_bytes):
    files = save_weights(tmp_path, state(1.5), shard_bytes=shard_bytes)
    assert [file.name for file in files] == (
        ["model.safetensors"]
        if shard_bytes > 5000
        else [f"model-{i:05d}-of-00004.safetensors" for i in range(1, 5)] + ["model.safetensors.index.json"]
    )
    reader = open_weights(tmp_path)
    assert all(torch.equal(reader[name], tensor) for name, tensor in state(1.5).items())
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(file.name for file in files)


def test_one_layout_after_another_leaves_only_the_last(tmp_path):
    for value, shard_bytes in enumerate([10**7, 5000, 5000, 9000, 10**7, 5000]):
        files = save_weights(tmp_path, state(value), shard_bytes=shard_bytes)
        assert value_of(tmp_path) == value
        assert set(tmp_path.iterdir()) == set(files)


def test_transformers_reads_shards(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, vocab_size=31
    )
    model = transformers.LlamaForCausalLM(config)
    save_weights(tmp_path, model.state_dict(), shard_bytes=2000)
    config.save_pretrained(tmp_path)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_tied_tensors_are_saved_once_and_views_are_saved_whole(tmp_path):
    whole = torch.randn(6, 4)
    tensors = {"embed": whole, "head": whole, "top": whole[:2], "turned": whole.t(), "scalar": torch.tensor(3)}
    save_tensors(tmp_path / "a.safetensors", tensors)
    reader = open_weights(tmp_path)
    assert sorted(reader) == ["embed", "scalar", "top", "turned"]
    assert all(torch.equal(reader[name], tensors[name]) for name in reader)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert json.loads(file.metadata()["tied"]) == {"head": "embed"}
        assert file.metadata()["format"] == "pt"


def test_tensors_without_values_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="'a' is on the meta device"):
        save_tensors(tmp_path / "a.safetensors", {"a": torch.empty(2, device="meta")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shard_bytes", [10**9, 5_000_000])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_killed_save_leaves_the_previous_one(tmp_path, shard_bytes, after):
    save_weights(tmp_path, state(1), shard_bytes=shard_bytes)
    dead = run(
        f"""
        import os, signal, sys, torch
        import scops.checkpoints.write as write
        real, done = write.save_file, []
        def save_file(tensors, path, notes):
            if len(done) == {after}:
                with open(path, "wb") as file:
                    file.write(b"half a file")
                    file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(path)
            real(tensors, path, notes)
        write.save_file = save_file
        state = {{f"layer.{{i}}": torch.full((100_000, 16), 2.0 + i) for i in range(4)}}
        write.save_weights(sys.argv[1], state, shard_bytes={shard_bytes})
        """,
        tmp_path,
    )
    finished = shard_bytes == 10**9 and after > 0
    assert dead.returncode == (0 if finished else -signal.SIGKILL), dead.stderr
    assert value_of(tmp_path) == (2 if finished else 1)
    save_weights(tmp_path, state(3), shard_bytes=shard_bytes)
    assert value_of(tmp_path) == 3
    if shard_bytes == 10**9:
        assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("shard_bytes", [10**9, 5000])
def test_a_full_disk_leaves_the_previous_save_and_names_the_file(tmp_path, shard_bytes):
    save_weights(tmp_path, state(1), shard_bytes=10**9)
    full = run(
        f"""
        import resource, signal, sys, torch
        from scops.checkpoints.write import save_weights
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        state = {{f"layer.{{i}}": torch.full((64, 16), 2.0 + i) for i in range(4)}}
        try:
            save_weights(sys.argv[1], state, shard_bytes={shard_bytes})
        except OSError as error:
            print(error)
        """,
        tmp_path,
    )
    assert full.returncode == 0, full.stderr
    assert "safetensors could not be written" in full.stdout
    assert "what was there before is untouched" in full.stdout
    assert value_of(tmp_path) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_full_disk_leaves_the_previous_json(tmp_path):
    save_json(tmp_path / "a.json", {"name": "é"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(OSError, match="File too large"):
            save_json(tmp_path / "a.json", ["x" * 5000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "name": "é"\n}\n'
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_while_writing_leaves_nothing_behind(tmp_path):
    def fail() -> None:
        with replacing(tmp_path / "deep" / "a") as beside:
            beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list((tmp_path / "deep").iterdir())
    with replacing(tmp_path / "deep" / "a") as beside:
        beside.write_text("whole")
    assert [(file.name, file.read_text()) for file in (tmp_path / "deep").iterdir()] == [("a", "whole")]
