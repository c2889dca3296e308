"""LLaVA 1.0 and 1.5 against transformers, live, and against goldens of haotian-liu/LLaVA."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import scops
from scops.checkpoints.adapter import Adapter, write_adapter
from scops.checkpoints.hub_clip import HUB_CLIP
from scops.checkpoints.hub_llama import HUB_LLAMA
from scops.checkpoints.write import save_tensors
from scops.cli.app import main
from scops.connectors.mlp import Projector, ProjectorSpec
from scops.core.batch import Example, Span
from scops.core.layout import UNCUT
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.collate import pad
from scops.data.errors import TooLong
from scops.data.image import prepare
from scops.data.processor import Processor
from scops.data.tokenizer import Tokenizer
from scops.encoders.selected import Selected, Selection
from scops.encoders.vit import Vit, VitSpec
from scops.language.llama import LlamaSpec
from scops.nn import lora
from scops.systems import llava, llava_next, spec_to_json
from scops.systems.llava_wording import TEMPLATES
from tests import tiny
from tests.conftest import Golden, batch_of, close, randomise
from tests.data.vocabularies import metaspace
from tests.systems.llava_rows import ORDERS, SMALL, UNUSED, drawn, equal, ours, peer, processor, reads_alike, row, rows
from tests.systems.pieces import SESSIONS, equals_recompute
from tests.systems.test_stages import LANGUAGE, follow, pictures
from tests.twins import come_back_bitwise, rows_stand_alone

TINY = llava.Spec(**SMALL)

# Against transformers -------------------------------------------------------------------------------------------------

PEERS = {
    "plain": {},
    "grouped heads, other sizes": {
        "tower": {"image_size": 15, "patch_size": 5, "hidden_size": 18, "num_attention_heads": 3, "num_hidden_layers": 4},
        "text": {"hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3, "rms_norm_eps": 1e-5},
    },
    "Mistral with a window": {"text": {"family": "Mistral", "num_key_value_heads": 2, "sliding_window": 11}},
    "Qwen2, tied": {"text": {"family": "Qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True}, "tie_word_embeddings": True},
    "class token kept": {"vision_feature_select_strategy": "full"},
    "several hidden states": {"vision_feature_layer": [-3, -1, 1]},
    "the last one": {"vision_feature_layer": -1},
    "another projector": {"multimodal_projector_bias": False, "projector_hidden_act": "quick_gelu"},
    "another tower": {"tower": {"hidden_act": "gelu", "layer_norm_eps": 1e-3}},
}  # fmt: skip


@pytest.mark.parametrize("name", PEERS)
def test_logits_and_replies_equal_transformers(name: str) -> None:
    theirs = peer("Llava", **PEERS[name])
    spec, system = ours(llava, theirs)
    for order, example in rows(llava.layout(spec).media["image"]).items():
        assert equal(system, theirs, example), order


@pytest.mark.parametrize("seed", range(6))
def test_random_sizes_equal_transformers(seed: int) -> None:
    theirs = peer("Llava", **drawn(seed))
    spec, system = ours(llava, theirs)
    for order, example in rows(llava.layout(spec).media["image"]).items():
        assert equal(system, theirs, example), order


def test_names_in_memory_and_on_disk_are_read_and_those_on_disk_written(tmp_path: Path) -> None:
    theirs = peer("Llava")
    spec, system = ours(llava, theirs)
    keys = llava.KEYS["transformers"](spec)
    published = keys.save(system.state_dict())
    assert {
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
        "vision_tower.vision_model.pre_layrnorm.weight",
        "multi_modal_projector.linear_2.bias",
    } <= published.keys()
    assert come_back_bitwise(keys, published)
    theirs.save_pretrained(tmp_path)
    again = keys.load(load_file(tmp_path / "model.safetensors"))
    assert all(torch.equal(again[name], tensor) for name, tensor in system.state_dict().items())


def test_a_folder_of_transformers_is_opened_and_theirs_opens_ours(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = peer("Llava", text={"vocab_size": 307})
    theirs.save_pretrained(tmp_path / "theirs")
    tiny.tokenizer().save(tmp_path / "theirs")
    model = scops.load(tmp_path / "theirs")
    assert (model.system, "transformers layout" in model.origin) == ("llava", True)
    example = row(ORDERS["several"], model.layout.media["image"], [(9, 9)] * 3)
    with torch.no_grad():
        assert equal(model.module, theirs, example)
        folder = model.save(tmp_path / "ours", "transformers")
        again = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
        again.config.image_token_index = again.model.config.image_token_index = 5
        assert equal(model.module, again, example)


# Against the authors' code --------------------------------------------------------------------------------------------


def spliced(golden: Golden, connector: nn.Module, words: Tensor) -> list[Tensor]:
    """For each row of a golden its embeddings, as our decoder writes them, cut where the reference cuts."""
    given, config = golden.config, golden.config["config"]
    views, sizes = iter(golden.inputs["features"].split(given["views"])), iter(given["image_sizes"] or [None] * 99)
    decoder = llava.MultimodalDecoder(
        llava.llama(LlamaSpec(dim=given["hidden"], hidden=8, layers=1, heads=1, kv_heads=1, vocab=given["vocab"])),
        image=llava.MediaInput(nn.Identity(), connector, llava.Inline()),
    )
    decoder.language.embed.weight.data = words
    layout = llava_next.layout(spec_of_golden(golden)).media["image"]
    found = []
    for ids in given["rows"]:
        row_ids, spans, features = [], [], []
        if -200 not in ids:
            next(views), next(sizes)  # a row of text has a dummy picture there
        for one in ids:
            if one != -200:
                row_ids.append(one)
                continue
            item, size = next(views), next(sizes)
            slot = layout.arrange(layout.cut_of(*reversed(size)) if len(item) > 1 else UNCUT)[0]
            spans.append(Span("image", len(row_ids), slot.tokens, slot.places, slot.extent))
            row_ids += [0] * slot.tokens
            features += [*item]
        example = Example(np.array(row_ids), np.zeros(len(row_ids), np.bool_), tuple(spans))
        batch = replace(pad([example], pad_id=0), features={"image": torch.stack(features)} if features else {})
        found.append(decoder.read(batch)[0][0, : config["tokenizer_model_max_length"]])
    return found


def spec_of_golden(golden: Golden) -> llava_next.Spec:
    config, side = golden.config["config"], golden.config["side"]
    points = config.get("image_grid_pinpoints") or []
    tile = golden.config["tile"]
    return llava_next.Spec(
        VitSpec(dim=golden.config["mm_hidden"], layers=1, heads=1, image=tile, patch=tile // side),
        projector=ProjectorSpec(1),
        grids=tuple((high // tile, wide // tile) for wide, high in points),
        merge=config["mm_patch_merge_type"] if golden.config["as_list"] else "flat",  # one tensor is never merged
        fit="pad",
    )


@torch.no_grad()
def test_embeddings_are_spliced_as_in_the_reference() -> None:
    golden = Golden("llava_splice")
    spec = spec_of_golden(golden)
    keys = llava_next.authors_projector(1, "project.")
    connector = llava_next.Views(
        Projector(spec.projector, golden.config["mm_hidden"], golden.config["hidden"]),
        llava_next.MERGES[spec.merge](golden.config["hidden"]),
    )
    state = keys.under("model.").load({n: x for n, x in golden.weights.items() if "projector" in n})
    if spec.merge == "spatial_unpad":
        state["merge.newline"] = golden.weights["model.image_newline"]
    connector.load_state_dict(state)
    made = spliced(golden, connector, golden.weights["model.embed_tokens.weight"])
    real = golden.outputs["attention_mask"].bool()
    for number, row_TD in enumerate(made):
        assert close(row_TD, golden.outputs["inputs_embeds"][number][real[number]])
        assert golden.outputs["position_ids"][number][real[number]].tolist() == list(range(len(row_TD)))


def test_what_is_learnt_of_a_row_is_what_the_reference_learns() -> None:
    golden = Golden("llava_splice")
    side, outputs = golden.config["side"] ** 2, golden.outputs
    for number, (ids, labels) in enumerate(zip(golden.config["rows"], golden.inputs["labels"].tolist(), strict=True)):
        row_ids, learn, spans = [], [], []
        for one, label in zip(ids, labels, strict=False):
            if one == -200:
                spans.append(Span("image", len(row_ids), side))
                row_ids, learn = row_ids + [0] * side, learn + [False] * side
            else:
                row_ids, learn = [*row_ids, one], [*learn, label != -100]
        targets = pad([Example(np.array(row_ids), np.array(learn), tuple(spans))], pad_id=0).targets
        expected = outputs["labels"][number][outputs["attention_mask"][number].bool()]
        at = (expected != -100).nonzero().flatten()
        assert targets.index_R.tolist() == (at - 1).tolist()
        assert targets.ids_R.tolist() == expected[at].tolist()


@torch.no_grad()
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_projectors_are_the_published_ones(depth: int) -> None:
    width = 24 if depth == 0 else 12
    spec = replace(TINY, projector=ProjectorSpec(depth), vision=replace(TINY.vision, dim=width))
    system = randomise(llava.build(spec))
    published = llava.KEYS["authors"](spec).save(system.state_dict())
    kinds = [nn.Linear(width if n == 0 else 24, 24) for n in range(depth)]
    theirs = nn.Sequential(*[layer for n, kind in enumerate(kinds) for layer in ([nn.GELU()] * (n > 0) + [kind])])
    names = {n.removeprefix("model.mm_projector."): x for n, x in published.items() if "mm_projector" in n}
    (theirs[0] if depth == 1 else theirs).load_state_dict(names)
    features = torch.randn(2, 4, width)
    assert close(system.image.connector(features), theirs(features))
    assert come_back_bitwise(llava.KEYS["authors"](spec), published)


def test_a_projector_without_layers_keeps_the_width() -> None:
    with pytest.raises(ValueError, match="features are 12 wide and words 24"):
        llava.build(replace(TINY, projector=ProjectorSpec(0)))


def test_hidden_states_that_a_tower_has_not_are_named() -> None:
    with pytest.raises(ValueError, match=r"3 blocks has the hidden states -4 to 3, not \(-5,\)"):
        Selected(Vit(TINY.vision), Selection((-5,)))


# Names and counts -----------------------------------------------------------------------------------------------------


def test_keys_round_trip_bitwise() -> None:
    system = randomise(llava.build(TINY))
    for keys in llava.KEYS.values():
        assert come_back_bitwise(keys(TINY), keys(TINY).save(system.state_dict()))


COUNTS = {
    "llava-v1.5-7b": 7_062_902_784,
    "llava-v1.5-13b": 13_350_839_296,
    "llava-7b-v0": 7_045_826_560,
    "llava-7b-v1": 7_045_818_368,
    "llava-llama-2-13b": 13_324_292_096,
}


@pytest.mark.parametrize("size", llava.SIZES)
def test_full_sizes_have_the_published_counts_and_names(size: str) -> None:
    spec = llava.SIZES[size]
    with torch.device("meta"):
        system = llava.build(spec)
    assert sum(p.numel() for p in system.parameters()) == COUNTS[size]
    shapes = {n: tuple(x.shape) for n, x in llava.KEYS["authors"](spec).save(system.state_dict()).items()}
    width, patches = spec.language.dim, (spec.vision.image // 14) ** 2
    tower = "model.vision_tower.vision_tower.vision_model."
    assert shapes[tower + "embeddings.position_embedding.weight"] == (patches + 1, 1024)
    assert shapes[tower + "encoder.layers.23.mlp.fc1.weight"] == (4096, 1024)
    first = "model.mm_projector.weight" if spec.projector.depth == 1 else "model.mm_projector.0.weight"
    assert shapes[first] == (width, 1024)
    assert shapes["model.embed_tokens.weight"] == (spec.language.vocab, width)
    assert shapes["lm_head.weight"] == (spec.language.vocab, width)


def test_with_the_words_that_transformers_adds_the_count_is_theirs() -> None:
    spec = llava.SIZES["llava-v1.5-7b"]
    with torch.device("meta"):
        system = llava.build(replace(spec, language=replace(spec.language, vocab=32_064)))
    assert sum(p.numel() for p in system.parameters()) == 7_063_427_072
    assert llava.layout(spec).media["image"].tokens == 576


# config.json ----------------------------------------------------------------------------------------------------------

V15 = {  # of liuhaotian/llava-v1.5-7b, what is read of it
    "_name_or_path": "llava-v1.5-7b", "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "hidden_act": "silu",
    "hidden_size": 4096, "image_aspect_ratio": "pad", "intermediate_size": 11008, "max_position_embeddings": 4096,
    "mm_hidden_size": 1024, "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": None, "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2, "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "tie_word_embeddings": False, "vocab_size": 32000,
}  # fmt: skip


def test_published_configs_mean_the_named_sizes() -> None:
    assert llava.spec_of(V15) == llava.SIZES["llava-v1.5-7b"]
    hub = {
        "model_type": "llava",
        "text_config": {"_name_or_path": "lmsys/vicuna-7b-v1.5", "max_position_embeddings": 4096, "model_type": "llama",
                        "rms_norm_eps": 1e-05, "vocab_size": 32064},
        "vision_config": {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "model_type": "clip_vision_model",
                          "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768},
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    }  # fmt: skip
    named = llava.SIZES["llava-v1.5-7b"]
    assert llava.spec_of(hub) == replace(named, language=replace(named.language, vocab=32064), fit="crop")


@pytest.mark.parametrize("size", llava.SIZES)
def test_configs_come_back(size: str) -> None:
    for layout, write in llava.CONFIGS.items():
        spec = llava.SIZES[size]
        if layout == "transformers" and spec.projector.depth != 2:
            with pytest.raises(ValueError, match="two layers, not of 1"):
                write(spec)
            continue
        said = json.loads(json.dumps(write(spec)))
        assert llava.spec_of(said) == spec
        assert llava_next.spec_of(said) is None


WRONG = {
    "model_type": ("llava_mpt", "MPT language model"),
    "mm_vision_tower": ("google/siglip", "mm_vision_tower is 'google/siglip'; known are clip-vit-large-patch14"),
    "mm_projector_type": ("mlp2x_relu", "mm_projector_type is 'mlp2x_relu'"),
    "mm_vision_select_feature": ("cls", "mm_vision_select_feature is 'cls'"),
    "mm_resampler_type": ("qformer", "a resampler"),
    "mm_hidden_size": (1152, "mm_hidden_size is 1152, but the tower is 1024 wide"),
    "image_aspect_ratio": ("anyres_max_9", "image_aspect_ratio is 'anyres_max_9'"),
    "conversation": ("v2", "conversation is 'v2'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_configs_of_what_is_not_built_are_named(name: str) -> None:
    value, words = WRONG[name]
    with pytest.raises(ValueError, match=words):
        llava.spec_of(V15 | {name: value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "'siglip_vision_model' tower"),
        ({"vision_config": {}, "text_config": {"model_type": "gemma"}}, "'gemma' language model"),
        ({"vision_config": {}, "projector_hidden_act": "relu6"}, "projector_hidden_act is 'relu6'"),
    ],
)
def test_transformers_configs_of_what_is_not_built_are_named(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        llava.spec_of({"model_type": "llava", **changes})


def test_what_transformers_cannot_hold_is_not_written() -> None:
    spec = replace(TINY, projector=ProjectorSpec(1))
    with pytest.raises(ValueError, match=r"image\.connector\.layers\.0\.weight"):
        llava.KEYS["transformers"](spec).save(llava.build(spec).state_dict())


# Sessions -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone() -> None:
    assert rows_stand_alone(randomise(llava.build(TINY)), rows(llava.layout(TINY).media["image"]))


@torch.no_grad()
@pytest.mark.parametrize("kind", SESSIONS)
def test_cached_sessions_equal_recomputing(kind: str) -> None:
    system, examples = randomise(llava.build(TINY)), [*rows(llava.layout(TINY).media["image"]).values()]
    assert equals_recompute(system, examples, kind)


# Reading --------------------------------------------------------------------------------------------------------------


def sentencepiece() -> Tokenizer:
    return metaspace(across=False)


def picture(width: int = 9, height: int = 5) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


ASK = Turn("user", (Media("image", picture()), Text("what is it?")))
QUESTIONS = (
    ASK,
    Turn("assistant", (Text("an owl"),), True),
    Turn("user", (Text("sure?"),)),
    Turn("assistant", (Text("yes"),), True),
)
SAID = {  # as conversation.py writes it; | stands where a reply begins
    "v1": "<s>{}USER: <image>\nwhat is it? ASSISTANT:| an owl</s>USER: sure? ASSISTANT:| yes</s>",
    "v0": "<s>{}###Human: <image>\nwhat is it?###Assistant:| an owl###Human: sure?###Assistant:| yes###",
    "llava_llama_2": "<s>[INST] <<SYS>>\n{}\n<</SYS>>\n\n<image>\nwhat is it? [/INST]| an owl </s><s>[INST] sure? [/INST]| yes </s>",
    "mistral_instruct": "<s>[INST] <image>\nwhat is it? [/INST]| an owl </s>[INST] sure? [/INST]| yes </s>",
}
TRAILING = {"v1": " "}


def ids_of(words: str) -> list[int]:
    """As the authors' tokenizer: special tokens split the text, each piece is encoded with its own blank in front."""
    tokenizer, found = sentencepiece(), []
    for piece in re.split(r"(<s>|</s>|<image>)", words):
        if piece in ("<s>", "</s>"):
            found.append(tokenizer.id_of(piece))
        elif piece == "<image>":
            found += [-200]
        elif piece:
            found += tokenizer.encode_text(piece)
    return found


