"""OpenFlamingo against goldens of mlfoundations/open_flamingo: probes, keys, counts, prompts, stages."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import scops
from scops.checkpoints.write import save_tensors
from scops.core.batch import Batch, Example
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.collate import pack
from scops.language.gated import GatedSpec
from scops.language.llama import LlamaSpec
from scops.models.cached import CachedSession
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import open_flamingo, spec_from_json, spec_to_json
from scops.systems.open_flamingo import GptNeoxSpec, MptSpec, PerceiverSpec, VitSpec
from tests import tiny
from tests.conftest import Golden, batch_of, close, example, randomise
from tests.systems import marked
from tests.systems.test_stages import follow
from tests.twins import (
    cache_of,
    cached_equals_recompute,
    come_back_bitwise,
    documents_stand_alone,
    published,
    rows_stand_alone,
    shared_equals_recompute,
)

TINY = open_flamingo.Spec(
    VitSpec(dim=12, hidden=20, layers=2, heads=2, image=8, patch=4),
    PerceiverSpec(dim=12, hidden=20, depth=2, heads=2, head_dim=5, queries=3, first=1),
    MptSpec(dim=24, layers=4, heads=3, vocab=53, norms="qk"),
    GatedSpec(every=2, heads=2, head_dim=6),
)
LANGUAGES = {
    "mpt": TINY.language,
    "gpt-neox": GptNeoxSpec(dim=24, hidden=36, layers=4, heads=4, vocab=53, rotary=0.5),
    "gpt-neox in parallel": GptNeoxSpec(dim=24, hidden=36, layers=4, heads=4, vocab=53, parallel=True),
    "llama": LlamaSpec(dim=24, hidden=36, layers=4, heads=4, kv_heads=2, vocab=53, head_dim=6),
}
MARK = 51


def spec_of(config: dict) -> open_flamingo.Spec:
    """Of a golden's own config, whose resampler and gates have the classes' sizes."""
    vision = {
        "hidden_size": config["vision"]["width"], "num_hidden_layers": config["vision"]["layers"],
        "num_attention_heads": config["vision"]["heads"], "image_size": config["vision"]["image_size"],
        "intermediate_size": int(config["vision"]["width"] * config["vision"]["mlp_ratio"]),
        "patch_size": config["vision"]["patch_size"], "hidden_act": "gelu",
    }  # fmt: skip
    text = config["lang"]["args"] | {"model_type": config["lang"]["kind"]}
    every = config["cross_attn_every_n_layers"]
    return open_flamingo.spec_of({
        "model_type": "open_flamingo", "vision_config": vision, "text_config": text, "cross_attn_every_n_layers": every,
    })  # fmt: skip


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("open_flamingo")


@pytest.fixture(scope="module")
def system(golden: Golden) -> torch.nn.Module:
    return published(open_flamingo, spec_of(golden.config), golden.weights)


@pytest.fixture(scope="module")
def examples(golden: Golden) -> list[Example]:
    """The golden's rows without their padding on the left; <image> marks an item beside the text."""
    mark, made = golden.config["media_token_id"], []
    for ids, real, shown in zip(
        *(golden.inputs[name] for name in ("input_ids", "attention_mask", "vision_x")), strict=True
    ):
        ids = ids[real.bool()].tolist()
        spans = tuple((at, 0) for at, token in enumerate(ids) if token == mark)
        made.append(example(ids, spans, list(shown[:, 0])))
    return made


