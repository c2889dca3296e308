"""MiniGPT-4 and MiniGPT-v2 against what their code computes, said once more in plain operations, and transformers' LLaMA."""

# M pictures, P features per picture, Q tokens per picture, T tokens, D width
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import scops
from scops.checkpoints.hub_eva import HUB_EVA
from scops.checkpoints.hub_qformer import HUB_QFORMER
from scops.checkpoints.keymap import KeyMap, same
from scops.checkpoints.write import save_tensors
from scops.connectors.qformer import QFormerSpec
from scops.core.batch import Example
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.processor import Processor
from scops.encoders.eva import EvaSpec
from scops.language.llama import LlamaSpec
from scops.model import Model
from scops.models.decoder import MultimodalDecoder
from scops.nn import lora
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import minigpt4, spec_to_json
from scops.systems.minigpt4 import StripSpec
from scops.systems.minigpt4_wording import SYSTEM
from scops.train.stage import enter
from tests import tiny, twins
from tests.conftest import batch_of, close, example, randomise
from tests.data.vocabularies import metaspace
from tests.systems import lavis_twin as twin
from tests.systems.test_stages import LANGUAGE, follow, pictures

FORMER = QFormerSpec(dim=12, hidden=20, layers=3, heads=3, queries=4, width=24)
WORDS = LlamaSpec(dim=24, hidden=36, layers=2, heads=4, kv_heads=2, vocab=53)
EYE = EvaSpec(dim=24, hidden=40, layers=2, heads=3, image=28, patch=7)
TINY = {"asking": minigpt4.Spec(EYE, FORMER, WORDS), "joining": minigpt4.Spec(EYE, StripSpec(), WORDS, "v2")}
LAST = minigpt4.Spec(
    EvaSpec(dim=12, hidden=30, layers=1, heads=4, image=18, patch=6), StripSpec(3),
    LlamaSpec(dim=12, hidden=14, layers=2, heads=2, kv_heads=2, vocab=41), "llama2",
)  # fmt: skip


def drawn(seed: int) -> minigpt4.Spec:
    """Of any sizes."""
    draw = random.Random(seed)
    eye, former, words = (draw.randint(1, 4) for _ in range(3))  # heads
    patch, side = draw.randint(3, 7), draw.randint(2, 4)
    vision = EvaSpec(
        dim=eye * draw.randint(2, 5), hidden=draw.randint(5, 30), layers=draw.randint(1, 3), heads=eye,
        image=patch * side, patch=patch,
    )  # fmt: skip
    queries = QFormerSpec(
        dim=former * draw.randint(2, 5), hidden=draw.randint(5, 30), layers=draw.randint(1, 5), heads=former,
        queries=draw.randint(1, 9), width=vision.dim, every=draw.randint(1, 3),
    )  # fmt: skip
    language = LlamaSpec(
        dim=words * draw.choice([4, 6, 10]), hidden=draw.randint(9, 40), layers=draw.randint(1, 3), heads=words,
        kv_heads=draw.choice([1, words]), vocab=draw.randint(20, 90), eps=draw.choice([1e-5, 1e-6]),
    )  # fmt: skip
    strips = StripSpec(draw.choice([n for n in range(1, side**2 + 1) if side**2 % n == 0]))
    asks = draw.random() < 0.5
    return minigpt4.Spec(vision, queries if asks else strips, language, "vicuna0" if asks else "llama2")


SPECS = TINY | {"threes": LAST} | {f"sizes {seed}": drawn(seed) for seed in range(8)}


def built(spec: minigpt4.Spec) -> MultimodalDecoder:
    return randomise(minigpt4.build(spec))


def picture(spec: minigpt4.Spec) -> Tensor:
    return torch.randn(3, spec.vision.image, spec.vision.image)


def rows(spec: minigpt4.Spec) -> dict[str, Example]:
    """No picture, one, three; first, last, adjacent, alone."""
    room = minigpt4.tokens_for(spec)
    orders = {
        "first": (None, 5, 6, 7), "last": (1, 9, 8, 7, None), "adjacent": (1, 3, None, None, 4),
        "three": (1, None, 2, 3, None, 4, None, 8), "none": (1, 2, 3, 4, 5), "alone": (None,),
    }  # fmt: skip
    made = {}
    for name, order in orders.items():
        ids: list[int] = []
        spans = []
        for entry in order:
            spans += [(len(ids), room)] if entry is None else []
            ids += [0] * room if entry is None else [entry]
        made[name] = replace(example(ids, tuple(spans), [picture(spec) for _ in spans]), digests={})
    return made