@pytest.mark.parametrize("name", SAID)
def test_prompts_have_the_published_ids(name: str) -> None:
    spec = replace(TINY, template=name)
    make, template = Processor(llava.layout(spec), sentencepiece()), TEMPLATES[name]
    system = (template.system or "") + TRAILING.get(name, "")
    written, room = SAID[name].format(system), llava.layout(spec).media["image"].tokens

    def shown(example: Example) -> list[int]:
        ids = example.ids_T.tolist()
        for span in reversed(example.spans):
            assert span.length == room
            ids[span.start : span.start + room] = [-200]
        return ids

    first, second = written.split("|")[:2]
    assert shown(make(Sample((ASK,)), reply=True)) == ids_of(first)
    history = tuple(replace(turn, learn=False) for turn in QUESTIONS[:3])
    assert shown(make(Sample(history), reply=True)) == ids_of(first + second)
    if name != "v0":  # whose replies are closed by words, which are encoded apart when they are learnt
        assert shown(make(Sample(QUESTIONS))) == ids_of(written.replace("|", ""))


def test_a_picture_stands_before_the_words_wherever_it_was_given() -> None:
    make = Processor(llava.layout(TINY), sentencepiece())
    first = make(Sample((ASK,)), reply=True).ids_T.tolist()
    assert make(Sample((replace(ASK, parts=ASK.parts[::-1]),)), reply=True).ids_T.tolist() == first


