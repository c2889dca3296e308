"""Weights rounded at load time: roles, saving, loading, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import scops
from scops.core.stage import Lora
from scops.native.matrix import Quantised
from scops.nn import lora
from tests import tiny


def kinds(model) -> dict[str, int]:
    return {path: part.bits for path, part in model.module.named_modules() if isinstance(part, Quantised)}


def test_the_language_model_is_rounded_and_the_rest_is_kept() -> None:
    model = tiny.owl().quantise("int4")
    found = kinds(model)
    assert all(path.startswith("language.") for path in found)
    assert found.pop("language.head") == 8  # of a tied head, apart from the words' own embedding
    assert set(found.values()) == {4}
    assert len(found) == 2 * 7
    assert model.module.language.embed.weight.dtype == torch.float32


def test_roles_are_rounded_one_by_one() -> None:
    model = tiny.owl().quantise({"image.connector": "int8", "language.blocks": "int4"})
    assert {path.split(".")[0]: bits for path, bits in kinds(model).items()} == {"image": 8, "language": 4}


def test_eight_bits_say_nearly_what_floats_say() -> None:
    model = tiny.mplug()
    prompt = torch.randint(1, 200, (1, 30))
    from tests.conftest import batch_of, example

    batch = batch_of(example(prompt[0].tolist()))
    with torch.no_grad():
        exact = model.module(batch)
        near = model.quantise("int8").module(batch)
    assert (near - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_saved_folder_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    model = tiny.owl().quantise(kind)
    back = scops.load(model.save(tmp_path / "small"))
    assert back.quantised == {"language": kind}
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(back.module.state_dict()[name], tensor), name
    assert back.chat("what is this?", max_tokens=6) == model.chat("what is this?", max_tokens=6)
    assert json.loads((tmp_path / "small" / "config.json").read_text())["scops"]["quantised"] == {"language": kind}


def test_adapters_are_merged_before_loading_rounds(tmp_path: Path) -> None:
    model = tiny.owl()
    lora.add(model.module, Lora(("language.blocks.*.attn.body.q",), rank=2, alpha=4.0))
    with pytest.raises(ValueError, match=r"language\.blocks\.0\.attn\.body\.q has an adapter; merge"):
        model.quantise("int8")
    loaded = scops.load(model.save(tmp_path / "adapted"), quantise="int8")
    assert len(kinds(loaded)) == 2 * 7 + 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("int5", "language cannot be quantised to 'int5'.*int4"),
        ({"langage": "int8"}, "there is no role 'langage' to be quantised; did you mean 'language'"),
        ({"language.embed": "int8"}, "language.embed has no projection that could be quantised"),
    ],
)
def test_what_cannot_be_rounded_is_named(asked, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny.owl().quantise(asked)


def test_nothing_is_rounded_twice_or_saved_as_what_it_is_not(tmp_path: Path) -> None:
    model = tiny.mplug().quantise("int8")
    with pytest.raises(ValueError, match="language is quantised to int8 already"):
        model.quantise("int4")
    with pytest.raises(ValueError, match="'authors' has no place for quantised weights"):
        model.save(tmp_path / "x", "authors")


def test_everything_works_without_kernels(tmp_path: Path) -> None:
    folder = tiny.owl().quantise("int4").save(tmp_path / "small")
    code = f"import scops; print(repr(scops.load({str(folder)!r}).chat('what is this?', max_tokens=3)))"
    environment = os.environ | {"SCOPS_NO_KERNELS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(("'", '"'))


def test_a_compiler_that_fails_is_told_once_and_torch_goes_on(tmp_path: Path) -> None:
    code = (
        "import warnings; warnings.simplefilter('always')\n"
        "from scops.native.library import library\n"
        "assert library() is None and library() is None"
    )
    environment = os.environ | {"CXX": sys.executable, "SCOPS_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.count("could not be compiled") == 1
    assert "plain torch is used" in done.stderr