def tokens(w: Mapping[str, Tensor], pixels_MCHW: Tensor, spec: minigpt4.Spec) -> Tensor:
    """(M, Q, D): encode_img of minigpt4.py and minigpt_v2.py."""
    seen = twin.norm(w, "ln_vision", twin.tower(twin.below(w, "visual_encoder."), pixels_MCHW, spec.vision), 1e-5)
    if isinstance(spec.connector, StripSpec):
        seen = seen[:, 1:].reshape(len(seen), -1, spec.connector.tokens * spec.vision.dim)
    else:
        seen = twin.qformer(twin.below(w, "Qformer.bert."), w["query_tokens"], seen, spec.connector.heads)
    return twin.project(w, "llama_proj", seen)


def embedded(w: Mapping[str, Tensor], one: Example, spec: minigpt4.Spec) -> Tensor:
    """(1, T, D): words with pictures among them."""
    x = w["llama_model.model.embed_tokens.weight"][torch.from_numpy(one.ids_T)].clone()
    for span, pixels in zip(one.spans, one.media.get("image", ()), strict=True):
        x[span.start : span.start + span.length] = tokens(w, torch.from_numpy(pixels)[None], spec)[0]
    return x[None]


@torch.no_grad()
@pytest.mark.parametrize("name", SPECS)
def test_every_step_equals_the_same_in_plain_operations(name: str) -> None:
    spec = SPECS[name]
    system = built(spec)
    w = twin.named(minigpt4.KEYS["authors"](spec), system)
    reference = twin.language(twin.below(w, "llama_model."), spec.language)
    for one in rows(spec).values():
        batch, x = batch_of(one), embedded(w, one, spec)
        if one.spans:
            pixels = batch.media["image"]
            assert close(
                system.encode(batch)["image"], twin.tower(twin.below(w, "visual_encoder."), pixels, spec.vision)
            )
            assert close(system.connect(batch)["image"], tokens(w, pixels, spec))
        assert close(system.read(batch)[0], x)
        assert close(system(batch), reference(inputs_embeds=x).logits)


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
def test_the_best_tokens_are_those_that_transformers_writes(name: str) -> None:
    spec = TINY[name]
    system = built(spec)
    w = twin.named(minigpt4.KEYS["authors"](spec), system)
    reference = twin.language(twin.below(w, "llama_model."), spec.language)
    for one in rows(spec).values():
        theirs = reference.generate(
            inputs_embeds=embedded(w, one, spec), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0]
        session, ours = system.session(batch_of(one), len(one) + 8), []
        for _ in range(8):
            ours.append(session.logits_BV.argmax(-1))
            session.step(ours[-1])
        assert torch.cat(ours).tolist() == theirs.tolist()


@torch.no_grad()
def test_four_tokens_of_a_strip_are_neighbours_in_a_row_not_a_square() -> None:
    """A picture of 4 x 4 patches: the second token is the second row."""
    spec = TINY["joining"]
    system, one = built(spec), rows(spec)["alone"]
    batch = batch_of(one)
    before = system.connect(batch)["image"]
    features = system.encode(batch)["image"]
    features[:, 1 + 4 : 1 + 8] += 1.0
    after = system.connect(replace(batch, media={}, features={"image": features}))["image"]
    assert [bool(x) for x in (after != before).any(-1)[0]] == [False, True, False, False]


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
def test_a_ragged_batch_equals_each_row_alone(name: str) -> None:
    assert twins.rows_stand_alone(built(TINY[name]), rows(TINY[name]))


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_equal_recomputing(name: str, cache: type) -> None:
    examples = list(rows(TINY[name]).values())
    assert twins.cached_equals_recompute(built(TINY[name]), examples, twins.cache_of(cache, len(examples)))


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
def test_the_shared_session_equals_recomputing(name: str) -> None:
    examples = list(rows(TINY[name]).values())
    assert twins.shared_equals_recompute(built(TINY[name]), examples, tokens=300, page=3, most=4)