@torch.no_grad()
def test_every_probe_equals_the_reference(golden: Golden, system: torch.nn.Module, examples: list[Example]) -> None:
    out, real = golden.outputs, golden.inputs["attention_mask"].bool()
    encoder, pixels = system.image.encoder, golden.inputs["vision_x"].flatten(0, 2)
    assert close(encoder(pixels)[:, 1:], out["vision_tokens"])
    made = batch_of(*examples)
    assert close(system.connect(made)["image"], out["media_latents"].flatten(0, 1))
    seen = []
    gated = system.language.blocks[golden.config["probe_layer"]].gated_mlp
    gated.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = system(made)
    padded = out["logits"].clone()  # the reference also has the padding before a row predict its first token
    for row, length in enumerate(made.lengths):
        assert close(seen[0][row, :length], out["xattn_out_probe"][row][real[row]])
        assert close(logits[row, :length], out["logits"][row][real[row]])
        padded[row, real[row]] = logits[row, :length]
    labels = golden.inputs["labels"][:, 1:].flatten()
    loss = torch.nn.functional.cross_entropy(padded[:, :-1].flatten(0, 1), labels, ignore_index=-100)
    assert close(loss[None], out["loss"])


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_greedy_decoding_with_a_cache_equals_the_reference(
    golden: Golden, system: torch.nn.Module, examples: list[Example], cache: type
) -> None:
    session = CachedSession(system, batch_of(*examples), cache_of(cache, len(examples)))
    for step in range(golden.config["greedy_steps"]):
        assert close(session.logits_BV, golden.outputs["greedy_logits"][:, step])
        chosen_B = session.logits_BV.argmax(-1)
        assert torch.equal(chosen_B, golden.outputs["greedy_tokens"][:, step])
        session.step(chosen_B)


# Names ----------------------------------------------------------------------------------------------------------------


def test_keys_round_trip_bitwise(golden: Golden) -> None:
    keys = open_flamingo.KEYS["authors"](spec_of(golden.config))
    assert come_back_bitwise(keys, golden.weights, but="vision_encoder.proj")


@pytest.mark.parametrize("immediate", [True, False])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_model_s_keys_come_back_under_the_authors_names(language: str, immediate: bool) -> None:
    spec = replace(TINY, language=LANGUAGES[language], gates=replace(TINY.gates, immediate=immediate))
    state = randomise(open_flamingo.build(spec)).state_dict()
    keys = open_flamingo.KEYS["authors"](spec)
    theirs = keys.save(state)
    assert all(torch.equal(tensor, state[path]) for path, tensor in keys.load(theirs).items())
    gates = [name for name in theirs if name.endswith("gated_cross_attn_layer.attn_gate")]
    assert [name.split(".")[-3] for name in gates] == ["1", "3"]
    assert all(".decoder_layer." in name for name in theirs if ".1." in name and "lang" in name and "gated" not in name)


def test_full_sizes_have_the_published_names_and_shapes() -> None:
    count = lambda module: sum(p.numel() for p in module.parameters())
    for size, dim, layers, every, prefix, language in (
        ("openflamingo-3b-vitl-mpt1b", 2048, 24, 1, "transformer.blocks", 1_311_000_000),
        ("openflamingo-4b-vitl-rpj3b", 2560, 32, 2, "gpt_neox.layers", 2_775_000_000),
        ("openflamingo-9b-vitl-mpt7b", 4096, 32, 4, "transformer.blocks", 6_649_000_000),
    ):
        spec = open_flamingo.SIZES[size]
        with torch.device("meta"):
            system = open_flamingo.build(spec)
        shapes = {
            name: tuple(t.shape) for name, t in open_flamingo.KEYS["authors"](spec).save(system.state_dict()).items()
        }
        gate = f"lang_encoder.{prefix}.{layers - 1}.gated_cross_attn_layer."
        assert shapes[gate + "attn.to_out.weight"] == (dim, 512)
        assert shapes[gate + "attn.to_kv.weight"] == (1024, 1024)
        assert shapes[gate + "ff.1.weight"] == (4 * dim, dim)
        assert shapes["perceiver.latents"] == (64, 1024)
        assert shapes["perceiver.layers.5.0.to_kv.weight"] == (1024, 1024)
        assert shapes["vision_encoder.positional_embedding"] == (257, 1024)
        embed = "gpt_neox.embed_in" if "neox" in prefix else "transformer.wte"
        assert shapes[f"lang_encoder.{embed}.weight"] == (50280, dim)
        one = 2 * dim + dim * 512 + 1024 * 1024 + 512 * dim + 1 + 2 * dim + 8 * dim * dim + 1
        gated = sum(
            count(block.gated_attn) + count(block.gated_mlp)
            for block in system.language.blocks
            if hasattr(block, "gated_attn")
        )
        assert gated == layers // every * one
        assert count(system.image.connector) == 64 * 1024 + 2048 + 6 * (2048 * 3 + 4 * 512 * 1024 + 8 * 1024 * 1024)
        assert count(system.image.encoder) == 303_179_776
        assert abs(count(system.language) - gated - language) < 2e-3 * language