@pytest.mark.parametrize("name", SAID)
def test_replies_and_what_closes_them_are_learnt(name: str) -> None:
    tokenizer = sentencepiece()
    example = Processor(llava.layout(replace(TINY, template=name)), tokenizer)(Sample(QUESTIONS))
    learnt = tokenizer.decode(example.ids_T[example.learn_T].tolist(), skip_special=False)
    closing = {"v0": "###", "v1": "</s>"}.get(name, " </s>")
    assert learnt.replace(" ", "") == f"anowl{closing}yes{closing}".replace(" ", "")


def test_the_first_stage_learns_a_caption_whatever_was_asked() -> None:
    make = Processor(llava.layout(TINY), sentencepiece()).writing("plain")
    example = make(Sample((ASK, Turn("assistant", (Text("an owl"),), True))))
    bos, caption = sentencepiece().id_of("<s>"), sentencepiece().encode_text("an owl\n")
    assert example.ids_T.tolist() == [bos, *[0] * 4, *caption]
    assert example.learn_T.tolist() == [False] * 5 + [True] * len(caption)
    with pytest.raises(ValueError, match="only media are written here, but this one has none: 'hi'"):
        make(Sample((Turn("user", (Text("hi"),)), QUESTIONS[1])))
    with pytest.raises(ValueError, match=r"no template 'plian'.*plain"):
        make.writing("plian")