# How published --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_keys_round_trip_bitwise(name: str) -> None:
    keys = minigpt4.KEYS["authors"](SPECS[name])
    assert twins.come_back_bitwise(keys, twin.named(keys, built(SPECS[name])))


def test_a_language_model_inside_peft_is_read_under_its_names() -> None:
    """As the whole state of a MiniGPT-v2 has them."""
    spec = TINY["joining"]
    system, keys = built(spec), minigpt4.KEYS["authors"](spec)
    lora.add(system, replace(minigpt4.LORA, rank=3))
    ours = {name: torch.randn_like(x) for name, x in system.state_dict().items()}
    plain, inside = keys.save(ours), {}
    for name, x in plain.items():
        below = name.removeprefix("llama_model.model.")
        inside[name if below == name else "llama_model.base_model.model.model." + below] = x
    inside["llama_model.base_model.model.lm_head.weight"] = inside.pop("llama_model.lm_head.weight")
    assert "llama_model.base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight" in inside
    assert "llama_model.base_model.model.model.layers.1.self_attn.v_proj.weight" in inside
    assert equal(keys.load(inside), ours)
    assert equal(keys.load(plain), ours)


@pytest.mark.parametrize("name", [*SPECS, *minigpt4.SIZES])
def test_the_configuration_comes_back(name: str) -> None:
    spec = (SPECS | minigpt4.SIZES)[name]
    words = replace(spec.language, head_dim=spec.language.head_width)
    assert minigpt4.spec_of(json.loads(json.dumps(minigpt4.config_of(spec)))) == replace(spec, language=words)


def test_the_authors_own_words_are_enough() -> None:
    """As in minigpt4/configs/models; the language model's numbers stand in its own config.json."""
    text = {"text_config": {"vocab_size": 32001}}
    seven, _, llama2, v2 = minigpt4.SIZES.values()
    found = minigpt4.spec_of(
        {"arch": "minigpt4", "model_type": "pretrain_vicuna0", "image_size": 224, "num_query_token": 32} | text
    )
    assert found == seven
    said = {"arch": "minigpt4", "model_type": "pretrain_llama2", "image_size": 224, "has_qformer": False}
    text = {"text_config": {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}}
    assert minigpt4.spec_of(said | text) == llama2
    assert minigpt4.spec_of({"arch": "minigpt_v2", "model_type": "pretrain", "image_size": 448} | text) == v2
    assert minigpt4.spec_of({"arch": "blip2_opt"}) is None
    with pytest.raises(ValueError, match="no minigpt4 of model_type 'pretrain'"):
        minigpt4.spec_of(said | text | {"model_type": "pretrain"})


COUNTS = {
    "minigpt4-7b": (985_894_528, 108_314_880, 6_738_423_808),
    "minigpt4-13b": (985_894_528, 109_102_336, 13_015_874_560),
    "minigpt4-llama2-7b": (985_894_528, 23_075_584, 6_738_415_616),
    "minigpt-v2-7b": (986_975_872, 23_075_584, 6_738_415_616),
}


