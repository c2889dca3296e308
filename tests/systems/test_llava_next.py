"""LLaVA-NeXT against transformers, live, and against goldens of haotian-liu/LLaVA."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

import scops
from scops.connectors.views import laid, middle
from scops.core.batch import Tiles
from scops.core.layout import UNCUT, Slot
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.errors import MediaError, TooLong
from scops.data.processor import Processor
from scops.data.template import segments
from scops.data.tiling import BestFit
from scops.encoders.vit import VitSpec
from scops.systems import llava, llava_next
from scops.systems.llava_wording import TEMPLATES
from tests import tiny
from tests.conftest import GOLDENS, batch_of, randomise
from tests.data.vocabularies import metaspace
from tests.systems.llava_rows import (
    ORDERS,
    SIZES,
    SMALL,
    UNUSED,
    drawn,
    equal,
    ours,
    peer,
    processor,
    reads_alike,
    row,
    rows,
    sizes_of_rows,
)
from tests.systems.pieces import BROKEN, ODD, SESSIONS, equals_recompute
from tests.systems.test_stages import LANGUAGE, follow
from tests.twins import come_back_bitwise, rows_stand_alone

TINY = llava_next.Spec(**SMALL)
POINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]

# Against transformers -------------------------------------------------------------------------------------------------

PEERS = {
    "Vicuna": {},
    "Mistral": {"text": {"family": "Mistral", "num_key_value_heads": 2, "rope_theta": 1e4}},
    "other sizes and points": {
        "tower": {"image_size": 15, "patch_size": 5, "hidden_size": 18, "num_attention_heads": 3},
        "image_grid_pinpoints": [[15, 45], [30, 30], [60, 15], [45, 30]], "vision_feature_layer": -3,
    },
    "several hidden states": {"vision_feature_layer": [-2, -1]},
}  # fmt: skip


@pytest.mark.parametrize("name", PEERS)
def test_logits_and_replies_equal_transformers(name: str) -> None:
    theirs = peer("LlavaNext", **{"image_grid_pinpoints": POINTS, **PEERS[name]})
    spec, system = ours(llava_next, theirs)
    media = llava_next.layout(spec).media["image"]
    for order, sizes in sizes_of_rows().items():
        assert equal(system, theirs, row(ORDERS[order], media, sizes), sizes), order


@pytest.mark.parametrize("seed", range(6))
def test_random_sizes_equal_transformers(seed: int) -> None:
    sizes, dice = drawn(seed), np.random.default_rng(seed)
    side = sizes["tower"]["image_size"]
    points = (dice.integers(1, 4, (int(dice.integers(1, 6)), 2)) * side).tolist()
    theirs = peer("LlavaNext", **sizes, image_grid_pinpoints=points)
    spec, system = ours(llava_next, theirs)
    shapes = [tuple(size) for size in dice.integers(1, 300, (3, 2)).tolist()]
    for entries in ((1, None, 2, None, 3), (None,)):
        shown = shapes[: entries.count(None)]
        assert equal(system, theirs, row(entries, llava_next.layout(spec).media["image"], shown), shown)


def test_prompts_and_views_are_read_as_by_transformers_processor() -> None:
    tokenizer = metaspace(across=False)
    spec = llava_next.spec_of(peer("LlavaNext", image_grid_pinpoints=POINTS).config.to_dict())
    theirs = processor("LlavaNext", tokenizer, image_grid_pinpoints=POINTS)
    make = Processor(llava_next.layout(replace(spec, template="mistral_instruct")), tokenizer)
    for number, size in enumerate([*SIZES, (752, 423), (423, 752), (748, 352), (3, 2)]):
        shown = [noise(*size), noise(31, 60)][: 1 + number % 2]
        turn = Turn("user", (*(Media("image", one) for one in shown), Text("what is it?")))
        prompt = "<s>[INST] " + "<image>\n" * len(shown) + "what is it? [/INST]"
        assert reads_alike(theirs, make(Sample((turn,)), reply=True), prompt, shown, tokenizer)


def noise(high: int, wide: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(high * 999 + wide).integers(0, 256, (high, wide, 3), dtype=np.uint8))


def test_a_folder_of_transformers_is_opened_and_theirs_opens_ours(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = peer("LlavaNext", text={"vocab_size": 307}, image_grid_pinpoints=POINTS)
    theirs.save_pretrained(tmp_path / "theirs")
    tiny.tokenizer().save(tmp_path / "theirs")
    model = scops.load(tmp_path / "theirs")
    assert (model.system, model.spec.unpad, "transformers layout" in model.origin) == ("llava-next", "rounded", True)
    example = row(ORDERS["adjacent"], model.layout.media["image"], SIZES[:2])
    with torch.no_grad():
        assert equal(model.module, theirs, example, SIZES[:2])
        again = transformers.LlavaNextForConditionalGeneration.from_pretrained(
            model.save(tmp_path / "ours", "transformers")
        ).eval()
        again.config.image_token_index = again.model.config.image_token_index = 5
        assert equal(model.module, again, example, SIZES[:2])


# Against the authors' code --------------------------------------------------------------------------------------------

TABLE = json.loads((GOLDENS / "llava_next_anyres" / "table.json").read_text())


def published(unpad: str) -> llava_next.Spec:
    tile = TABLE["tile"]
    grids = tuple((high // tile, wide // tile) for wide, high in TABLE["pinpoints_wh"])
    return llava_next.Spec(VitSpec(image=tile, patch=TABLE["patch"]), grids=grids, unpad=unpad)


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: "x".join(map(str, case["size_wh"])))
def test_grids_views_and_kept_features_are_the_published_ones(case: dict) -> None:
    wide, high = case["size_wh"]
    for unpad, column in (("truncated", "unpadded_hw"), ("rounded", "hf_unpadded_hw")):
        media = llava_next.layout(published(unpad)).media["image"]
        cut = media.cut_of(high, wide)
        (slot,) = media.arrange(cut)
        assert list(cut.grid) == case["grid_wh"][::-1]
        assert len(cut) == case["num_views"]
        assert list(slot.extent) == case[column]
        rows, columns = case[column]
        assert slot.tokens == 24**2 + rows * (columns + 1)
        (step,) = cut.steps
        left, top, right, bottom = case["content_box_xyxy"]
        assert step == (bottom - top, right - left)
        assert (top, left) == ((case["best_wh"][1] - step[0]) // 2, (case["best_wh"][0] - step[1]) // 2)
        if unpad == "truncated":
            assert slot.tokens == case["num_tokens"]


def test_what_shows_the_picture_is_cut_out_of_a_map_as_published() -> None:
    folder = GOLDENS / "llava_next_anyres"
    inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    for name in (name for name in inputs if name.startswith("feat")):
        number, map_CRW = name.removeprefix("feat"), inputs[name]
        wide, high = inputs[f"orig_wh{number}"].tolist()
        kept = llava_next.extent((high, wide), (map_CRW.shape[1], map_CRW.shape[2]), llava_next.UNPAD["truncated"])
        assert torch.equal(middle(map_CRW.permute(1, 2, 0), kept).permute(2, 0, 1), outputs[f"unpad{number}"])


def merged(
    views: torch.Tensor, grid: tuple[int, int], merge: str, kept: tuple[int, int] | None, newline: torch.Tensor
) -> torch.Tensor:
    """What llava_arch.py writes, step by step, for one picture: views (V, P, D)."""
    side = round(views.shape[1] ** 0.5)
    if merge == "flat":
        return views.flatten(0, 1)
    whole, tiles = views[0], views[1:]
    if not len(tiles):
        return whole if merge == "spatial" else torch.cat([whole, newline[None]])
    lines = []
    for y in range(grid[0] * side):
        line = [tiles[(y // side) * grid[1] + x // side, (y % side) * side + x % side] for x in range(grid[1] * side)]
        lines.append(torch.stack(line))
    if merge == "spatial":
        return torch.cat([whole, *lines])
    top, left = (len(lines) - kept[0]) // 2, (grid[1] * side - kept[1]) // 2
    lines = [torch.cat([line[left : left + kept[1]], newline[None]]) for line in lines[top : top + kept[0]]]
    return torch.cat([whole, *lines])


@torch.no_grad()
@pytest.mark.parametrize("merge", ["flat", "spatial", "spatial_unpad"])
def test_views_are_merged_as_the_published_code_does(merge: str) -> None:
    spec = replace(TINY, merge=merge, vision=replace(TINY.vision, image=21))
    connector, media = randomise(llava_next.build(spec)).image.connector, llava_next.layout(spec).media["image"]
    cuts = [media.cut_of(*size) for size in SIZES] + [UNCUT]
    slots = [media.arrange(cut)[0] for cut in cuts]
    tiles = Tiles.of([slot.places for slot in slots], extents=[slot.extent for slot in slots])
    features = torch.randn(sum(map(len, cuts)), 9, 12)
    newline = connector.merge.newline if merge == "spatial_unpad" else torch.zeros(24)
    made = connector(features, tiles)
    projected = connector.project(features).split(tiles.count_M)
    for item, cut, slot, tokens in zip(projected, cuts, slots, made, strict=True):
        assert torch.equal(tokens, merged(item, cut.grid, merge, slot.extent, newline))
        assert len(tokens) == slot.tokens


def test_tiles_lie_side_by_side() -> None:
    numbered = torch.arange(6 * 4).float().reshape(6, 4, 1)
    assert laid(numbered, (2, 3))[..., 0].tolist() == [
        [0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11], [12, 13, 16, 17, 20, 21], [14, 15, 18, 19, 22, 23],
    ]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from(["truncated", "rounded"]))
def test_the_connector_makes_what_the_layout_promises(height: int, width: int, unpad: str) -> None:
    spec = replace(TINY, unpad=unpad)
    media = llava_next.layout(spec).media["image"]
    cut = media.cut_of(height, width)
    (slot,) = media.arrange(cut)
    connector = CONNECTOR
    made = connector(torch.zeros(len(cut), 4, 12), Tiles.of([slot.places], extents=[slot.extent]))
    assert len(made[0]) == slot.tokens


CONNECTOR = llava_next.build(TINY).image.connector


@pytest.mark.parametrize("size", ODD)
def test_pictures_of_odd_shapes_are_prepared(size: tuple[int, int]) -> None:
    turn = Turn("user", (Media("image", Image.new("RGB", size[::-1])), Text("what?")))
    example = Processor(llava_next.layout(TINY), metaspace())(Sample((turn,)), reply=True)
    (span,) = example.spans
    assert len(example.media["image"]) == len(span.places)
    assert all(np.isfinite(one).all() for one in example.media["image"])


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pictures_are_named(name: str) -> None:
    turn = Turn("user", (Media("image", BROKEN[name], "page.png"), Text("what?")))
    with pytest.raises(MediaError, match=r"page\.png"):
        Processor(llava_next.layout(TINY), metaspace())(Sample((turn,)), reply=True)


def test_what_is_too_long_is_never_cut_in_silence() -> None:
    turn = Turn("user", (Media("image", noise(90, 80)), Text("what?")))
    with pytest.raises(TooLong, match="of media"):
        Processor(llava_next.layout(TINY), metaspace(), capacity=20)(Sample((turn,)), reply=True)


# Names, counts, config.json -------------------------------------------------------------------------------------------


def test_keys_round_trip_bitwise() -> None:
    system = randomise(llava_next.build(TINY))
    for keys in llava_next.KEYS.values():
        published = keys(TINY).save(system.state_dict())
        assert sum(name.endswith("image_newline") for name in published) == 1
        assert come_back_bitwise(keys(TINY), published)


COUNTS = {
    "llava-v1.6-vicuna-7b": 7_062_906_880,
    "llava-v1.6-vicuna-13b": 13_350_844_416,
    "llava-v1.6-mistral-7b": 7_566_223_360,
    "llava-v1.6-34b": 34_751_166_464,
    "llama3-llava-next-8b": 8_354_752_512,
}


@pytest.mark.parametrize("size", llava_next.SIZES)
def test_full_sizes_have_the_published_counts_and_names(size: str) -> None:
    spec = llava_next.SIZES[size]
    with torch.device("meta"):
        system = llava_next.build(spec)
    assert sum(p.numel() for p in system.parameters()) == COUNTS[size]
    shapes = {n: tuple(x.shape) for n, x in llava_next.KEYS["authors"](spec).save(system.state_dict()).items()}
    assert shapes["model.image_newline"] == (spec.language.dim,)
    assert shapes["model.mm_projector.2.weight"] == (spec.language.dim, spec.language.dim)
    assert shapes["model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight"] == (577, 1024)
    kv = spec.language.kv_heads * 128
    assert shapes[f"model.layers.{spec.language.layers - 1}.self_attn.k_proj.weight"] == (kv, spec.language.dim)


V16 = {  # of liuhaotian/llava-v1.6-vicuna-7b, what is read of it
    "_name_or_path": "liuhaotian/llava-v1.6-vicuna-7b", "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava",
    "hidden_act": "silu", "hidden_size": 4096, "image_aspect_ratio": "anyres", "attention_bias": False,
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]], "intermediate_size": 11008,
    "max_position_embeddings": 4096, "mm_hidden_size": 1024, "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu", "mm_use_im_start_end": False, "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2, "mm_vision_tower": "openai/clip-vit-large-patch14-336", "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "vocab_size": 32000,
}  # fmt: skip


def test_published_configs_mean_the_named_sizes() -> None:
    assert llava_next.spec_of(V16) == llava_next.SIZES["llava-v1.6-vicuna-7b"]
    assert llava_next.spec_of(V16 | {"image_grid_pinpoints": str(V16["image_grid_pinpoints"])}) == llava_next.spec_of(
        V16
    )
    mistral = V16 | {
        "model_type": "llava_mistral", "intermediate_size": 14336, "num_key_value_heads": 8, "rope_theta": 1e6,
        "max_position_embeddings": 32768, "sliding_window": None,
    }  # fmt: skip
    assert llava_next.spec_of(mistral) == llava_next.SIZES["llava-v1.6-mistral-7b"]
    yi = V16 | {
        "hidden_size": 7168, "intermediate_size": 20480, "num_hidden_layers": 60, "num_attention_heads": 56,
        "num_key_value_heads": 8, "vocab_size": 64000, "rope_theta": 5e6,
    }  # fmt: skip
    assert llava_next.spec_of(yi) == llava_next.SIZES["llava-v1.6-34b"]
    assert llava.spec_of(V16) is None


@pytest.mark.parametrize("size", llava_next.SIZES)
def test_configs_come_back(size: str) -> None:
    spec = llava_next.SIZES[size]
    for layout, unpad in (("authors", "truncated"), ("transformers", "rounded")):
        said = json.loads(json.dumps(llava_next.CONFIGS[layout](spec)))
        assert llava_next.spec_of(said) == replace(spec, unpad=unpad)
        assert llava.spec_of(said) is None
    plain = replace(spec, grids=(), fit="pad")
    assert llava_next.spec_of(llava_next.CONFIGS["authors"](plain)) == plain


WRONG = {
    "image_grid_pinpoints": ([[336, 672], [500, 672]], r"whole tiles of 336 pixels, not \[\(500, 672\)\]"),
    "mm_patch_merge_type": ("spatial_pool", "mm_patch_merge_type is 'spatial_pool'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_configs_of_what_is_not_built_are_named(name: str) -> None:
    value, words = WRONG[name]
    with pytest.raises(ValueError, match=words):
        llava_next.spec_of(V16 | {name: value})
    with pytest.raises(ValueError, match="none at all"):
        llava_next.spec_of(V16 | {"image_grid_pinpoints": []})


def test_what_transformers_cannot_hold_is_not_written() -> None:
    with pytest.raises(ValueError, match="merges by 'spatial_unpad'; not 'spatial'"):
        llava_next.CONFIGS["transformers"](replace(TINY, merge="spatial"))


def test_views_with_a_class_token_are_no_map() -> None:
    with pytest.raises(ValueError, match="cannot be merged by 'spatial_unpad'"):
        llava_next.build(replace(TINY, features=replace(TINY.features, cls=True)))


def test_a_folder_of_llava_15_that_says_it_is_next_is_named(tmp_path: Path) -> None:
    model = tiny.llava()
    folder = model.save(tmp_path / "m", "authors")
    config = json.loads((folder / "config.json").read_text())
    del config["scops"]
    side = model.spec.vision.image
    config |= {
        "mm_patch_merge_type": "spatial_unpad",
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[side, side]],
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"the weights have no image_newline: they are LLaVA 1\.0's or 1\.5's"):
        scops.load(folder)


# Sessions -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("merge", ["flat", "spatial", "spatial_unpad"])
def test_a_ragged_batch_equals_each_row_alone(merge: str) -> None:
    spec = replace(TINY, merge=merge)
    assert rows_stand_alone(randomise(llava_next.build(spec)), rows(llava_next.layout(spec).media["image"]))


@torch.no_grad()
@pytest.mark.parametrize("kind", SESSIONS)
def test_cached_sessions_equal_recomputing(kind: str) -> None:
    system, examples = randomise(llava_next.build(TINY)), [*rows(llava_next.layout(TINY).media["image"]).values()]
    assert equals_recompute(system, examples, kind)


def test_llama_3_and_yi_are_asked_as_published() -> None:
    spoken = {
        "chatml_direct": "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nwhat?<|im_end|>"
        "<|im_start|>assistant\n",
        "llava_llama_3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\n<image>\nwhat?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    }  # fmt: skip
    turn = Turn("user", (Media("image", b""), Text("what?")))
    for name, prompt in spoken.items():
        template = TEMPLATES[name]
        made = "".join(
            getattr(s.piece, "token", None) or getattr(s.piece, "text", "<image>")
            for s in segments(template, (turn,), reply=True)
        )
        assert made == prompt.format(template.system)


# Stages ---------------------------------------------------------------------------------------------------------------


def test_stages_move_exactly_what_they_name() -> None:
    spec = replace(TINY, language=replace(LANGUAGE, tied=False))
    media = llava_next.layout(spec).media["image"]
    batch = batch_of(*(row((5, None, 6, 7), media, [size]) for size in SIZES[:3]))
    project, whole = ("image.connector.project.",), ("image.", "language.")
    follow(
        randomise(llava_next.build(spec)),
        llava_next.STAGES["llava-v1.6"],
        ((project, ""), (whole, "")),
        batch,
        unused=UNUSED,
    )
    assert [*llava_next.STAGES] == ["llava-v1.6"]


def test_the_rule_keeps_the_size_of_the_original() -> None:
    assert BestFit(14, ((1, 2),))(30, 40).size == (30, 40)
    assert isinstance(llava_next.layout(TINY).media["image"].arrange(UNCUT)[0], Slot)