def test_marks_stand_around_a_picture_where_a_release_has_them() -> None:
    tokenizer = sentencepiece().with_specials(["<im_start>", "<im_end>"])
    example = Processor(llava.layout(replace(TINY, marked=True)), tokenizer)(Sample((ASK,)), reply=True)
    (span,), ids = example.spans, example.ids_T.tolist()
    assert ids[span.start - 1] == tokenizer.id_of("<im_start>")
    assert ids[span.start + span.length] == tokenizer.id_of("<im_end>")


def test_what_is_too_long_is_never_cut_in_silence() -> None:
    with pytest.raises(TooLong, match=r"12 tokens|tokens .* of media.*room for 6"):
        Processor(llava.layout(TINY), sentencepiece(), capacity=6)(Sample((ASK,)), reply=True)


@pytest.mark.parametrize("size", [(9, 5), (333, 517), (14, 14), (1, 70)])
@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_pictures_equal_transformers_to_the_bit(size: tuple[int, int], fit: str) -> None:
    transformers = pytest.importorskip("transformers")
    square = {"size": {"shortest_edge": 14}, "crop_size": {"height": 14, "width": 14}}
    theirs = transformers.LlavaImageProcessorPil(**square, do_pad=fit == "pad")
    one = picture(*size)
    made = prepare(one, llava.squared(replace(TINY, fit=fit)))
    assert np.array_equal(made, np.asarray(theirs(one, return_tensors="np")["pixel_values"])[0])