@pytest.mark.parametrize("size", minigpt4.SIZES)
def test_full_sizes_have_the_published_counts_and_shapes(size: str) -> None:
    """Counted from the parts' published numbers; what is trained of MiniGPT-4 is its 3 million of `llama_proj`."""
    spec = minigpt4.SIZES[size]
    with torch.device("meta"):
        system = minigpt4.build(spec)
    parts = system.image.encoder, system.image.connector, system.language
    assert tuple(sum(p.numel() for p in part.parameters()) for part in parts) == COUNTS[size]
    names = minigpt4.KEYS["authors"](spec).save(system.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in names.items()}
    side = spec.vision.image // 14
    assert shapes["visual_encoder.pos_embed"] == (1, 1 + side**2, 1408)
    assert shapes["visual_encoder.blocks.38.attn.qkv.weight"] == (4224, 1408)
    assert "visual_encoder.blocks.39.attn.qkv.weight" not in shapes
    assert shapes["ln_vision.weight"] == (1408,)
    asks = isinstance(spec.connector, QFormerSpec)
    assert shapes["llama_proj.weight"] == (spec.language.dim, 768 if asks else 5632)
    assert ("Qformer.bert.encoder.layer.10.crossattention.self.key.weight" in shapes) == asks
    assert minigpt4.tokens_for(spec) == (32 if asks else side**2 // 4)
    if asks:
        assert shapes["query_tokens"] == (1, 32, 768)
        assert shapes["Qformer.bert.encoder.layer.10.crossattention.self.key.weight"] == (768, 1408)


# In parts -------------------------------------------------------------------------------------------------------------


def spread(home: Path, made: Model, released: Mapping[str, Tensor], **said: Any) -> Path:
    """As published: EVA-CLIP's file with a block too many, BLIP-2's with text and another's projection, and what was trained."""
    state = twin.named(minigpt4.KEYS["authors"](made.spec), made.module)
    eye = twin.below(state, "visual_encoder.")
    last = {f"blocks.{made.spec.vision.layers}.{name}": x for name, x in twin.below(eye, "blocks.0.").items()}
    blip = {name: x for name, x in state.items() if name.startswith(("ln_vision", "query_tokens", "Qformer"))}
    text = {"t5_proj.weight": torch.ones(3, 3), "Qformer.bert.encoder.layer.0.output.dense.weight": torch.ones(3, 3)}
    for folder in ("llama", "minigpt"):
        (home / folder).mkdir(parents=True)
    torch.save(eye | last | {"head.weight": torch.ones(2, 2)}, home / "eva_vit_g.pth")
    torch.save({"model": blip | text}, home / "blip2.pth")
    save_tensors(home / "llama" / "model.safetensors", twin.below(state, "llama_model."))
    made.tokenizer.save(home / "llama")
    trained = {"model": dict(released), "epoch": 4, "config": {"run": {"lr": 1e-4}}}
    torch.save(trained, home / "minigpt" / "checkpoint_4.pth")
    weights = {"": "checkpoint_4.pth", "image.encoder": "../eva_vit_g.pth", "language": "../llama"}
    whole = {"overrides": spec_to_json(made.spec), "tokenizer": "../llama"} | said
    whole["weights"] = weights | whole.get("weights", {})
    (home / "minigpt" / "parts.json").write_text(json.dumps(whole))
    return home / "minigpt"


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(x, b[name]) for name, x in a.items())


def test_what_was_released_of_minigpt4_is_opened_with_the_files_around_it(tmp_path: Path) -> None:
    made = tiny.minigpt4()
    released = {f"llama_proj.{name}": x for name, x in made.module.image.connector.project.state_dict().items()}
    loaded = scops.load(
        spread(tmp_path, made, released, size="minigpt4-7b", weights={"image.connector": "../blip2.pth"})
    )
    assert equal(loaded.module.state_dict(), made.module.state_dict())
    shown = [tiny.picture()]
    assert loaded.chat("what is this?", shown, max_tokens=9) == made.chat("what is this?", shown, max_tokens=9)


