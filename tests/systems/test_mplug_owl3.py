"""mPLUG-Owl3 against its reference: every probe of the goldens of both releases, keys, counts, cutting and prompts."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import scops
from scops.checkpoints.keymap import KeyMismatch
from scops.checkpoints.sources import Source, assemble
from scops.core.batch import Batch
from scops.core.layout import WHOLE, Cut, Slot
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.collate import pad
from scops.models.cached import CachedSession
from scops.models.decoder import MultimodalDecoder
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import mplug_owl3, spec_from_json
from tests import tiny
from tests.conftest import GOLDENS as FOLDER
from tests.conftest import Golden, batch_of, close, example, randomise
from tests.twins import come_back_bitwise

GOLDENS = ("owl3", "owl3_fused")
CASES = "ABCD"


def spec_of(golden: Golden) -> mplug_owl3.Spec:
    spec = mplug_owl3.spec_of(golden.config | {"model_type": "mplugowl3"})
    assert spec is not None
    return mplug_owl3.settled(spec, golden.weights)


@pytest.fixture(scope="module", params=GOLDENS)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.fixture(scope="module")
def system(golden: Golden) -> torch.nn.Module:
    spec = spec_of(golden)
    system = mplug_owl3.build(spec)
    system.load_state_dict(mplug_owl3.KEYS["authors"](spec).load(golden.weights))
    return system.eval()


def batch(golden: Golden, case: str) -> Batch:
    """The golden's ids, in which an image is marked by three of them, as the processor would have given them."""
    pictures, rows = iter(golden.inputs.get(f"{case}_pixel_values", ())), []
    masks = golden.inputs.get(f"{case}_attention_mask", torch.ones_like(golden.inputs[f"{case}_input_ids"]))
    starts = golden.config["image_token_first_positions"][case]
    for ids, mask, at in zip(golden.inputs[f"{case}_input_ids"], masks, starts, strict=True):
        ids = ids[mask.bool()]
        rows.append(example(ids.tolist(), tuple((start, 0) for start in at), [next(pictures) for _ in at]))
    return pad(rows, pad_id=0, multiple=golden.inputs[f"{case}_input_ids"].shape[1])


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_every_probe_equals_the_reference(golden: Golden, system: torch.nn.Module, case: str) -> None:
    made, out = batch(golden, case), golden.outputs
    x_BTD, ctx = system.read(made)
    hyper = golden.config["hyper_layers"][0]
    for block in system.language.blocks[:hyper]:
        x_BTD = block(x_BTD, ctx)
    real = [slice(length) for length in made.lengths]
    for row, where in enumerate(real):
        assert close(x_BTD[row, where], out[f"{case}_hidden_after_first_hyper"][row, where])
        assert close(system(made)[row, where], out[f"{case}_logits"][row, where])
    if case == "B":
        assert close(system.connect(made)["image"], out["B_image_embeds"])
    if "B_vision_hidden_penultimate" in out:
        assert close(system.image.encoder(golden.inputs["B_pixel_values"]), out["B_vision_hidden_penultimate"])
    targets = golden.inputs[f"{case}_labels"][:, 1:]
    loss = torch.nn.functional.cross_entropy(system(made)[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100)
    assert close(loss[None], out[f"{case}_loss"])


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
@pytest.mark.parametrize("case", "BC")
def test_greedy_decoding_with_a_cache_equals_the_reference(
    golden: Golden, system: torch.nn.Module, case: str, cache: type
) -> None:
    room = {"capacity": 40} if cache is FixedCache else {}
    session = CachedSession(system, batch(golden, case), cache(1, **room))
    for at, token in enumerate(golden.outputs[f"{case}_decode_tokens"][0]):
        assert close(session.logits_BV[0], golden.outputs[f"{case}_decode_logits"][0, at])
        session.step(token[None])


# Names ----------------------------------------------------------------------------------------------------------------


def test_keys_round_trip_bitwise(golden: Golden) -> None:
    assert come_back_bitwise(mplug_owl3.KEYS["authors"](spec_of(golden)), golden.weights)


def test_a_static_gate_is_told_by_its_name_and_comes_back() -> None:
    golden = Golden("owl3")
    gates = {name: name.partition("_proj.0.")[0] for name in golden.weights if "self_attn.gate_proj.0" in name}
    weights = {name: tensor for name, tensor in golden.weights.items() if name not in gates}
    weights |= {name: torch.randn(64) for name in gates.values()}
    spec = mplug_owl3.settled(spec_of(golden), weights)
    assert spec == replace(spec_of(golden), attention="static")
    keys = mplug_owl3.KEYS["authors"](spec)
    mplug_owl3.build(spec).load_state_dict(keys.load(weights))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in keys.save(keys.load(weights)).items())


