"""One face for every kind of weight file, and errors that say what a file is instead."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scops.checkpoints.keymap import KeyMap, KeyMismatch, same, split
from scops.checkpoints.read import ShardedReader, TorchReader, open_weights
from scops.checkpoints.reader import MappedReader, StateReader
from scops.checkpoints.write import save_weights


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {
        "a.weight": torch.randn(5, 3),
        "a.bias": torch.randn(5).bfloat16(),
        "b.count": torch.tensor(7),
        "b.half": torch.randn(2, 1, 3).half(),
        "b.empty": torch.zeros(0, 4),
    }


def write_safetensors(folder: Path) -> Path:
    save_file(state(), folder / "model.safetensors")
    return folder / "model.safetensors"


def write_shards(folder: Path) -> Path:
    save_weights(folder, state(), shard_bytes=40)
    return folder


def write_torch(folder: Path) -> Path:
    torch.save(state(), folder / "pytorch_model.bin")
    return folder


def write_legacy(folder: Path) -> Path:
    torch.save(state(), folder / "weights.pth", _use_new_zipfile_serialization=False)
    return folder / "weights.pth"


def write_wrapped(folder: Path) -> Path:
    torch.save({"epoch": 3, "model": {"state_dict": state()}}, folder / "last.pt")
    return folder


def write_torch_shards(folder: Path) -> Path:
    parts = {"pytorch_model-1.bin": ["a.weight", "b.count"], "pytorch_model-2.bin": ["a.bias", "b.half", "b.empty"]}
    for file, names in parts.items():
        torch.save({name: state()[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


WRITERS = [write_safetensors, write_shards, write_torch, write_legacy, write_wrapped, write_torch_shards]


@pytest.mark.parametrize("write", WRITERS)
def test_every_kind_gives_the_same_names_shapes_dtypes_and_bits(write, tmp_path):
    reader, wanted = open_weights(write(tmp_path)), state()
    assert sorted(reader) == sorted(wanted)
    assert len(reader) == 5
    assert "a.bias" in reader
    assert "a.other" not in reader
    for name, tensor in wanted.items():
        assert reader.shape(name) == tuple(tensor.shape)
        assert reader.dtype(name) == tensor.dtype == reader[name].dtype
        assert torch.equal(reader[name], tensor)
    with pytest.raises(KeyError, match=r"has no tensor 'a.wieght'.*a\.weight"):
        reader["a.wieght"]


def test_the_kind_says_what_was_opened(tmp_path):
    assert open_weights(write_wrapped(tmp_path)).kind == "torch file, under 'model', under 'state_dict' beside epoch"
    assert open_weights(write_safetensors(tmp_path)).kind == "safetensors"


def test_a_folder_with_an_index_is_read_by_its_index(tmp_path):
    write_safetensors(tmp_path)
    write_torch_shards(tmp_path)
    assert open_weights(tmp_path).kind == "safetensors"
    (tmp_path / "model.safetensors").unlink()
    assert open_weights(tmp_path).kind == "2 shards"


BROKEN = {
    "html": (b"<!DOCTYPE html><html>not found</html>", "is a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9876\n", "git-lfs pointer to 9876 bytes"),
    "empty": (b"", "is empty"),
    "json": (b'{"error": "Repository not found"}', "is JSON, not weights"),
    "text": (b"hello, this is a text file", "starts with b'hello"),
    "short": (b"\x01", "starts with"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "x.gguf"])
def test_what_is_no_weights_is_named(kind, name, tmp_path):
    content, message = BROKEN[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        open_weights(tmp_path)
    assert name in str(error.value)


@pytest.mark.parametrize("write", [write_safetensors, write_torch, write_legacy])
def test_a_file_cut_short_is_named(write, tmp_path):
    path = write(tmp_path)
    path = next(path.iterdir()) if path.is_dir() else path
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"{path.name} \({size} bytes\) is not a whole"):
            open_weights(path)


def test_a_legacy_file_cut_anywhere_is_named(tmp_path):
    path = write_legacy(tmp_path)
    whole = path.read_bytes()
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"\({size} bytes\) is not a whole"):
            open_weights(path)


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_a_pickle_of_code_is_refused_and_never_run(tmp_path, capsys):
    torch.save({"a": torch.zeros(1), "evil": Evil()}, tmp_path / "a.pt")
    (tmp_path / "b.bin").write_bytes(pickle.dumps({"evil": Evil()}, protocol=2))
    for name in ("a.pt", "b.bin"):
        with pytest.raises(ValueError, match=rf"{name} is .*(needs .*print|whole)"):
            open_weights(tmp_path / name)
    assert "run" not in capsys.readouterr().out.split()


def test_entries_that_are_no_tensors_are_named(tmp_path):
    torch.save({"a": torch.zeros(1), "step": 4}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"1 entries that are no tensors: 'step' \(int\)"):
        open_weights(tmp_path / "a.pt")
    torch.save([torch.zeros(1)], tmp_path / "a.pt")
    with pytest.raises(ValueError, match="holds a list"):
        open_weights(tmp_path / "a.pt")


def test_missing_things_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_weights(tmp_path / "nothing")
    (tmp_path / "readme.md").write_text("hi")
    with pytest.raises(FileNotFoundError, match=r"holds no weights but readme\.md"):
        open_weights(tmp_path)
    write_shards(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    gone = index["weight_map"]["b.half"]
    (tmp_path / gone).unlink()
    with pytest.raises(FileNotFoundError, match=f"1 are missing: {gone}"):
        open_weights(tmp_path)


def test_an_index_that_lies_is_an_error(tmp_path):
    write_torch_shards(tmp_path)
    path = tmp_path / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["b.half"]
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"disagree on 1 names: \['b.half'\]"):
        open_weights(tmp_path)["a.bias"]
    path.write_text(json.dumps({"weight_map": {"a": "../elsewhere.bin"}}))
    with pytest.raises(ValueError, match="outside its folder"):
        open_weights(tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="is not an index of shards"):
        open_weights(tmp_path)


def test_two_candidates_are_not_guessed_between(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        save_file(state(), tmp_path / name)
    with pytest.raises(ValueError, match=r"2 files \*\.safetensors.*name the one"):
        open_weights(tmp_path)


def test_shards_are_opened_only_when_asked(tmp_path):
    reader = open_weights(write_torch_shards(tmp_path))
    assert isinstance(reader, ShardedReader)
    (tmp_path / "pytorch_model-2.bin").write_bytes(b"PK\x03\x04 broken")
    assert torch.equal(reader["a.weight"], state()["a.weight"])
    with pytest.raises(ValueError, match=r"pytorch_model-2\.bin"):
        reader["a.bias"]


def test_a_mapped_reader_shows_our_names_shapes_and_tensors():
    theirs = {"qkv": torch.randn(6, 2).half(), "o": torch.randn(3)}
    keys = KeyMap(split("qkv", ("q", "k", "v")), same("o", "out"))
    reader = MappedReader(StateReader(theirs), keys)
    assert list(reader) == ["q", "k", "v", "out"]
    for name, tensor in keys.load(theirs).items():
        assert (reader.shape(name), reader.dtype(name)) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(reader[name], tensor)
    assert reader.sources["k"] == ("qkv",)
    with pytest.raises(KeyMismatch, match="state dict"):
        MappedReader(StateReader(theirs | {"x": torch.zeros(1)}), keys)


def test_a_zipped_torch_file_is_mapped_and_still_private(tmp_path):
    path = tmp_path / "a.bin"
    torch.save({"a": torch.ones(4)}, path)
    TorchReader(path)["a"].zero_()
    assert torch.equal(TorchReader(path)["a"], torch.ones(4))