def test_a_prompt_is_read_as_by_transformers_processor() -> None:
    tokenizer, spec = sentencepiece(), replace(TINY, vision=VitSpec(image=28, patch=7), fit="crop")
    theirs = processor("Llava", tokenizer)
    for shown in ([picture()], [picture(), picture(60, 31)]):
        turn = Turn("user", (*(Media("image", one) for one in shown), Text("what is it?")))
        made = Processor(llava.layout(spec), tokenizer)(Sample((turn,)), reply=True)
        prompt = TEMPLATES["v1"].system.join(("<s>", " USER: ")) + "<image>\n" * len(shown) + "what is it? ASSISTANT:"
        assert reads_alike(theirs, made, prompt, shown, tokenizer)


def test_the_colour_around_a_picture_is_clips_mean() -> None:
    pixels = llava.squared(llava.SIZES["llava-v1.5-7b"])
    assert tuple(int(level * 255) for level in pixels.mean) == (122, 116, 104)


# Stages ---------------------------------------------------------------------------------------------------------------

BRIDGE, DECODER = ("image.connector.",), ("language.",)
RECIPES = {
    "llava-v1.5": ((BRIDGE, ""), ((*BRIDGE, *DECODER), "")),
    "llava-v1.5-lora": ((BRIDGE, ""), (BRIDGE, "q k v o gate up down")),
    "llava-7b-v0": ((BRIDGE, ""), ((*BRIDGE, *DECODER), "")),
    "llava-7b-v1": ((BRIDGE, ""), ((*BRIDGE, *DECODER), "")),
    "llava-llama-2-13b": ((BRIDGE, ""), ((*BRIDGE, *DECODER), "")),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_stages_move_exactly_what_they_name(recipe: str) -> None:
    spec = replace(TINY, language=replace(LANGUAGE, tied=False))
    follow(randomise(llava.build(spec)), llava.STAGES[recipe], RECIPES[recipe], pictures(14), unused=UNUSED)


def test_no_recipe_is_left_out() -> None:
    assert llava.STAGES.keys() == RECIPES.keys()
    assert all(stages[0].template == "plain" for stages in llava.STAGES.values())


# Folders with parts elsewhere -----------------------------------------------------------------------------------------


def test_a_projector_alone_and_what_lies_beside_adapters_are_read() -> None:
    system = randomise(llava.build(TINY))
    keys = llava.KEYS["authors"](TINY)
    alone = {n: x for n, x in keys.save(system.state_dict()).items() if "mm_projector" in n}
    for prefix in ("", "base_model.model."):
        read = keys.load({prefix + name: x for name, x in alone.items()})
        assert read.keys() == {n for n in system.state_dict() if n.startswith("image.connector.")}


def apart(home: Path, **said: object) -> tuple[scops.Model, Path]:
    """A tiny LLaVA-1.5 as its first stage leaves it: mm_projector.bin in a folder, tower and language model in theirs."""
    model = tiny.llava()
    state = model.module.state_dict()
    below = {part: {n.removeprefix(part + "."): x for n, x in state.items() if n.startswith(part)} for part in PARTS}
    for part, keys in PARTS.items():
        (home / part).mkdir()
        save_tensors(home / part / "model.safetensors", keys.save(below[part]))
    model.tokenizer.save(home / "language")
    published = llava.KEYS["authors"](model.spec).save(state)
    projector = {n: x for n, x in published.items() if "mm_projector" in n}
    (home / "llava").mkdir()
    torch.save(projector, home / "llava" / "mm_projector.bin")
    (home / "llava" / "config.json").write_text(json.dumps(llava.CONFIGS["authors"](model.spec)))
    words = {
        "size": "llava-v1.5-7b", "overrides": spec_to_json(model.spec), "tokenizer": "../language",
        "weights": {"": "mm_projector.bin", **{part: f"../{part}" for part in PARTS}},
    }  # fmt: skip
    (home / "llava" / "parts.json").write_text(json.dumps(words | said))
    return model, home / "llava"


PARTS = {"image.encoder.vit": HUB_CLIP, "language": HUB_LLAMA}


def test_a_projector_is_opened_with_its_tower_and_language_model(tmp_path: Path) -> None:
    model, folder = apart(tmp_path)
    loaded = scops.load(folder)
    assert all(torch.equal(x, loaded.module.state_dict()[n]) for n, x in model.module.state_dict().items())
    (folder / "parts.json").unlink()
    model.tokenizer.save(folder)
    with pytest.raises(ValueError, match=r"no weights of image\.encoder\.vit and language; write a parts\.json"):
        scops.load(folder)


def test_adapters_and_what_lies_beside_them_are_opened(tmp_path: Path) -> None:
    """As liuhaotian/llava-v1.5-7b-lora: adapter_model.bin and non_lora_trainables.bin over Vicuna."""
    model, folder = apart(tmp_path, adapter=".")
    stage = replace(llava.STAGES["llava-v1.5-lora"][1].lora, rank=4, alpha=8.0)
    assert stage is not None
    paths = lora.add(model.module, stage)
    for pair in lora.adapters(model.module).values():
        for tensor in pair:
            nn.init.normal_(tensor, std=0.3)
    held = {path: tuple(x.detach() for x in pair) for path, pair in lora.adapters(model.module).items()}
    write_adapter(folder, Adapter(held, 4, 8.0, 0.05), llava.KEYS["authors"](model.spec))
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    projector = torch.load(folder / "mm_projector.bin", weights_only=True)
    torch.save({f"base_model.model.{n}": x for n, x in projector.items()}, folder / "non_lora_trainables.bin")
    said = json.loads((folder / "parts.json").read_text())
    said["weights"][""] = "non_lora_trainables.bin"
    (folder / "parts.json").write_text(json.dumps(said))
    loaded = scops.load(folder)
    assert len(paths) == 2 * 7
    example = row(ORDERS["several"], model.layout.media["image"], [(9, 9)] * 3)
    with torch.no_grad():
        assert close(loaded.module(batch_of(example)), model.module.eval()(batch_of(example)))


# From the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_a_saved_folder_trains_through_both_stages_and_answers(name: str, tmp_path: Path) -> None:
    made = tiny.MODELS[name]()
    made.save(tmp_path / "fresh")
    with (tmp_path / "rows.jsonl").open("w") as file:
        for number, colour in enumerate(("red", "green", "blue", "white")):
            tiny.picture(colour, (30 + 20 * number, 40)).save(tmp_path / f"{number}.png")
            said = [{"from": "human", "value": "<image>\nwhat is this?"}, {"from": "gpt", "value": colour}]
            file.write(json.dumps({"image": f"{number}.png", "conversations": said}) + "\n")
    stages = [
        {"name": "pretrain", "max_steps": 2, "batch": 2, "data": ["rows"]},
        {"name": "finetune", "max_steps": 2, "batch": 2, "data": ["rows"]},
    ]
    words = {
        "system": made.system, "init": str(tmp_path / "fresh"), "output_dir": str(tmp_path / "out"), "device": "cpu",
        "data": {"rows": {"path": str(tmp_path / "rows.jsonl")}}, "stages": stages, "learning_rate": 1e-2,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(words))
    for arguments in (
        ["train", tmp_path / "run.yaml"],
        ["chat", tmp_path / "out" / "final", tmp_path / "1.png", "what is this?"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main([str(one) for one in arguments])
        assert not stopped.value.code
    model = scops.load(tmp_path / "out" / "final")
    assert model.system == made.system
    assert model.layout.template == made.layout.template
    assert not torch.equal(model.module.language.head.weight, made.module.language.head.weight)
