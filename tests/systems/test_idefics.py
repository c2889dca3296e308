"""IDEFICS against transformers' own model, random and tiny: scores, masks, greedy answers, keys, prompts, stages."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import scops
from scops.core.batch import Batch, Example
from scops.core.sample import Media, Sample, Text, Turn
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import idefics, spec_from_json, spec_to_json
from scops.systems.idefics import LlamaSpec, PerceiverSpec, VitSpec
from tests import tiny
from tests.conftest import batch_of, close, randomise
from tests.systems import marked
from tests.systems.test_stages import follow
from tests.twins import (
    cache_of,
    cached_equals_recompute,
    come_back_bitwise,
    documents_stand_alone,
    greedy,
    rows_stand_alone,
    shared_equals_recompute,
)

transformers = pytest.importorskip("transformers")
initialization = pytest.importorskip("transformers.initialization")

MARK, MORE = 54, 2
BASE: dict[str, Any] = {
    "vocab_size": 53, "additional_vocab_size": MORE, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 4,
    "num_attention_heads": 4, "cross_layer_interval": 2, "qk_layer_norms": True, "use_resampler": True,
    "vision_config": {
        "embed_dim": 12, "image_size": 8, "patch_size": 4, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    "perceiver_config": {
        "use_resampler": True, "resampler_n_latents": 3, "resampler_depth": 2, "resampler_n_heads": 3,
        "resampler_head_dim": 5, "qk_layer_norms_perceiver": True,
    },
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "as published": {},
    "features themselves": {"use_resampler": False},
    "without norms": {"qk_layer_norms": False, "perceiver_config": BASE["perceiver_config"] | {"qk_layer_norms_perceiver": False}},
    "a gate per channel, before every layer": {"alpha_type": "vector", "cross_layer_interval": 1, "rms_norm_eps": 1e-3},
    "no more words, tied": {"additional_vocab_size": 0, "vocab_size": 55, "tie_word_embeddings": True},
    "one gated layer": {"cross_layer_interval": 4, "num_attention_heads": 3, "hidden_size": 30},
}  # fmt: skip


def reference(size: str) -> torch.nn.Module:
    theirs = transformers.IdeficsForVisionText2Text(transformers.IdeficsConfig(**BASE | SIZES[size]))
    return randomise(theirs, 0.3)


def ours(theirs: torch.nn.Module) -> torch.nn.Module:
    spec = idefics.spec_of(theirs.config.to_dict())
    system = idefics.build(spec)
    system.load_state_dict(idefics.KEYS["transformers"](spec).load(theirs.state_dict()))
    return system.eval()


prompt, PROMPTS = partial(marked.prompt, MARK), marked.prompts(MARK)


class Marks:
    """What IdeficsProcessor asks of a tokenizer to count pictures."""

    eos_token_id = 2000

    def convert_tokens_to_ids(self, token: str) -> int:
        return MARK


def asked(one: Example) -> dict[str, Tensor]:
    """As IdeficsProcessor hands it to the model."""
    from transformers.models.idefics import processing_idefics

    ids_1T, pictures = torch.from_numpy(one.ids_T)[None], one.media.get("image", ())
    if not pictures:
        shown, mask = torch.zeros(1, 1, 3, 8, 8), torch.zeros(1, len(one), 1, dtype=torch.bool)
    else:
        shown = torch.stack([torch.from_numpy(p) for p in pictures])[None]
        number, _ = processing_idefics.image_attention_mask_for_packed_input_ids(ids_1T, Marks(), "pt")
        mask = processing_idefics.incremental_to_binary_attention_mask(number, "pt", num_classes=len(pictures))
    return {
        "input_ids": ids_1T,
        "attention_mask": torch.ones_like(ids_1T),
        "pixel_values": shown,
        "image_attention_mask": mask,
    }


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_features_and_scores_equal_transformers(size: str) -> None:
    theirs = reference(size)
    system = ours(theirs)
    made = system(batch_of(*PROMPTS.values()))
    for row, (name, one) in enumerate(PROMPTS.items()):
        found = theirs(**asked(one))
        assert close(made[row, : len(one)], found.logits[0]), name
        if one.spans:
            assert close(system.connect(batch_of(one))["image"], found.image_hidden_states[0]), name


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["none", "adjacent", "several"])
def test_greedy_answers_equal_transformers(size: str, name: str) -> None:
    theirs, one = reference(size), PROMPTS[name]
    expected = theirs.generate(**asked(one), max_new_tokens=6, do_sample=False, eos_token_id=2000, pad_token_id=0)[
        0, len(one) :
    ]
    assert torch.equal(greedy(ours(theirs).session(batch_of(one), 40), 6)[0], expected)


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_keys_round_trip_bitwise_and_config_comes_back(size: str) -> None:
    theirs = reference(size)
    spec, state = idefics.spec_of(theirs.config.to_dict()), theirs.state_dict()
    assert come_back_bitwise(
        idefics.KEYS["transformers"](spec), state, but="lm_head.weight" if spec.language.tied else ""
    )
    again = transformers.IdeficsConfig(**json.loads(json.dumps(idefics.config_of(spec))))
    assert idefics.spec_of(again.to_dict()) == spec
    if spec.perceiver is None:
        return
    assert spec_from_json(idefics.Spec, json.loads(json.dumps(spec_to_json(spec)))) == spec


@pytest.mark.parametrize("size", idefics.SIZES)
def test_full_sizes_have_the_names_and_shapes_of_transformers(size: str) -> None:
    spec = idefics.SIZES[size]
    config = json.loads(json.dumps(idefics.config_of(spec)))
    assert idefics.spec_of(config) == spec
    with torch.device("meta"), initialization.no_init_weights():
        system = idefics.build(spec)
        theirs = transformers.IdeficsForVisionText2Text(transformers.IdeficsConfig(**config))
    shapes = lambda state: {name: tuple(tensor.shape) for name, tensor in state.items()}
    saved = shapes(idefics.KEYS["transformers"](spec).save(system.state_dict()))
    assert saved == shapes(theirs.state_dict())
    counts = {"9b": 8_929_679_632, "80b": 79_967_843_624}
    more = 2 * spec.language.dim * (spec.more - 2)
    assert sum(p.numel() for p in system.parameters()) == counts[size.split("-")[1]] + more


def test_files_of_2023_say_the_same_in_one_table() -> None:
    """HuggingFaceM4/idefics-80b, config.json before its tables were parted."""
    flat = {
        "model_type": "idefics", "additional_vocab_size": 2, "alpha_type": "float", "cross_layer_interval": 4,
        "hidden_act": "silu", "hidden_size": 8192, "intermediate_size": 22016, "max_sequence_length": 2048,
        "num_attention_heads": 64, "num_hidden_layers": 80, "qk_layer_norms": True, "qk_layer_norms_perceiver": True,
        "resampler_depth": 6, "resampler_head_dim": 96, "resampler_n_heads": 16, "resampler_n_latents": 64,
        "rms_norm_eps": 1e-05, "tie_word_embeddings": False, "use_resampler": True, "vision_embed_dim": 1280,
        "vision_image_size": 224, "vision_intermediate_size": 5120, "vision_patch_size": 14, "vocab_size": 32000,
    }  # fmt: skip
    assert idefics.spec_of(flat) == idefics.SIZES["idefics-80b"]


@torch.no_grad()
@pytest.mark.parametrize("size", ["idefics-9b", "idefics-9b-instruct"])
def test_a_published_folder_is_recognised_answers_and_opens_in_transformers(size: str, tmp_path: Path) -> None:
    more = 2 if size == "idefics-9b" else 3
    made = tiny.idefics(size, more=more)
    folder = made.save(tmp_path / "published", layout="transformers")
    config = json.loads((folder / "config.json").read_text())
    del config["scops"]
    (folder / "config.json").write_text(json.dumps(config))
    loaded = scops.load(folder)
    assert loaded.spec == made.spec
    asked_of = ("what is this?", [tiny.picture(), tiny.picture("blue")])
    assert loaded.chat(*asked_of, max_tokens=6) == made.chat(*asked_of, max_tokens=6)
    theirs = transformers.IdeficsForVisionText2Text.from_pretrained(folder).eval()
    one = made.processor(turns(("user", (Media("image", tiny.picture()), "what is this?"))), reply=True)
    ids_1T = torch.from_numpy(one.ids_T)[None]
    seen = (ids_1T == made.tokenizer.id_of("<image>")).cumsum(-1).bool()[..., None]
    shown = torch.from_numpy(one.media["image"][0])[None, None]
    assert close(
        made.module(batch_of(one)), theirs(input_ids=ids_1T, pixel_values=shown, image_attention_mask=seen).logits
    )


def test_layers_that_cannot_be_parted_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="4 layers are no multiple of 3"):
        idefics.build(replace(TINY, every=3))
    with pytest.raises(ValueError, match="the resampler is 12 wide and the tower 14"):
        idefics.build(replace(TINY, vision=replace(TINY.vision, dim=14)))


# Read -----------------------------------------------------------------------------------------------------------------


def turns(*said: tuple[str, tuple]) -> Sample:
    parts = lambda some: tuple(Text(part) if isinstance(part, str) else part for part in some)
    return Sample(tuple(Turn(role, parts(some)) for role, some in said))


def theirs_of(tokenizer: Any, prompt: list) -> list[int]:
    """What IdeficsProcessor makes of a prompt of words and pictures (None); its rules, spelt for our tokenizer."""
    text, was_shown = "<s>", False
    for item in prompt:
        if item is None:
            text += ("" if was_shown else "<fake_token_around_image>") + "<image><fake_token_around_image>"
        else:
            text += item.strip(" ")
        was_shown = item is None
    return tokenizer.backend.encode(text, add_special_tokens=False).ids


def test_few_shots_are_written_as_the_processor_writes_them() -> None:
    model = tiny.idefics()
    shown = Media("image", tiny.picture())
    sample = turns(("user", (shown, "Output:")), ("assistant", ("an owl\n",)), ("user", (shown, shown, "Output:")))
    made = model.processor(sample, reply=True)
    assert made.ids_T.tolist() == theirs_of(model.tokenizer, [None, "Output:", "an owl\n", None, None, "Output:"])
    assert [made.ids_T[span.start] for span in made.spans] == [model.tokenizer.id_of("<image>")] * 3


def test_a_dialogue_is_written_as_the_model_card_of_instruct() -> None:
    model = tiny.idefics("idefics-9b-instruct")
    shown = Media("image", tiny.picture())
    sample = turns(("user", ("What is this?", shown)), ("assistant", ("An owl.",)), ("user", (shown, "And this?")))
    made = model.processor(sample, reply=True)
    card = ["User: What is this?", None, "<end_of_utterance>", "\nAssistant: An owl.<end_of_utterance>", "\nUser:", None,
            "And this?<end_of_utterance>", "\nAssistant:"]  # fmt: skip
    assert made.ids_T.tolist() == theirs_of(model.tokenizer, card)


def test_what_users_type_is_no_picture() -> None:
    model = tiny.idefics()
    typed = "<image> and <fake_token_around_image></s> are words"
    made = model.processor(turns(("user", (typed,))), reply=True)
    assert not made.spans
    assert model.tokenizer.decode(made.ids_T[1:].tolist()) == typed
    assert model.tokenizer.id_of("<image>") not in made.ids_T


def test_marks_and_pictures_must_be_as_many() -> None:
    assert marked.other_counts_are_refused(ours(reference("as published")), PROMPTS["several"])


# Sessions -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("size", ["as published", "features themselves"])
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_session_equals_recompute(size: str, cache: type) -> None:
    assert cached_equals_recompute(ours(reference(size)), list(PROMPTS.values()), cache_of(cache, len(PROMPTS)))


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 3, 100])
def test_conversations_in_pages_equal_recompute_however_prompts_are_cut(most: int) -> None:
    rows = [*PROMPTS.values(), PROMPTS["several"]]
    assert shared_equals_recompute(ours(reference("as published")), rows, tokens=200, page=2, most=most)


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone_packed_or_padded() -> None:
    system = ours(reference("as published"))
    assert rows_stand_alone(system, PROMPTS)
    assert documents_stand_alone(system, PROMPTS, capacity=40)


# Trained --------------------------------------------------------------------------------------------------------------

LANGUAGE = LlamaSpec(dim=24, hidden=36, layers=4, heads=4, kv_heads=4, vocab=55)
TINY = idefics.Spec(
    VitSpec(dim=12, hidden=20, layers=2, heads=2, image=8, patch=4),
    PerceiverSpec(dim=12, hidden=48, depth=2, heads=2, head_dim=5, queries=3, activation="relu", norms="qk"),
    LANGUAGE, every=2,
)  # fmt: skip
NEW = ("image.connector.", *(f"language.blocks.{i}.gated_{name}." for i in (0, 2) for name in ("attn", "mlp")))
PRETRAINED, ALL = ((*NEW, "language.embed.", "language.head."), ""), (("image.", "language."), "")
STAGES = {
    "idefics-9b": (PRETRAINED,),
    "idefics-9b-instruct": (PRETRAINED, ALL),
    "idefics-80b": (PRETRAINED,),
    "idefics-80b-instruct": (PRETRAINED, ALL),
}
UNUSED = ("image.encoder.post_norm.body.weight", "image.encoder.post_norm.body.bias")


def lessons() -> Batch:
    return batch_of(prompt("a", 5, 6, 7), prompt(1, 53, "b", 53), prompt(1, "c", 2, "a", 3, 4))


@pytest.mark.parametrize("recipe", idefics.STAGES)
def test_stages_move_exactly_what_they_name(recipe: str) -> None:
    module = randomise(idefics.build(TINY))
    follow(module, idefics.STAGES[recipe], STAGES[recipe], lessons(), unused=UNUSED)


def test_of_the_vocabulary_only_its_new_rows_learn_at_first() -> None:
    module = randomise(idefics.build(TINY))
    before = [part.weight.detach().clone() for part in (module.language.embed, module.language.head)]
    follow(module, idefics.STAGES["idefics-9b"], STAGES["idefics-9b"], lessons())
    for old, part in zip(before, (module.language.embed, module.language.head), strict=True):
        assert (part.weight != old).any(-1).nonzero().flatten().tolist() == [53, 54]