def test_releases_are_told_apart_by_names() -> None:
    old, new = (spec_of(Golden(name)) for name in GOLDENS)
    assert (old.attention, old.projector, old.wording, old.when) == ("adaptive", "linear", "v2_global", "alone")
    assert (new.attention, new.projector, new.wording, new.when) == ("fused", "mlp", "v3_global", "always")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"drop": "layers.2.self_attn.v_kv_proj"},
            r"hyper_layers \[1, 3\], .* but layer 3 has no .*2.self_attn.v_kv_proj",
        ),
        ({"add": "language_model.model.layers.1.self_attn.v_kv_proj.weight"}, "but layer 2 has language_model"),
        ({"drop": "layers.2.self_attn.gate_proj"}, "differently in different layers: {1: 'adaptive', 3: 'fused'}"),
        ({"drop": "vision2text_model"}, "neither vision2text_model.0.weight nor vision2text_model.weight"),
    ],
)
def test_names_that_fit_no_release_are_told(change: dict, said: str) -> None:
    golden = Golden("owl3")
    names = [name for name in golden.weights if change.get("drop", "?") not in name] + [change.get("add", "x")]
    with pytest.raises(ValueError, match=said):
        mplug_owl3.settled(spec_of(golden), names)


@pytest.mark.parametrize(("of", "other"), [("owl3", "owl3_fused"), ("owl3_fused", "owl3")])
def test_weights_of_the_other_release_do_not_fit(of: str, other: str) -> None:
    spec, weights = spec_of(Golden(of)), Golden(other).weights
    with pytest.raises(KeyMismatch, match="vision2text_model"):
        mplug_owl3.KEYS["authors"](spec).load(weights)


@pytest.mark.parametrize("release", GOLDENS)
def test_a_folder_of_the_authors_is_recognised_and_answers(release: str, tmp_path: Path) -> None:
    """config.json says nothing of the arrangement; pictures of 28 pixels are no release's."""
    golden, spec = Golden(release), spec_of(Golden(release))
    sizes = asdict(replace(spec, language=replace(spec.language, vocab=307, context=600)))
    model = tiny.made("mplug-owl3", sizes, tiny.qwen_tokenizer())
    model.save(tmp_path, layout="authors")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["scops"]
    config.update(hyper_layers=golden.config["hyper_layers"], model_type="mplugowl3")
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = scops.load(tmp_path)
    assert loaded.spec == model.spec
    asked = ("what is this?", [tiny.picture(), tiny.picture("blue")])
    assert loaded.chat(*asked, max_tokens=6) == model.chat(*asked, max_tokens=6)


@pytest.mark.parametrize("size", mplug_owl3.SIZES)
def test_config_goes_both_ways(size: str) -> None:
    spec = mplug_owl3.SIZES[size]
    assert mplug_owl3.spec_of(json.loads(json.dumps(mplug_owl3.config_of(spec)))) == spec
    assert spec_from_json(mplug_owl3.Spec, json.loads(json.dumps(asdict(spec)))) == spec