def test_config_goes_both_ways() -> None:
    for spec in (*open_flamingo.SIZES.values(), *(replace(TINY, language=one) for one in LANGUAGES.values())):
        assert open_flamingo.spec_of(json.loads(json.dumps(open_flamingo.config_of(spec)))) == spec
        assert spec_from_json(open_flamingo.Spec, json.loads(json.dumps(spec_to_json(spec)))) == spec
    assert open_flamingo.spec_of({"model_type": "idefics"}) is None
    with pytest.raises(ValueError, match="'bloom' language model; known are gpt_neox, llama, mosaic_gpt, mpt"):
        open_flamingo.spec_of({"model_type": "open_flamingo", "text_config": {"model_type": "bloom"}})


def test_a_resampler_of_another_width_than_the_tower_is_refused() -> None:
    with pytest.raises(ValueError, match="the resampler is 12 wide and the tower 14"):
        open_flamingo.build(replace(TINY, vision=replace(TINY.vision, dim=14)))


def below(part: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(part): tensor for name, tensor in state.items() if name.startswith(part)}


RELEASED = ("perceiver.", "lang_encoder.transformer.wte.", "lang_encoder.gpt_neox.embed_in.")


def release(home: Path, language: str, **changes: dict) -> scops.Model:
    """As released: a checkpoint.pt of what was trained, beside folders of CLIP and of the language model, which has rows to spare."""
    sizes = {"language": spec_to_json(replace(TINY, language=LANGUAGES[language]))["language"] | {"vocab": 310}}
    made = tiny.open_flamingo(sizes)
    state = made.module.state_dict()
    theirs = open_flamingo.KEYS["authors"](made.spec).save(state)
    for name in ("flamingo", "clip", "lm"):
        (home / name).mkdir()
    torch.save({name: x for name, x in theirs.items() if name.startswith(RELEASED) or "gated_cross" in name},
               home / "flamingo" / "checkpoint.pt")  # fmt: skip
    clip = {f"visual.{name}": x for name, x in below("vision_encoder.", theirs).items()}
    save_tensors(
        home / "clip" / "model.safetensors", clip | {"visual.proj": torch.ones(12, 4), "logit_scale": torch.ones(1)}
    )
    plain = {name: x for name, x in below("language.", state).items() if ".gated_" not in name}
    plain = open_flamingo.FAMILIES[type(made.spec.language)].layouts(made.spec.language)[-1].save(plain)
    wider = {name: torch.cat([x, torch.randn(9, x.shape[1])]) for name, x in plain.items() if len(x) == 310}
    words = next(name for name in wider if "wte" in name or "embed_in" in name)
    save_tensors(home / "lm" / "model.safetensors", plain | wider | {words: torch.randn_like(wider[words])})
    tiny.tokenizer().save(home / "lm")
    said = {
        "size": made.size or "openflamingo-3b-vitl-mpt1b", "overrides": spec_to_json(made.spec), "tokenizer": "../lm",
        "weights": {"": "checkpoint.pt", "image.encoder": "../clip", "language": "../lm"},
    }  # fmt: skip
    (home / "flamingo" / "parts.json").write_text(json.dumps(said | changes))
    return made


@pytest.mark.parametrize("language", ["mpt", "gpt-neox"])
def test_a_release_is_put_together_from_its_parts(language: str, tmp_path: Path) -> None:
    made = release(tmp_path, language)
    loaded = scops.load(tmp_path / "flamingo")
    state = loaded.module.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in made.module.state_dict().items())
    assert {token: loaded.tokenizer.id_of(token) for token in open_flamingo.ADDED} == {
        "<|endofchunk|>": loaded.tokenizer.vocab_size - 2,
        "<image>": 5,
        "<PAD>": loaded.tokenizer.vocab_size - 1,
    }  # the tiny tokenizer has an <image> already
    assert isinstance(loaded.chat("Output:", [tiny.picture()], max_tokens=3), str)


