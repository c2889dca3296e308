"""A model whose weights lie in several places: parts.json, and what is wrong with one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import scops
from scops.checkpoints.hub_clip import HUB_CLIP
from scops.checkpoints.hub_llama import HUB_LLAMA
from scops.checkpoints.write import save_tensors
from scops.model import Model
from scops.model.opening import reading
from scops.systems import module_of, spec_to_json
from tests import tiny

ASKED = "what is this?"


def below(part: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(part): x for name, x in state.items() if name.startswith(part)}


def spread(home: Path, **changes: Any) -> Model:
    """A tiny mPLUG-Owl: its tower in CLIP's file, its language model in a folder, and what it trained in a .pth."""
    made = tiny.mplug()
    state = made.module.state_dict()
    (home / "owl").mkdir(parents=True)
    (home / "llama").mkdir()
    clip = HUB_CLIP.save(below("image.encoder.", state))
    save_tensors(home / "clip.safetensors", clip | {"text_model.final_layer_norm.weight": torch.ones(3)})
    save_tensors(home / "llama" / "model.safetensors", HUB_LLAMA.save(below("language.", state)))
    published = module_of("mplug-owl").KEYS["authors"](made.spec).save(state)
    own = {name: x for name, x in published.items() if name.startswith(("abstractor.", "query_tokens"))}
    torch.save(own, home / "owl" / "trained.pth")
    made.tokenizer.save(home / "llama")
    said = {
        "size": "mplug-owl-llama-7b",
        "overrides": spec_to_json(made.spec),
        "tokenizer": "../llama",
        "weights": {"": "trained.pth", "image.encoder": "../clip.safetensors", "language": "../llama"},
    }
    said = {name: value for name, value in {**said, **changes}.items() if value is not None}
    (home / "owl" / "parts.json").write_text(json.dumps(said))
    return made


def test_a_model_in_parts_answers_like_the_whole(tmp_path: Path) -> None:
    made = spread(tmp_path)
    loaded = scops.load(tmp_path / "owl")
    state = loaded.module.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in made.module.state_dict().items())
    assert loaded.chat(ASKED, [tiny.picture()], max_tokens=9) == made.chat(ASKED, [tiny.picture()], max_tokens=9)
    layout, tokenizer = reading(tmp_path / "owl")
    assert (layout, tokenizer.vocab_size) == (made.layout, made.tokenizer.vocab_size)
    whole = scops.load(loaded.save(tmp_path / "whole"))
    assert whole.chat(ASKED, max_tokens=9) == made.chat(ASKED, max_tokens=9)


def test_what_the_system_published_counts_before_the_same_of_a_part(tmp_path: Path) -> None:
    made = spread(tmp_path)
    own = torch.load(tmp_path / "owl" / "trained.pth", weights_only=True)
    tuned = torch.randn(24)
    torch.save(own | {"language_model.model.norm.weight": tuned}, tmp_path / "owl" / "trained.pth")
    loaded = scops.load(tmp_path / "owl")
    assert torch.equal(loaded.module.language.norm.weight, tuned)
    assert torch.equal(loaded.module.language.embed.weight, made.module.language.embed.weight)


def test_a_part_may_be_fresh_for_a_first_stage(tmp_path: Path) -> None:
    made = spread(
        tmp_path, weights={"image.encoder": "../clip.safetensors", "language": "../llama"}, fresh=["image.connector"]
    )
    torch.manual_seed(3)
    loaded = scops.load(tmp_path / "owl")
    assert not torch.equal(loaded.module.image.connector.queries, made.module.image.connector.queries)
    assert loaded.module.image.connector.queries.isfinite().all()
    assert torch.equal(loaded.module.language.norm.weight, made.module.language.norm.weight)


WRONG = {
    "no language model": (
        {"weights": {"": "trained.pth", "image.encoder": "../clip.safetensors"}},
        "come from no source",
    ),
    "no such part": ({"weights": {"langage": "../llama"}}, "has no part 'langage'.*language"),
    "no tokenizer": ({"tokenizer": None}, "has no 'tokenizer'"),
    "no such entry": ({"wieghts": {}}, "has an entry 'wieghts'.*weights"),
    "another's weights": (
        {"weights": {"": "trained.pth", "image.encoder": "../llama", "language": "../llama"}},
        "fits no layout of image.encoder",
    ),
    "no such file": ({"weights": {"language": "../vicuna"}}, "vicuna does not exist"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_parts_is_named(name: str, tmp_path: Path) -> None:
    changes, message = WRONG[name]
    spread(tmp_path, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){message}"):
        scops.load(tmp_path / "owl")


def test_special_tokens_are_added_behind_the_vocabulary() -> None:
    before = tiny.tokenizer()
    after = before.with_specials(["<|endofchunk|>", "<PAD>"])
    assert [after.id_of(token) for token in ("<|endofchunk|>", "<PAD>")] == [before.vocab_size, before.vocab_size + 1]
    assert after.encode_text("an owl <PAD>") == before.encode_text("an owl <PAD>")