@pytest.mark.parametrize("adapter", ["default.", ""])
def test_a_release_of_v2_brings_adapters_and_its_tower_sees_larger_pictures(adapter: str, tmp_path: Path) -> None:
    """The norm in front of the projection is nobody's: the authors leave it as it begins. PEFT names adapters since 0.3."""
    made = tiny.minigpt_v2()
    groups = replace(minigpt4.LORA, rank=2, alpha=3.0)
    released = {f"llama_proj.{name}": x for name, x in made.module.image.connector.project.state_dict().items()}
    for i in range(made.spec.language.layers):
        for name, out in (("q", 24), ("v", 12)):
            theirs = f"llama_model.base_model.model.model.layers.{i}.self_attn.{name}_proj.lora_"
            released |= {
                f"{theirs}A.{adapter}weight": torch.randn(2, 24),
                f"{theirs}B.{adapter}weight": torch.randn(out, 2),
            }
    said = {
        "size": "minigpt-v2-7b", "fresh": ["image.connector.norm"],
        "lora": [{"targets": groups.targets, "rank": 2, "alpha": 3.0, "dropout": 0.05}],
    }  # fmt: skip
    folder = spread(tmp_path, made, released, **said)
    loaded = scops.load(folder)
    assert equal(loaded.module.image.encoder.state_dict(), made.module.image.encoder.state_dict())
    norm, pairs = loaded.module.image.connector.norm, lora.adapters(loaded.module)
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()
    assert len(pairs) == 4
    theirs = f"llama_model.base_model.model.model.layers.1.self_attn.v_proj.lora_B.{adapter}weight"
    assert torch.equal(pairs["language.blocks.1.attn.body.v"][1], released[theirs])
    assert loaded.module.language.blocks[0].attn.body.q.scale == 1.5
    small = torch.load(tmp_path / "eva_vit_g.pth")
    grid = small["pos_embed"][:, 1:].unflatten(1, (4, 4))[:, 1:3, 1:3].flatten(1, 2)
    small["pos_embed"] = torch.cat([small["pos_embed"][:, :1], grid], 1)
    torch.save(small, tmp_path / "eva_vit_g.pth")
    spreading = torch.nn.functional.interpolate(
        grid.transpose(1, 2).unflatten(2, (2, 2)), size=(4, 4), mode="bicubic", align_corners=False
    )
    positions = scops.load(folder).module.image.encoder.positions
    assert torch.equal(positions[:, :1], small["pos_embed"][:, :1])
    assert close(positions[0, 1:].T.unflatten(1, (4, 4)), spreading[0])


def test_tower_and_qformer_also_come_from_a_folder_of_transformers(tmp_path: Path) -> None:
    """Its BLIP-2 holds both, the norm between them under the tower's name, and more."""
    made = tiny.minigpt4()
    released = {f"llama_proj.{name}": x for name, x in made.module.image.connector.project.state_dict().items()}
    folder = spread(
        tmp_path, made, released, size="minigpt4-7b", weights={"image.encoder": "../hub", "image.connector": "../hub"}
    )
    image = made.module.image
    hub = KeyMap(HUB_EVA.under("vision_model.")).save(image.encoder.state_dict())
    hub |= KeyMap(same("query_tokens", "queries"), HUB_QFORMER.under("qformer.")).save(
        image.connector.qformer.state_dict()
    )
    hub |= {f"vision_model.post_layernorm.{name}": x for name, x in image.connector.norm.state_dict().items()}
    hub |= {"language_projection.weight": torch.ones(2, 2), "language_model.shared.weight": torch.ones(2, 2)}
    save_tensors(tmp_path / "hub" / "model.safetensors", hub)
    assert equal(scops.load(folder).module.state_dict(), made.module.state_dict())


def test_parts_that_are_missing_are_named(tmp_path: Path) -> None:
    made = tiny.minigpt4()
    released = {f"llama_proj.{name}": x for name, x in made.module.image.connector.project.state_dict().items()}
    folder = spread(tmp_path, made, released, size="minigpt4-7b")
    with pytest.raises(ValueError, match=r"(?s)come from no source.*'image.connector.norm"):
        scops.load(folder)


# How read -------------------------------------------------------------------------------------------------------------

ROOM = "<ImageHere>"


def conversations() -> dict[str, tuple[minigpt4.Spec, tuple[str, ...]]]:
    """The strings that the released code would tokenise, piece by piece: at a picture, and at the special tokens in them."""
    first = SYSTEM + "###Human: <Img>", ROOM, "</Img> what is it?###Assistant: an owl###Human: sure?###Assistant: "
    second = (
        "<s>",
        SYSTEM,
        "<s>",
        "[INST] <Img>",
        ROOM,
        "</Img> what is it? [/INST] an owl",
        "</s>",
        "<s>",
        "[INST] sure? [/INST] ",
    )
    third = (
        "<s>",
        "<s>",
        "[INST] <Img>",
        ROOM,
        "</Img> what is it? [/INST]an owl",
        "</s>",
        "<s>",
        "[INST] sure? [/INST]",
    )
    seven, _, llama2, v2 = minigpt4.SIZES.values()
    return {"vicuna0": (seven, ("<s>", *first)), "llama2": (llama2, second), "v2": (v2, third)}