@pytest.mark.parametrize("missing", ["image.encoder", "language"])
def test_a_release_without_a_part_says_what_is_missing(missing: str, tmp_path: Path) -> None:
    weights = {"": "checkpoint.pt", "image.encoder": "../clip", "language": "../lm"}
    release(tmp_path, "mpt", weights={name: place for name, place in weights.items() if name != missing})
    with pytest.raises(ValueError, match=f"(?s)come from no source.*'{missing}"):
        scops.load(tmp_path / "flamingo")


def test_a_folder_with_a_bare_release_says_how_to_give_the_rest(tmp_path: Path) -> None:
    release(tmp_path, "mpt")
    (tmp_path / "flamingo" / "parts.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json.*it holds checkpoint\.pt; .* parts\.json"):
        scops.load(tmp_path / "flamingo")


# Read -----------------------------------------------------------------------------------------------------------------


def few_shot(*shots: tuple[str, str]) -> Sample:
    """Examples as turns; the last one is asked."""
    turns = []
    for at, (words, answer) in enumerate(shots):
        shown = Media("image", tiny.picture("red", (40 + at, 30)))
        turns.append(Turn("user", (shown, Text(words))))
        if answer:
            turns.append(Turn("assistant", (Text(answer),)))
    return Sample(tuple(turns))


def test_examples_and_question_are_written_as_the_paper_s_prompt() -> None:
    model = tiny.open_flamingo()
    token = model.tokenizer
    made = model.processor(few_shot(("Output:", "an owl"), ("Output:", "a branch"), ("Output:", "")), reply=True)
    mark, end, text = [token.id_of("<image>")], [token.id_of("<|endofchunk|>")], token.encode_text
    shots = [*mark, *text("Output:an owl"), *end, *mark, *text("Output:a branch"), *end]
    assert made.ids_T.tolist() == [*shots, *mark, *text("Output:")]
    assert [made.ids_T[span.start] for span in made.spans] == mark * 3
    assert [span.length for span in made.spans] == [0, 0, 0]
    assert len({*made.digests["image"]}) == len(made.media["image"]) == 3


def test_a_learnt_answer_ends_its_chunk_and_nothing_else_is_learnt() -> None:
    model = tiny.open_flamingo()
    turns = (
        Turn("user", (Media("image", tiny.picture()), Text("Output:"))),
        Turn("assistant", (Text("an owl"),), learn=True),
    )
    made = model.processor(Sample(turns))
    assert made.ids_T[made.learn_T].tolist() == [
        *model.tokenizer.encode_text("an owl"),
        model.tokenizer.id_of("<|endofchunk|>"),
    ]


def test_what_users_type_is_no_picture_and_ends_no_chunk() -> None:
    model = tiny.open_flamingo()
    typed = "<image> and <|endofchunk|> are words"
    made = model.processor(Sample((Turn("user", (Text(typed),)),)), reply=True)
    assert not made.spans
    assert not {model.tokenizer.id_of(word) for word in ("<image>", "<|endofchunk|>")} & set(made.ids_T.tolist())
    assert model.tokenizer.decode(made.ids_T.tolist()) == typed


def test_answers_depend_on_examples_and_go_through_chat() -> None:
    model = tiny.open_flamingo()
    shots = few_shot(("Output:", "an owl"), ("Output:", ""))
    messages = [
        {"role": "user", "content": [{"type": "image", "image": tiny.picture("red", (40, 30))}, {"type": "text", "text": "Output:"}]},
        {"role": "assistant", "content": "an owl"},
        {"role": "user", "content": [{"type": "image", "image": tiny.picture("red", (41, 30))}, {"type": "text", "text": "Output:"}]},
    ]  # fmt: skip
    assert model.chat(messages, max_tokens=6) == model.chat(shots, max_tokens=6)
    scores = [
        model.module(batch_of(model.processor(asked, reply=True)))[0, -1]
        for asked in (shots, few_shot(("Output:", "")), few_shot(("Output:", "a cat"), ("Output:", "")))
    ]
    assert min((scores[a] - scores[b]).abs().max() for a, b in ((0, 1), (0, 2), (1, 2))) > 1e-4


