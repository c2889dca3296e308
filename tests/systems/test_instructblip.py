"""InstructBLIP against transformers' InstructBlipForConditionalGeneration, with LLaMA and with FlanT5, at random tiny sizes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from torch import nn

import scops
from scops.checkpoints.write import save_tensors
from scops.connectors.qformer import QFormerSpec
from scops.core.batch import Example
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.processor import Processor
from scops.data.tokenizer import Tokenizer
from scops.language.llama import LlamaSpec
from scops.language.t5 import T5Spec
from scops.models.recompute import Recompute
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import instructblip
from tests import tiny
from tests.conftest import batch_of, close, randomise
from tests.systems import test_blip2
from tests.systems.test_blip2 import EYE, IMAGE, QUERIES, published, row
from tests.systems.test_stages import follow
from tests.twins import cache_of, cached_equals_recompute, come_back_bitwise, rows_stand_alone, shared_equals_recompute
from tests.twins import follow as steps

transformers = pytest.importorskip("transformers")

TEXT: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama", "vocab_size": 61, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    },
    "t5": test_blip2.TEXT["t5"],
}  # fmt: skip
SIZES = {name: (vision, qformer | {"max_position_embeddings": 20}, queries)
         for name, (vision, qformer, queries) in test_blip2.SIZES.items()}  # fmt: skip
KINDS = ("llama", "t5")
ASKED, READ = [[2, 7, 8, 9, 11], [2, 5]], [[3, 4, 5, 6], [7, 8, 9, 10, 11, 12, 13]]
"""By row, an instruction in the language model's ids and in the Q-Former's."""


def reference(kind: str, size: str = "small") -> nn.Module:
    vision, qformer, queries = SIZES[size]
    config = transformers.InstructBlipConfig(
        vision_config=vision, qformer_config=qformer, text_config=TEXT[kind], num_query_tokens=queries,
        image_token_index=IMAGE,
    )  # fmt: skip
    made = transformers.InstructBlipForConditionalGeneration(config)
    if kind == "t5":
        made.language_model.lm_head.weight = nn.Parameter(torch.empty_like(made.language_model.lm_head.weight))
    randomise(made)
    for layer in made.vision_model.encoder.layers:
        width = vision["hidden_size"]
        nn.init.zeros_(layer.self_attn.qkv.bias[width : 2 * width])
    return made


def ours(theirs: nn.Module) -> tuple[Any, instructblip.Spec]:
    spec = instructblip.spec_of(json.loads(json.dumps(theirs.config.to_dict())))
    assert spec is not None
    spec = instructblip.settled(spec, {name: tuple(x.shape) for name, x in published(theirs).items()})
    system = instructblip.build(spec)
    system.load_state_dict(instructblip.KEYS["transformers"](spec).load(published(theirs)))
    return system.eval(), spec


def told(one: Example, *words: list[int]) -> Example:
    return replace(one, words={"image": tuple(np.array(ids) for ids in words)}) if words else one


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_logits_equal_transformers_with_instructions_of_unequal_length(kind: str, size: str) -> None:
    theirs = reference(kind, size)
    system, spec = ours(theirs)
    room, side = spec.qformer.queries, spec.vision.image
    pixels, replies = torch.randn(2, 3, side, side), [[0, 4, 6], [0, 9]]
    made_rows = [
        told(row(kind, text, reply, room, pixel), words)
        for text, reply, pixel, words in zip(ASKED, replies, pixels, READ, strict=True)
    ]
    batch = batch_of(*made_rows)
    tokens, made = system.connect(batch)["image"], system(batch)
    for at, one in enumerate(made_rows):
        read = torch.tensor([READ[at]])
        asked = {"pixel_values": pixels[at : at + 1], "qformer_input_ids": read}
        seen = theirs.get_image_features(**asked, qformer_attention_mask=torch.ones_like(read)).pooler_output
        assert close(tokens[at], seen[0])
        asked |= {"input_ids": torch.tensor([[IMAGE] * room + ASKED[at]])}
        if kind == "t5":
            found = theirs(**asked, decoder_input_ids=torch.tensor([replies[at]])).logits[0]
            assert close(made[at, one.reply : len(one)], found)
        else:
            assert close(made[at, : len(one)], theirs(**asked).logits[0])


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_replies_equal_transformers_also_padded(kind: str) -> None:
    theirs = reference(kind)
    system, spec = ours(theirs)
    room, pixels = spec.qformer.queries, torch.randn(2, 3, spec.vision.image, spec.vision.image)
    ids, real = torch.full((2, room + 5), 1), torch.zeros(2, room + 5, dtype=torch.long)
    for at, text in enumerate(ASKED):
        ids[at, 5 - len(text) :], real[at, 5 - len(text) :] = torch.tensor([IMAGE] * room + text), 1
    read, is_read = torch.zeros(2, 7, dtype=torch.long), torch.zeros(2, 7, dtype=torch.long)
    for at, words in enumerate(READ):
        read[at, : len(words)], is_read[at, : len(words)] = torch.tensor(words), 1
    more = {"min_new_tokens": 9, "max_new_tokens": 9, "do_sample": False}
    found = theirs.generate(
        pixels, read, is_read, input_ids=ids, attention_mask=real, **more
    )[:, -9:]  # fmt: skip
    end = theirs.language_model.generation_config.eos_token_id
    rows_ = [
        told(row(kind, text, [0], room, pixel), words) for text, pixel, words in zip(ASKED, pixels, READ, strict=True)
    ]
    session, made = system.session(batch_of(*rows_), 40), []
    for _ in range(9):
        session.logits_BV[:, end] = -torch.inf
        made.append(session.logits_BV.argmax(-1))
        session.step(made[-1])
    assert torch.stack(made, 1).tolist() == found.tolist()


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_keys_round_trip_bitwise_in_both_layouts(kind: str) -> None:
    theirs = reference(kind)
    system, spec = ours(theirs)
    assert come_back_bitwise(instructblip.KEYS["transformers"](spec), published(theirs))
    keys = instructblip.KEYS["authors"](spec)
    named = keys.save(system.state_dict())
    assert come_back_bitwise(
        keys, named | {"Qformer.bert.embeddings.position_ids": torch.arange(20)[None]}, but="position_ids"
    )
    for name in (
        "Qformer.bert.embeddings.word_embeddings.weight", "Qformer.bert.encoder.layer.1.intermediate.dense.weight",
        ("llm" if kind == "llama" else "t5") + "_proj.bias",
    ):  # fmt: skip
        assert name in named, name


def test_full_sizes_have_the_names_and_shapes_of_transformers() -> None:
    for size, spec in instructblip.SIZES.items():
        with torch.device("meta"):
            system = instructblip.build(spec)
            numbers = {k: v for k, v in instructblip.transformers_config(spec).items() if k != "architectures"}
            theirs = transformers.InstructBlipForConditionalGeneration(transformers.InstructBlipConfig(**numbers))
        shapes = {
            k: tuple(v.shape) for k, v in instructblip.KEYS["transformers"](spec).save(system.state_dict()).items()
        }
        expected = {k: tuple(v.shape) for k, v in published(theirs).items()}
        assert shapes == expected | {k: v for k, v in shapes.items() if k.endswith("lm_head.weight")}, size
        # 39 biases of keys are zero in transformers' files and not held here
        tied = 0 if isinstance(spec.language, LlamaSpec) else theirs.language_model.lm_head.weight.numel()
        count = sum(p.numel() for p in theirs.parameters()) - 39 * 1408 + tied
        assert sum(p.numel() for p in system.parameters()) == count, size
    assert shapes["qformer.embeddings.word_embeddings.weight"] == (30523, 768)


@pytest.mark.parametrize("size", instructblip.SIZES)
def test_configurations_go_both_ways(size: str) -> None:
    spec = instructblip.SIZES[size]
    authors = json.loads(json.dumps(instructblip.authors_config(spec)))
    assert not {"vision", "qformer", "language"} & authors.keys()
    assert instructblip.spec_of(authors) == spec
    again = replace(spec, eps=spec.vision.eps)
    found = instructblip.spec_of(json.loads(json.dumps(instructblip.transformers_config(again))))
    assert instructblip.transformers_config(found) == instructblip.transformers_config(again)
    assert instructblip.spec_of({"model_type": "blip-2"}) is None
    blind = instructblip.spec_of(authors | {"qformer_text_input": False})
    assert blind.qformer.vocab == 0
    assert instructblip.layout(blind).media["image"].arrange(None)[0].words == ()


# Reading and writing --------------------------------------------------------------------------------------------------

READS = QFormerSpec(8, 10, 3, 2, queries=QUERIES, width=12, vocab=53, context=20)
TINY = {
    "llama": instructblip.Spec(EYE, READS, LlamaSpec(dim=16, hidden=20, layers=2, heads=2, kv_heads=1, vocab=53)),
    "t5": instructblip.Spec(
        EYE, READS, T5Spec(dim=16, hidden=20, layers=2, heads=2, head_dim=5, vocab=53, buckets=8, farthest=9)
    ),
}


def rows(kind: str) -> dict[str, Example]:
    """Pictures of a row are read with words of unequal length."""
    return {
        name: told(one, *([5 + number] * (number + 2) for number in range(len(one.spans))))
        for name, one in test_blip2.rows(kind).items()
    }


def system_of(kind: str) -> Any:
    return randomise(instructblip.build(TINY[kind]))


@torch.no_grad()
def test_a_ragged_batch_with_llama_equals_each_row_alone() -> None:
    assert rows_stand_alone(system_of("llama"), rows("llama"))


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_with_llama_equal_recompute(cache: type) -> None:
    examples = list(rows("llama").values())
    assert cached_equals_recompute(system_of("llama"), examples, cache_of(cache, len(examples)))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [2, 100])
def test_shared_sessions_equal_recompute(kind: str, most: int) -> None:
    assert shared_equals_recompute(system_of(kind), list(rows(kind).values()), tokens=150, page=3, most=most)


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_with_t5_equal_recompute_and_rows_stand_alone(cache: type) -> None:
    system, made = system_of("t5"), rows("t5")
    for logits, (name, one) in zip(system(batch_of(*made.values())), made.items(), strict=True):
        assert close(logits[one.reply : len(one)], system(batch_of(one))[0, one.reply :]), name
    examples = list(made.values())
    session = system.cached(batch_of(*examples), cache_of(cache, len(examples), 20))
    ids_BS = torch.randint(2, 50, (len(examples), 7))
    assert close(steps(session, ids_BS), steps(Recompute(system, [batch_of(one) for one in examples]), ids_BS))


@torch.no_grad()
def test_another_instruction_sees_another_picture() -> None:
    system, one = system_of("llama"), rows("llama")["first"]
    other = system.connect(batch_of(told(one, [9, 9, 8])))["image"]
    assert (other - system.connect(batch_of(one))["image"]).abs().max() > 1e-3


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", instructblip.STAGES)
def test_stages_move_exactly_what_they_name(recipe: str, kind: str) -> None:
    named = [one for name, one in rows(kind).items() if name in ("first", "adjacent", "several")]
    system = system_of(kind)
    last = f"image.connector.qformer.blocks.{READS.layers - 1}."  # what text becomes there, nobody reads
    unused = tuple(path for path, _ in system.named_parameters() if path.startswith(last + "text."))
    expected = ((("image.connector.",), ""),)
    stages = tuple(replace(stage, weight_decay=0.0) for stage in instructblip.STAGES[recipe])  # which moves those too
    follow(system, stages, expected, batch_of(*named), unused=unused)


def test_every_size_has_its_recipe() -> None:
    assert set(instructblip.SIZES) == set(instructblip.STAGES)


# Folders and prompts --------------------------------------------------------------------------------------------------


def berts() -> Tokenizer:
    """As Salesforce's folders have it: BERT's rule puts [CLS] and [SEP] around a text, and [DEC] is called its beginning."""
    made = tiny.bert_tokenizer()
    backend = made.backend
    backend.add_special_tokens(["[DEC]"])
    around = [(token, made.id_of(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return Tokenizer(backend, bos="[DEC]", pad="[PAD]")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_transformers_opens_and_answers(kind: str, tmp_path: Path) -> None:
    theirs = reference(kind)
    grown = {
        name: torch.cat([x, torch.randn(size - len(x), x.shape[1])])
        if len(x) == old and ("qformer" in name) == (old == 31) and x.ndim == 2 else x
        for old, size in ((61, 311),) for name, x in published(theirs).items()
    }  # fmt: skip
    name = "qformer.embeddings.word_embeddings.weight"
    grown[name] = torch.cat([grown[name], torch.randn(400 - 31, 8)])
    config = theirs.config.to_dict() | {"architectures": ["InstructBlipForConditionalGeneration"]}
    config["text_config"] |= {"vocab_size": 311}
    config["qformer_config"] |= {"vocab_size": 400}
    save_tensors(tmp_path / "model.safetensors", grown)
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = tiny.t5_tokenizer() if kind == "t5" else tiny.tokenizer()
    words.beside = berts()
    words.save(tmp_path)
    model = scops.load(tmp_path)
    assert model.origin.endswith("(transformers layout)")
    first, other = (model.chat(asked, [tiny.picture()], max_tokens=5) for asked in ("what is this?", "an owl?"))
    assert first
    assert other
    again = scops.load(model.save(tmp_path / "again", layout="transformers"))
    assert again.chat("what is this?", [tiny.picture()], max_tokens=5) == first


def test_the_q_former_reads_the_instruction_as_berts_tokenizer_writes_it() -> None:
    words = tiny.tokenizer()
    words.beside = berts()
    picture = Media("image", tiny.picture())
    asked = Sample((Turn("user", (Text("what is this?"), picture)), Turn("assistant", (Text("an owl"),), learn=True)))
    made = Processor(instructblip.layout(tiny.instructblip().spec), words)(asked)
    inner = words.beside
    assert made.words["image"][0].tolist() == inner.backend.encode("what is this?").ids
    assert made.words["image"][0][0] == inner.id_of("[CLS]")
    begins = words.id_of("</s>")
    question, answer = words.encode_text("what is this?"), words.encode_text("an owl")
    assert made.ids_T.tolist()[QUERIES:] == [begins, *question, *answer, begins]
    assert made.learn_T.sum() == len(answer) + 1


def test_text_alone_needs_no_words_and_long_instructions_are_refused() -> None:
    model = tiny.instructblip()
    assert model.chat("what is this?", max_tokens=4)
    with pytest.raises(ValueError, match="the Q-Former reads 60"):
        model.chat("owl " * 70, [tiny.picture()], max_tokens=2)