def test_full_sizes_have_the_published_counts_and_names() -> None:
    def made(size: str) -> tuple[MultimodalDecoder, dict[str, tuple[int, ...]]]:
        spec = mplug_owl3.SIZES[size]
        with torch.device("meta"):
            system = mplug_owl3.build(spec)
        published = mplug_owl3.KEYS["authors"](spec).save(system.state_dict())
        return system, {name: tuple(tensor.shape) for name, tensor in published.items()}

    count = lambda module: sum(p.numel() for p in module.parameters())
    system, shapes = made("mplug-owl3-7b-240728")
    assert count(system) == 8_061_197_888
    assert count(system.language) == 7_628_839_936
    assert count(system.image.encoder) == 428_225_600
    assert count(system.image.connector) == 4_132_352
    extras = [b.attn for b in system.language.blocks if hasattr(b.attn, "pictures")]
    assert sum(count(attn.pictures) + count(attn.gate) for attn in extras) == 14_750_208
    layer = "language_model.model.layers.24.self_attn."
    assert shapes["language_model.model.embed_tokens.weight"] == (151851, 3584)
    assert shapes["language_model.lm_head.weight"] == (151851, 3584)
    assert shapes[layer + "q_proj.weight"] == (3584, 3584)
    assert shapes[layer + "k_proj.bias"] == (512,)
    assert shapes[layer + "v_kv_proj.weight"] == (1024, 3584)
    assert shapes[layer + "v_kv_proj.bias"] == (1024,)
    assert shapes[layer + "gate_proj.0.weight"] == (128, 128)
    assert "language_model.model.layers.1.self_attn.v_kv_proj.weight" not in shapes
    assert shapes["vision_model.embeddings.position_embedding.weight"] == (729, 1152)
    assert shapes["vision_model.encoder.layers.26.mlp.fc1.weight"] == (4304, 1152)
    assert shapes["vision_model.head.attention.in_proj_weight"] == (3456, 1152)
    assert shapes["vision2text_model.weight"] == (3584, 1152)
    newer, fused = made("mplug-owl3-7b-241101")
    gates = {name for name in shapes if "self_attn.gate_proj" in name}
    projector = {f"vision2text_model.{at}.{part}" for at in "02" for part in ("weight", "bias")}
    assert fused.keys() == shapes.keys() - gates - {"vision2text_model.weight", "vision2text_model.bias"} | projector
    assert fused["vision_model.embeddings.position_embedding.weight"] == (729, 1152)
    assert count(newer.image.connector) == 1152 * 3584 + 3584 * 3584 + 2 * 3584


