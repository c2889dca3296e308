"""BLIP-2's second stage against transformers' Blip2ForConditionalGeneration, with OPT and with FlanT5, at random tiny sizes."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import scops
from scops.checkpoints.write import save_tensors
from scops.connectors.qformer import QFormerSpec
from scops.core.batch import Span
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.processor import Processor
from scops.language.opt import OptSpec
from scops.language.t5 import T5Spec
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import blip2, lavis, spec_from_json, spec_to_json
from tests import tiny
from tests.conftest import batch_of, close, randomise
from tests.systems import blip2_rows
from tests.systems.blip2_rows import (
    EYE,
    QUERIES,
    SIZES,
    SMALL_T5,
    logits_equal,
    peer,
    published,
    questions,
    replies_equal,
    rows,
)
from tests.systems.test_stages import follow
from tests.twins import (
    cache_of,
    cached_equals_recompute,
    come_back_bitwise,
    replies_equal_recompute,
    rows_stand_alone,
    shared_equals_recompute,
)

transformers = pytest.importorskip("transformers")

reference = partial(peer, "Blip2")
ours = partial(blip2_rows.ours, blip2)
KINDS = ("opt", "t5")


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_features_tokens_and_logits_equal_transformers(kind: str, size: str) -> None:
    theirs = reference(kind, size)
    system, spec = ours(theirs)
    made = questions(kind, spec)
    batch = batch_of(*made)
    seen = theirs.get_image_features(batch.media["image"])
    assert close(system.image.connector.norm(system.encode(batch)["image"]), seen.last_hidden_state)
    assert close(system.connect(batch)["image"], seen.pooler_output)
    assert logits_equal(system, theirs, made)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_replies_equal_transformers_also_padded(kind: str, size: str) -> None:
    theirs = reference(kind, size)
    system, spec = ours(theirs)
    assert replies_equal(system, theirs, questions(kind, spec))


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_keys_round_trip_bitwise_in_both_layouts(kind: str) -> None:
    theirs = reference(kind)
    system, spec = ours(theirs)
    assert come_back_bitwise(blip2.KEYS["transformers"](spec), published(theirs))
    keys = blip2.KEYS["authors"](spec)
    named = keys.save(system.state_dict())
    assert come_back_bitwise(keys, named)
    head = "opt_proj" if kind == "opt" else "t5_proj"
    for name in (
        "query_tokens", "ln_vision.bias", "visual_encoder.blocks.0.attn.q_bias", head + ".weight", "visual_encoder.pos_embed",
        "Qformer.bert.encoder.layer.2.crossattention.self.key.weight", "Qformer.bert.embeddings.LayerNorm.weight",
        "Qformer.bert.encoder.layer.1.intermediate_query.dense.bias",
    ):  # fmt: skip
        assert name in named, name
    assert not [name for name in named if ".intermediate.dense" in name or "word_embeddings" in name]


# of the tower: transformers has 985,952,256 with the norm behind it and 39 biases of keys that are zero
COUNTS = {
    "blip2-opt-2.7b": (985_894_528, 2_651_596_800),
    "blip2-opt-6.7b": (985_894_528, 6_658_473_984),
    "blip2-flan-t5-xl": (985_894_528, 2_849_757_184),
    "blip2-flan-t5-xxl": (985_894_528, 11_135_332_352),
}


@pytest.mark.parametrize("size", blip2.SIZES)
def test_full_sizes_have_the_counts_and_names_of_transformers(size: str) -> None:
    spec = blip2.SIZES[size]
    with torch.device("meta"):
        system = blip2.build(spec)
        config = transformers.Blip2Config(
            **{k: v for k, v in blip2.transformers_config(spec).items() if k != "architectures"}
        )
        theirs = transformers.Blip2ForConditionalGeneration(config)
    language = [p for name, p in system.named_parameters() if not name.startswith("image.")]
    assert (sum(p.numel() for p in system.image.encoder.parameters()), sum(p.numel() for p in language)) == COUNTS[size]
    asking = sum(p.numel() for p in theirs.qformer.parameters()) + theirs.query_tokens.numel()
    assert sum(p.numel() for p in system.image.connector.qformer.parameters()) == asking == 105_162_240
    shapes = {k: tuple(v.shape) for k, v in blip2.KEYS["transformers"](spec).save(system.state_dict()).items()}
    expected = {k: tuple(v.shape) for k, v in published(theirs).items()}
    if isinstance(spec.language, T5Spec):
        assert shapes.pop("language_model.lm_head.weight") == (32128, spec.language.dim)
        expected.pop("language_model.lm_head.weight", None)
    assert shapes == expected
    named = {k: tuple(v.shape) for k, v in blip2.KEYS["authors"](spec).save(system.state_dict()).items()}
    assert named["query_tokens"] == (1, 32, 768)
    assert named["visual_encoder.blocks.38.attn.qkv.weight"] == (4224, 1408)
    assert named["visual_encoder.pos_embed"] == (1, 257, 1408)
    assert named[f"{lavis.NAMES[type(spec.language)]}_proj.weight"] == (spec.language.width, 768)


@pytest.mark.parametrize("size", blip2.SIZES)
def test_configurations_go_both_ways(size: str) -> None:
    spec = blip2.SIZES[size]
    authors = json.loads(json.dumps(blip2.authors_config(spec)))
    assert not {"vision", "qformer", "language"} & authors.keys()
    assert blip2.spec_of(authors) == spec
    again = replace(spec, eps=spec.vision.eps)
    found = blip2.spec_of(json.loads(json.dumps(blip2.transformers_config(again))))
    assert blip2.transformers_config(found) == blip2.transformers_config(again)
    small = TINY["opt" if "opt" in size else "t5"]
    assert blip2.authors_config(blip2.spec_of(blip2.authors_config(small))) == blip2.authors_config(small)
    assert spec_from_json(blip2.Spec, json.loads(json.dumps(spec_to_json(spec)))) == spec


def test_wrong_configurations_are_refused_by_name() -> None:
    hub, authors = blip2.transformers_config(TINY["opt"]), blip2.authors_config(blip2.SIZES["blip2-opt-2.7b"])
    assert blip2.spec_of({"model_type": "blip"}) is None
    assert blip2.spec_of(hub | {"architectures": ["Blip2ForImageTextRetrieval"]}) is None
    with pytest.raises(ValueError, match="'mpt'; published ones are opt, t5, llama"):
        blip2.spec_of(hub | {"text_config": {"model_type": "mpt"}})
    with pytest.raises(ValueError, match="qkv_bias"):
        blip2.spec_of(hub | {"vision_config": {"qkv_bias": False}})
    with pytest.raises(ValueError, match="use_qformer_text_input"):
        blip2.spec_of(hub | {"qformer_config": {"use_qformer_text_input": True}})
    with pytest.raises(ValueError, match="activation 'quick_gelu'"):
        blip2.spec_of(hub | {"vision_config": {"hidden_act": "quick_gelu"}})
    with pytest.raises(ValueError, match=r"opt_model is 'facebook/opt-1\.3b'; blip2_opt has opt-2\.7b"):
        blip2.spec_of(authors | {"opt_model": "facebook/opt-1.3b"})
    with pytest.raises(ValueError, match="'clip_L'; only 'eva_clip_g'"):
        blip2.spec_of(authors | {"vit_model": "clip_L"})
    with pytest.raises(ValueError, match="arch is 'blip2_t5', but its language model is another's"):
        blip2.spec_of(authors | {"arch": "blip2_t5", "t5_model": "facebook/opt-2.7b"})
    with pytest.raises(ValueError, match="no template 'questoin'; did you mean 'question'"):
        blip2.layout(replace(TINY["opt"], template="questoin"))


# Reading and writing --------------------------------------------------------------------------------------------------

ASKS = QFormerSpec(8, 10, 3, 2, queries=QUERIES, width=12)
TINY = {
    "opt": blip2.Spec(EYE, ASKS, OptSpec(dim=16, hidden=20, layers=2, heads=2, vocab=53, context=64)),
    "t5": blip2.Spec(EYE, ASKS, SMALL_T5),
}


def system_of(kind: str) -> Any:
    return randomise(blip2.build(TINY[kind]))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_ragged_batch_equals_each_row_alone(kind: str) -> None:
    assert rows_stand_alone(system_of(kind), rows(kind))


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_of_opt_equal_recompute(cache: type) -> None:
    examples = list(rows("opt").values())
    assert cached_equals_recompute(system_of("opt"), examples, cache_of(cache, len(examples)))


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_of_t5_equal_recompute(cache: type) -> None:
    examples = list(rows("t5").values())
    assert replies_equal_recompute(system_of("t5"), examples, cache_of(cache, len(examples)), more=12)


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 2, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_shared_sessions_equal_recompute(kind: str, most: int) -> None:
    assert shared_equals_recompute(system_of(kind), list(rows(kind).values()), tokens=150, page=3, most=most)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_of_a_row_matters(kind: str) -> None:
    system, one = system_of(kind), rows(kind)["several"]
    before = system(batch_of(one))[0, -1]
    for changed in range(3):
        pictures = list(one.media["image"])
        pictures[changed] = torch.randn(3, 14, 14).numpy()
        after = system(batch_of(replace(one, media={"image": tuple(pictures)})))[0, -1]
        assert (after - before).abs().max() > 1e-4, f"picture {changed} does not matter"


# Training -------------------------------------------------------------------------------------------------------------

STEPS = {name: ((("image.connector.",), ""),) for name in blip2.STAGES if name != "caption"} | {
    "caption": ((("image.",), ""),)
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", blip2.STAGES)
def test_stages_move_exactly_what_they_name(recipe: str, kind: str) -> None:
    named = [one for name, one in rows(kind).items() if name in ("first", "adjacent", "several")]
    follow(system_of(kind), blip2.STAGES[recipe], STEPS[recipe], batch_of(*named))


def test_every_size_has_its_recipe() -> None:
    assert set(blip2.SIZES) <= set(blip2.STAGES)


# Folders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_transformers_opens_and_answers(kind: str, tmp_path: Path) -> None:
    """As published: config.json, safetensors and a tokenizer, with nothing of ours in it."""
    theirs = reference(kind)
    save_tensors(tmp_path / "model.safetensors", published(theirs))
    config = theirs.config.to_dict() | {"architectures": [blip2.WRITES]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = tiny.t5_tokenizer() if kind == "t5" else tiny.tokenizer()
    words.save(tmp_path)
    with pytest.raises(ValueError, match="tokenizer"):  # it has more words than the model
        scops.load(tmp_path)
    grown = {name: torch.cat([x, torch.randn(308 - len(x), x.shape[1])]) if len(x) == 61 else x
             for name, x in published(theirs).items()}  # fmt: skip
    save_tensors(tmp_path / "model.safetensors", grown)
    config["text_config"] |= {"vocab_size": 308}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = scops.load(tmp_path)
    assert model.origin.endswith("(transformers layout)")
    assert model.spec == replace(ours(theirs)[1], language=replace(ours(theirs)[1].language, vocab=308))
    assert model.chat("what is this?", [tiny.picture()], max_tokens=5)
    again = scops.load(model.save(tmp_path / "again", layout="transformers"))
    assert again.chat("what is this?", [tiny.picture()], max_tokens=5) == model.chat(
        "what is this?", [tiny.picture()], max_tokens=5
    )
    other = reference("t5" if kind == "opt" else "opt").config.to_dict()["text_config"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"text_config": other}))
    with pytest.raises(ValueError, match=r"config\.json is of a '\w+' language model, but the weights are of"):
        scops.load(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_lavis_released_is_put_together_with_tower_and_language_model(kind: str, tmp_path: Path) -> None:
    made = tiny.MODELS[f"blip2_{kind}"]()
    state, spec = made.module.state_dict(), made.spec
    named = blip2.KEYS["authors"](spec).save(state)
    frozen = "visual_encoder.", f"{kind}_model."
    torch.save(
        {"model": {k: v for k, v in named.items() if not k.startswith(frozen)}}, tmp_path / "blip2_pretrained.pth"
    )
    tower = {k.removeprefix(frozen[0]): v for k, v in named.items() if k.startswith(frozen[0])}
    more = {f"blocks.{spec.vision.layers}.norm1.weight": torch.ones(2), "fc_norm.weight": torch.ones(2)}
    torch.save(tower | more, tmp_path / "eva_vit_g.pth")  # its last block does not run
    (tmp_path / "lm").mkdir()
    save_tensors(tmp_path / "lm" / "model.safetensors",
                 {k.removeprefix(frozen[1]): v for k, v in named.items() if k.startswith(frozen[1])})  # fmt: skip
    made.tokenizer.save(tmp_path / "lm")
    language = {"language": "lm"} if kind == "opt" else {"encoder": "lm", "decoder": "lm"}
    weights = {"": "blip2_pretrained.pth", "image.encoder": "eva_vit_g.pth", **language}
    size = "blip2-opt-2.7b" if kind == "opt" else "blip2-flan-t5-xl"
    said = {"size": size, "overrides": spec_to_json(spec), "tokenizer": "lm", "weights": weights}
    (tmp_path / "parts.json").write_text(json.dumps(said))
    loaded = scops.load(tmp_path)
    assert all(torch.equal(x, state[name]) for name, x in loaded.module.state_dict().items())
    (tmp_path / "parts.json").write_text(
        json.dumps(said | {"weights": weights | {"language" if kind == "t5" else "decoder": "lm"}})
    )
    with pytest.raises(ValueError, match="blip2 has no part"):
        scops.load(tmp_path)


def test_an_opt_checkpoint_does_not_open_as_flan_t5(tmp_path: Path) -> None:
    made = tiny.blip2_opt()
    made.save(tmp_path, layout="authors")
    (tmp_path / "config.json").write_text(json.dumps(blip2.authors_config(blip2.SIZES["blip2-flan-t5-xl"])))
    with pytest.raises(
        ValueError, match=r"of a 't5' language model, but the weights are of 'opt': they have 'opt_proj"
    ):
        scops.load(tmp_path)


# Writing prompts ------------------------------------------------------------------------------------------------------


def test_ids_of_opt_equal_the_published_processor_s() -> None:
    """Blip2Processor: so many <image>, the tokenizer's </s>, the text."""
    words = tiny.tokenizer()
    ready = transformers.PreTrainedTokenizerFast(tokenizer_object=words.backend)
    theirs = transformers.models.blip_2.processing_blip_2
    processor = theirs.Blip2Processor(transformers.BlipImageProcessorPil(), ready, num_query_tokens=QUERIES)
    ids = processor(images=tiny.picture(), text="Question: what is this? Answer:").input_ids
    picture = Media("image", tiny.picture())
    for template, asked in (("question", "what is this?"), ("plain", "Question: what is this? Answer:")):
        spec = replace(tiny.blip2_opt().spec, template=template)
        made = Processor(blip2.layout(spec), words)(Sample((Turn("user", (Text(asked), picture)),)), reply=True)
        assert made.spans == (Span("image", 0, QUERIES),)
        image = processor.tokenizer.convert_tokens_to_ids("<image>")
        found = ids[0] if isinstance(ids[0], list) else ids
        assert found[:QUERIES] == [image] * QUERIES
        assert made.ids_T.tolist()[QUERIES:] == [words.id_of("</s>"), *found[QUERIES:]]