@pytest.mark.parametrize("name", ["vicuna0", "llama2", "v2"])
def test_prompts_are_written_as_the_released_code_asks(name: str) -> None:
    spec, pieces = conversations()[name]
    tokenizer = metaspace()
    turns = (
        Turn("user", (Media("image", tiny.picture()), Text("what is it?"))), Turn("assistant", (Text("an owl"),)),
        Turn("user", (Text("sure?"),)),
    )  # fmt: skip
    made = Processor(minigpt4.layout(spec), tokenizer)(Sample(turns), reply=True)
    expected: list[int] = []
    for piece in pieces:
        if piece == ROOM:
            assert (made.spans[0].start, made.spans[0].length) == (len(expected), minigpt4.tokens_for(spec))
            expected += [0] * minigpt4.tokens_for(spec)
        else:
            expected += [tokenizer.id_of(piece)] if piece in ("<s>", "</s>") else tokenizer.encode_text(piece)
    assert made.ids_T.tolist() == expected


def test_what_closes_a_reply_is_learnt_with_it() -> None:
    tokenizer = metaspace()
    turns = Turn("user", (Text("what?"),)), Turn("assistant", (Text("an owl"),), learn=True)
    for spec, closing in zip(minigpt4.SIZES.values(), ("###", "###", "</s>", "</s>"), strict=True):
        made = Processor(minigpt4.layout(spec), tokenizer)(Sample(turns))
        assert tokenizer.decode(made.ids_T[made.learn_T].tolist(), skip_special=False).endswith("an owl" + closing)


def test_a_task_is_ordinary_text_and_so_is_what_looks_like_a_mark() -> None:
    tokenizer, layout = metaspace(), minigpt4.layout(minigpt4.SIZES["minigpt-v2-7b"])
    words = "[vqa] <Img><ImageHere></Img> </s> {<1><2><3><4>}"
    made = Processor(layout, tokenizer)(Sample((Turn("user", (Text(words),)),)), reply=True)
    assert not made.spans
    assert made.ids_T.tolist().count(tokenizer.id_of("</s>")) == 0
    assert words in tokenizer.decode(made.ids_T.tolist())


def test_a_reply_of_vicuna_ends_before_its_mark_however_that_is_split_into_tokens() -> None:
    first, second, *others = (minigpt4.layout(spec).template.ends for spec in minigpt4.SIZES.values())
    assert (first, second, *others) == (("###",), ("###",), (), ())


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="16 patches of a picture of 28 pixels make no strips of 3"):
        minigpt4.build(replace(TINY["joining"], connector=StripSpec(3)))
    with pytest.raises(ValueError, match="no template 'v3'"):
        minigpt4.layout(replace(TINY["joining"], template="v3"))
    with pytest.raises(ValueError, match="14"):
        built(TINY["asking"]).image.encoder(torch.randn(1, 3, 14, 14))


# How trained ----------------------------------------------------------------------------------------------------------

STAGES = {
    "minigpt4": ((("image.connector.project.",), ""),) * 2,
    "minigpt-v2-7b": ((("image.connector.project.",), "q v"),) * 3,
    "minigpt-v2-finetune": ((("image.connector.project.",), "q v"),),
}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("recipe", STAGES)
def test_stages_of_minigpt4_move_exactly_what_they_name(recipe: str, name: str) -> None:
    spec = replace(TINY[name], language=replace(LANGUAGE, tied=False))
    follow(built(spec), minigpt4.STAGES[recipe], STAGES[recipe], pictures(28))


def test_no_recipe_is_left_out_here() -> None:
    assert minigpt4.STAGES.keys() == STAGES.keys()


@pytest.mark.parametrize(
    ("size", "recipe", "count"),
    [
        ("minigpt4-7b", "minigpt4", 3_149_824),
        ("minigpt4-13b", "minigpt4", 3_937_280),
        ("minigpt-v2-7b", "minigpt-v2-7b", 56_627_200),
    ],
)
def test_full_sizes_learn_the_projection_and_the_adapters(size: str, recipe: str, count: int) -> None:
    """769 numbers per width of the language model; v2: 5,633, and 33,554,432 of adapters."""
    with torch.device("meta"):
        system = minigpt4.build(minigpt4.SIZES[size])
    trainables = enter(system, minigpt4.STAGES[recipe][0])
    assert sum(p.numel() for p in trainables.values()) == count