@torch.no_grad()
def test_a_plain_qwen2_fills_text_and_pictures_alike() -> None:
    """Without pictures the answer is Qwen2's; keys and values of pictures begin as those of the text."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen2Config(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=53,
    )
    theirs = randomise(transformers.Qwen2ForCausalLM(config))
    sizes = {
        "dim": 24,
        "hidden": 40,
        "layers": 3,
        "heads": 4,
        "kv_heads": 2,
        "vocab": 53,
        "bias": "qkv",
        "rope_base": 1e4,
    }
    spec = mplug_owl3.Spec(SMALL, mplug_owl3.LlamaSpec(**sizes), hyper=(1, 3))
    system = mplug_owl3.build(spec)
    keys = mplug_owl3.from_qwen2(spec)
    fresh = ("image", "language.blocks.*.attn.gate")
    assemble(system, [Source(theirs.state_dict(), keys, under="language.")], fresh=fresh)
    ids = [1, 7, 2, 9, 30]
    assert close(system(batch_of(example(ids))), theirs(torch.tensor([ids])).logits)
    for number in spec.hyper:
        attn = system.language.blocks[number - 1].attn
        for name in ("k", "v"):
            own, pictures = getattr(attn.body, name), getattr(attn.pictures, name)
            assert torch.equal(own.weight, pictures.weight)
            assert torch.equal(own.bias, pictures.bias)
            assert own.weight is not pictures.weight
    state = {name: t for name, t in system.language.state_dict().items() if ".gate.project" not in name}
    assert all(torch.equal(t, theirs.state_dict()[name]) for name, t in keys.save(state).items())


SMALL = mplug_owl3.SiglipSpec(dim=12, hidden=20, layers=2, heads=2, image=9, patch=4, skip=1)


# Read -----------------------------------------------------------------------------------------------------------------

CROPS = json.loads((FOLDER / "owl3_crops" / "crops.json").read_text())["tables"][0]


def shown(pieces: tuple) -> str:
    return "".join(piece.written if isinstance(piece, Slot) else piece.text for piece in pieces)


def test_grids_are_chosen_as_the_reference_chooses_them() -> None:
    assert [tuple(anchor) for anchor in CROPS["anchors"]] == [*mplug_owl3.GRIDS]
    media = mplug_owl3.layout(mplug_owl3.SIZES["mplug-owl3-7b-240728"]).media["image"]
    assert media.pixels.height == CROPS["image_size"]
    for case in CROPS["cases"]:
        cut = media.cut_of(case["height"], case["width"])
        assert cut.grid == (case["rows"], case["cols"]), case
        assert cut.places == (*((r, c) for r in range(cut.grid[0]) for c in range(cut.grid[1])), WHOLE)


@pytest.mark.parametrize("version", CROPS["prompt_templates"])
def test_the_text_of_a_cut_picture_is_the_reference_s_in_every_version(version: str) -> None:
    wording = mplug_owl3.WORDINGS[version]
    for grid, text in CROPS["prompt_templates"][version].items():
        rows, columns = map(int, grid.split("x"))
        cut = Cut((rows, columns), ((384, 384),), "" if wording.whole is None else "last")
        pieces = wording.of_picture(cut)
        assert shown(pieces) == text
        assert tuple(place for piece in pieces if isinstance(piece, Slot) for place in piece.places) == cut.places


def test_the_newer_release_writes_as_its_model_card_says() -> None:
    wording = mplug_owl3.WORDINGS["v3_global"]
    card = "<|start_cut|>2*3\n<|image|> <|image|> <|image|>\n<|image|> <|image|> <|image|>\n<|image|><|end_cut|>"
    assert shown(wording.of_picture(Cut((2, 3), ((756, 1134),), "last"))) == card
    assert (
        shown(wording.of_clip((0.0, 1.0, 2.0))) == "<|start_video_frame|><|image|><|image|><|image|><|end_video_frame|>"
    )
    assert shown(mplug_owl3.WORDINGS["v2_global"].of_clip((0.0, 1.0))) == "<|image|><|image|>"


@pytest.mark.parametrize("release", ["240728", "241101"])
def test_a_conversation_is_written_as_the_published_processor_writes_it(release: str) -> None:
    """Chunks around marks are encoded each alone, the reply and both its ends are learnt."""
    model = tiny.owl3() if release == "240728" else tiny.owl3_fused()
    tokenizer = model.tokenizer
    picture = lambda: Media("image", Image.new("RGB", (90, 30)))
    turns = (Turn("user", (picture(), Text("what is this?"))), Turn("assistant", (Text("an owl"),), learn=True))
    made = model.processor(Sample(turns))
    cut = mplug_owl3.WORDINGS[model.spec.wording].of_picture(Cut((1, 3), ((28, 84),), "last"))
    special = lambda name: [tokenizer.id_of(name)]
    ids = [*special("<|im_start|>"), *tokenizer.encode_text("system\n"), *special("<|im_end|>")]
    ids += [*tokenizer.encode_text("\n"), *special("<|im_start|>")]
    starts, text = [], "user\n"
    for piece in cut:
        if isinstance(piece, Slot):
            ids += tokenizer.encode_text(text)
            starts.append(len(ids))
            ids, text = ids + tokenizer.encode_text("<|image|>"), ""
        else:
            text += piece.text
    ids += [*tokenizer.encode_text(text + "\nwhat is this?"), *special("<|im_end|>")]
    ids += [*tokenizer.encode_text("\n"), *special("<|im_start|>"), *tokenizer.encode_text("assistant\n")]
    reply = [*tokenizer.encode_text("an owl"), *special("<|im_end|>"), *special("<|endoftext|>")]
    assert made.ids_T.tolist() == ids + reply
    assert made.ids_T[made.learn_T].tolist() == reply
    assert [(span.start, span.length) for span in made.spans] == [(start, 0) for start in starts]
    assert len(made.media["image"]) == 4
    prompt = model.processor(Sample(turns[:1]), reply=True)
    assert prompt.ids_T.tolist() == ids


def test_pictures_beside_others_are_cut_in_the_newer_release_alone_and_each_has_its_own_text() -> None:
    """The reference gives every second picture the text of the whole view of the one before it."""
    sizes = ((90, 30), (30, 90))
    sample = Sample((Turn("user", tuple(Media("image", Image.new("RGB", size)) for size in sizes)),))
    old, new = (model.processor(sample, reply=True) for model in (tiny.owl3(), tiny.owl3_fused()))
    assert len(old.spans) == len(old.media["image"]) == 2
    assert [span.places[0] for span in new.spans] == [(0, 0), (0, 1), (0, 2), WHOLE, (0, 0), (1, 0), (2, 0), WHOLE]
    said = tiny.qwen_tokenizer().decode(new.ids_T.tolist(), skip_special=True)
    assert said.count("<|start_cut|>1*3\n") == said.count("<|start_cut|>3*1\n") == 1


def test_a_video_is_a_picture_per_frame_and_the_ids_of_marks_stay() -> None:
    layout = mplug_owl3.layout(mplug_owl3.SIZES["mplug-owl3-7b-240728"])
    clip = layout.media["video"]
    assert clip.frames(90, 30.0) == (0, 30, 60)
    assert len(clip.frames(30 * 100, 30.0)) == 16
    assert clip.frames(30 * 32, 30.0) == tuple(30 * int(i * 2 + 1) for i in range(16))
    assert clip.arrange((0.0, 1.0, 2.0))[1:-1] == (Slot("image", 0, (WHOLE,), written="<|image|>"),) * 3