def test_opt_learns_a_reply_with_its_space_and_ends_it_with_a_line() -> None:
    words = tiny.tokenizer()
    make = Processor(blip2.layout(tiny.blip2_opt().spec), words)
    turns = (
        Turn("user", (Media("image", tiny.picture()), Text("what?"))),
        Turn("assistant", (Text("an owl"),), learn=True),
    )
    made = make(Sample(turns))
    assert words.decode(made.ids_T[made.learn_T].tolist()) == " an owl\n"
    assert words.decode(made.ids_T[QUERIES + 1 :].tolist()) == "Question: what? Answer: an owl\n"
    assert words.decode([words.stop_id("\n")]) == "\n"


def test_t5_reads_the_question_and_writes_the_answer() -> None:
    words = tiny.t5_tokenizer()
    make = Processor(blip2.layout(tiny.blip2_t5().spec), words)
    turns = (
        Turn("user", (Text("what?"), Media("image", tiny.picture()))),
        Turn("assistant", (Text("an owl"),), learn=True),
    )
    made = make(Sample(turns))
    end, begin = words.id_of("</s>"), words.id_of("<pad>")
    assert made.ids_T.tolist()[QUERIES:] == [
        *words.encode_text("Question: what? Answer:"), end, begin, *words.encode_text("an owl"), end
    ]  # fmt: skip
    assert made.reply == len(made) - len(words.encode_text("an owl")) - 2
    assert made.spans == (Span("image", 0, QUERIES),)