def test_marks_and_pictures_must_be_as_many() -> None:
    assert marked.other_counts_are_refused(randomise(open_flamingo.build(TINY)), PROMPTS["several"])


# Sessions -------------------------------------------------------------------------------------------------------------


prompt, PROMPTS = partial(marked.prompt, MARK), marked.prompts(MARK)


@torch.no_grad()
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_session_equals_recompute(language: str, cache: type) -> None:
    system = randomise(open_flamingo.build(replace(TINY, language=LANGUAGES[language])))
    assert cached_equals_recompute(system, list(PROMPTS.values()), cache_of(cache, len(PROMPTS)))


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 3, 100])
@pytest.mark.parametrize("language", ["mpt", "gpt-neox"])
def test_conversations_in_pages_equal_recompute_however_prompts_are_cut(language: str, most: int) -> None:
    system = randomise(open_flamingo.build(replace(TINY, language=LANGUAGES[language])))
    rows = [*PROMPTS.values(), PROMPTS["several"]]
    assert shared_equals_recompute(system, rows, tokens=200, page=2, most=most)


@torch.no_grad()
def test_all_earlier_pictures_and_else_all_of_them_in_sessions_that_read_a_prompt_whole() -> None:
    system = randomise(open_flamingo.build(replace(TINY, gates=replace(TINY.gates, immediate=False))))
    assert cached_equals_recompute(system, list(PROMPTS.values()), cache_of(FixedCache, len(PROMPTS)))
    assert rows_stand_alone(system, PROMPTS)
    with pytest.raises(ValueError, match="cannot be read in parts"):
        shared_equals_recompute(system, list(PROMPTS.values()), tokens=200, page=2, most=100)
    with pytest.raises(ValueError, match="cannot be packed"):
        system(pack(list(PROMPTS.values()), capacity=20, pad_id=0))


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone() -> None:
    assert rows_stand_alone(randomise(open_flamingo.build(TINY)), PROMPTS)


@torch.no_grad()
def test_packed_documents_see_their_own_pictures_alone() -> None:
    assert documents_stand_alone(randomise(open_flamingo.build(TINY)), PROMPTS, capacity=20)


@torch.no_grad()
def test_text_looks_at_the_latest_picture_alone() -> None:
    """In one gated layer: through the text of deeper ones earlier pictures are heard of."""
    system = randomise(open_flamingo.build(replace(TINY, gates=replace(TINY.gates, every=4))))
    seen = []
    system.language.blocks[3].gated_attn.register_forward_hook(
        lambda module, inputs, output: seen.append(output - inputs[0])
    )
    for name in "ac":
        system(batch_of(prompt(1, name, 2, "b", 3)))
    assert close(seen[0][0, [0, 3, 4]], seen[1][0, [0, 3, 4]])
    assert seen[0][0, 0].abs().max() == 0
    assert (seen[0] - seen[1])[0, [1, 2]].abs().amax(-1).min() > 1e-3


# Trained --------------------------------------------------------------------------------------------------------------

LEARNT = (
    "image.connector.",
    *(f"language.blocks.{i}.gated_{name}." for i in (1, 3) for name in ("attn", "mlp")),
    "language.embed.",
)
STAGES = {"openflamingo": ((LEARNT, ""),)}


def lessons() -> Batch:
    return batch_of(prompt("a", 5, 6, 7), prompt(1, 9, "b", 7), prompt(1, "c", 2, "a", 3, 4))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("recipe", open_flamingo.STAGES)
def test_stages_move_exactly_what_they_name(recipe: str, language: str) -> None:
    module = randomise(open_flamingo.build(replace(TINY, language=LANGUAGES[language])))
    before = module.language.embed.weight.detach().clone()
    follow(module, open_flamingo.STAGES[recipe], STAGES[recipe], lessons())
    moved = (module.language.embed.weight != before).any(-1).nonzero().flatten().tolist()
    assert set(moved) <= {50, 51}  # of 53: <|endofchunk|> and <image>
    assert 51 in moved
