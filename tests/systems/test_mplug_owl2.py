"""mPLUG-Owl2 against goldens of X-PLUG/mPLUG-Owl, mPLUG-Owl2."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from scops.checkpoints.hub_clip import HUB_CLIP
from scops.checkpoints.hub_llama import HUB_LLAMA
from scops.checkpoints.hub_modality_adaptive import LLAMA_INTO_BOTH
from scops.checkpoints.keymap import KeyMap, KeyMismatch
from scops.checkpoints.sources import Source, assemble
from scops.connectors.abstractor import FixedPlaces, VisualAbstractor
from scops.core.batch import Batch, Example
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.collate import pad
from scops.data.image import prepare
from scops.data.processor import Processor
from scops.data.tiling import tiles
from scops.encoders.vit import Vit
from scops.language.llama import llama
from scops.models.cached import CachedSession
from scops.models.decoder import MultimodalDecoder
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import mplug_owl2
from tests.conftest import Golden, batch_of, close, example, randomise
from tests.data.vocabularies import metaspace
from tests.systems.test_mplug_owl import ROOM, ROWS
from tests.twins import cache_of, cached_equals_recompute, numbered, rows_stand_alone, shared_equals_recompute

AUTHORS = {"model_type": "mplug_owl2"}


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("owl2")


@pytest.fixture(scope="module")
def spec(golden: Golden) -> mplug_owl2.Spec:
    return mplug_owl2.spec_of(golden.config | AUTHORS)


@pytest.fixture(scope="module")
def system(golden: Golden, spec: mplug_owl2.Spec) -> torch.nn.Module:
    system = mplug_owl2.build(spec)
    system.load_state_dict(mplug_owl2.KEYS["authors"](spec).load(golden.weights))
    return system.eval()


def examples_of(golden: Golden, case: str) -> list[Example]:
    """The golden's ids, where -200 is a picture, as the processor would have given them.

    Of a batch with pictures the reference spends one on a row without any; it is left out here.
    """
    room = golden.config["visual_config"]["visual_abstractor"]["num_learnable_queries"] + 1
    ids, mask = golden.inputs[f"{case}_input_ids"], golden.inputs.get(f"{case}_attention_mask")
    pictures, rows = iter(golden.inputs.get(f"{case}_images", ())), []
    for number, row in enumerate(ids):
        row = row if mask is None else row[mask[number]]
        written, spans, taken = [], [], []
        for token in row.tolist():
            if token == -200:
                spans.append((len(written), room))
                taken.append(next(pictures))
            written += [0] * room if token == -200 else [token]
        if not spans:
            next(pictures, None)
        rows.append(example(written, tuple(spans), taken))
    return rows


def real(golden_BT: Tensor, batch: Batch) -> Tensor:
    """Of every row what is no padding, one behind the other."""
    return torch.cat([row[:length] for row, length in zip(golden_BT, batch.lengths, strict=True)])


@torch.no_grad()
def test_eyes_equal_the_reference(golden: Golden, system: torch.nn.Module) -> None:
    pixels, out = golden.inputs["A_images"], golden.outputs
    assert close(system.image.encoder.embed(pixels), out["A_vision_embeddings"])
    assert close(system.image.encoder(pixels), out["A_vision_last_hidden_state"])
    made = system.connect(batch_of(*examples_of(golden, "A")))["image"]
    assert close(made, out["A_abstractor_last_hidden_state"])


@torch.no_grad()
@pytest.mark.parametrize("case", "ABCD")
def test_every_probe_equals_the_reference(case: str, golden: Golden, system: torch.nn.Module) -> None:
    batch, out = batch_of(*examples_of(golden, case)), golden.outputs
    x_BTD, ctx = system.read(batch)
    if case != "C":
        assert close(real(x_BTD, batch), real(out[f"{case}_inputs_embeds"], batch))
    modality_BT = torch.zeros(batch.ids_BT.shape, dtype=torch.long).flatten()
    modality_BT[batch.route.index[1]] = 1
    assert torch.equal(
        real(modality_BT.unflatten(0, batch.ids_BT.shape), batch), real(out[f"{case}_modality_indicators"], batch)
    )
    assert close(real(system.language.blocks[0](x_BTD, ctx), batch), real(out[f"{case}_hidden_layer1"], batch))
    assert close(real(system(batch), batch), real(out[f"{case}_logits"], batch))
    assert close(real(system.masked(batch), batch), real(out[f"{case}_logits"], batch))


@torch.no_grad()
@pytest.mark.parametrize("case", "ABCD")
def test_loss_over_the_golden_s_labels_equals_the_reference(case: str, golden: Golden, system: torch.nn.Module) -> None:
    batch = batch_of(*examples_of(golden, case))
    labels_BT, ids = torch.full(batch.ids_BT.shape, -100), golden.inputs[f"{case}_input_ids"]
    for row, (written, learnt) in enumerate(zip(ids, golden.inputs[f"{case}_labels"], strict=True)):
        at = 0
        for token, label in zip(written.tolist(), learnt.tolist(), strict=True):
            if at < batch.lengths[row]:
                labels_BT[row, at] = -100 if token == -200 else label
            at += batch.where["image"].length_M[0] if token == -200 else 1
    loss = cross_entropy(system(batch)[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten())
    assert close(loss[None], golden.outputs[f"{case}_loss"])


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_steps_equal_the_reference(cache: type, golden: Golden, system: torch.nn.Module) -> None:
    (first,) = examples_of(golden, "B")
    session = CachedSession(system, batch_of(first), cache(1, **({"capacity": 40} if cache is FixedCache else {})))
    for step, token in enumerate(golden.outputs["B_decode_tokens"][0]):
        assert close(session.logits_BV, golden.outputs["B_decode_logits"][:, step])
        assert session.logits_BV.argmax() == token
        session.step(token[None])


@torch.no_grad()
def test_abstractor_alone_equals_the_reference() -> None:
    golden = Golden("owl2_abstractor")
    config = golden.config["visual_abstractor"]
    spec = mplug_owl2.AbstractorSpec(
        dim=config["hidden_size"], hidden=config["intermediate_size"], layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"], queries=config["num_learnable_queries"], eps=config["layer_norm_eps"],
    )  # fmt: skip
    eyes = mplug_owl2.Eyes(mplug_owl2.VitSpec(dim=spec.dim, image=28, patch=7), spec)
    place = FixedPlaces(spec.queries, config["grid_size"], before=1)
    connector = VisualAbstractor(spec, out=golden.config["language_hidden_size"], place=place)
    keys = mplug_owl2.sight_keys(eyes)
    state = keys.load({f"visual_abstractor.{name}": tensor for name, tensor in golden.weights.items()})
    connector.load_state_dict({name.removeprefix("image.connector."): tensor for name, tensor in state.items()})
    features = golden.inputs["encoder_hidden_states"]
    first = connector.layers[0](connector.queries.expand(len(features), -1, -1), features, None, place(features))
    assert close(first, golden.outputs["layer0_output"])
    assert close(connector(features), golden.outputs["last_hidden_state"])


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_keys_round_trip_bitwise_with_the_tables_that_they_compute(
    dtype: torch.dtype, golden: Golden, spec: mplug_owl2.Spec
) -> None:
    keys = mplug_owl2.KEYS["authors"](spec)
    theirs = {name: tensor.to(dtype) for name, tensor in golden.weights.items() if not name.endswith("inv_freq")}
    back = keys.save(keys.load(theirs))
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_another_table_of_places_is_an_error(golden: Golden, spec: mplug_owl2.Spec) -> None:
    keys: KeyMap = mplug_owl2.KEYS["authors"](spec)
    name = "model.visual_abstractor.encoder.layers.1.crossattention.attention.k_pos_embed"
    turned = golden.weights[name].clone()
    turned[1:] = turned[1:].unflatten(0, (4, 4)).transpose(0, 1).flatten(0, 1)  # rows for columns
    with pytest.raises(KeyMismatch, match=r"layers\.1.*is not the one that is computed"):
        keys.load(golden.weights | {name: turned})
    with pytest.raises(KeyMismatch, match=r"\(16, 48\) is not the one that is computed, \(17, 48\)"):
        keys.load(golden.weights | {name: golden.weights[name][1:]})


def test_spec_and_config_say_the_same_both_ways(golden: Golden, spec: mplug_owl2.Spec) -> None:
    for one in (spec, TINY, TINY_BARE, *mplug_owl2.SIZES.values()):
        assert mplug_owl2.spec_of(mplug_owl2.config_of(one)) == one
    released = {"model_type": "mplug_owl2", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    assert mplug_owl2.spec_of(released) == mplug_owl2.SIZES["mplug-owl2-llama2-7b"]
    assert mplug_owl2.spec_of({"model_type": "llama"}) is None
    assert mplug_owl2.spec_of({"model_type": "mplug_owl2", "visual_config": {"visual_hreducer": {}}}) is None


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("visual_abstractor", {"grid_size": 5}, "grid_size 5.* must be 4"),
        ("visual_abstractor", {"use_cls_token": False}, "use_cls_token False.* must be True"),
        ("visual_abstractor", {"encoder_hidden_size": 47}, "encoder_hidden_size 47.* must be 48"),
        ("visual_abstractor", {"hidden_size": 44}, "hidden_size 44.* must be 48"),
        ("visual_abstractor", {"add_v2t_pos_emb": True}, "add_v2t_pos_emb True.* must be False"),
        ("visual_model", {"hidden_act": "swish"}, "hidden_act 'swish'"),
    ],
)
def test_a_config_whose_parts_do_not_fit_is_refused(part: str, change: dict, said: str, golden: Golden) -> None:
    visual = golden.config["visual_config"]
    config = golden.config | AUTHORS | {"visual_config": visual | {part: visual[part] | change}}
    with pytest.raises(ValueError, match=said):
        mplug_owl2.spec_of(config)


def test_full_size_has_the_published_count_and_names() -> None:
    spec = mplug_owl2.SIZES["mplug-owl2-llama2-7b"]
    with torch.device("meta"):
        system = mplug_owl2.build(spec)
    assert sum(p.numel() for p in system.parameters()) == 8_197_859_328
    assert sum(p.numel() for p in system.image.encoder.parameters()) == 303_966_208
    assert sum(p.numel() for p in system.image.connector.parameters()) == 81_473_536
    assert sum(p.numel() for p in system.language.blocks.parameters()) == 7_550_271_488
    published = mplug_owl2.KEYS["authors"](spec).save(system.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    layer = "model.visual_abstractor.encoder.layers.5.crossattention."
    assert shapes["model.vision_model.embeddings.position_embedding"] == (1, 1025, 1024)
    assert shapes["model.vision_model.encoder.layers.23.self_attn.query_key_value.weight"] == (3072, 1024)
    assert shapes["model.visual_abstractor.query_embeds"] == (1, 64, 1024)
    assert shapes[layer + "attention.q_pos_embed"] == (64, 1024)
    assert shapes[layer + "attention.k_pos_embed"] == (1025, 1024)
    assert shapes[layer + "output.mlp.w2.weight"] == (1024, 2816)
    assert shapes["model.visual_abstractor.visual_fc.weight"] == (4096, 1024)
    assert shapes["model.visual_abstractor.vit_eos"] == (1, 1, 4096)
    for expert in "01":
        assert shapes[f"model.layers.31.self_attn.k_proj.multiway.{expert}.weight"] == (4096, 4096)
        assert shapes[f"model.layers.31.post_attention_layernorm.multiway.{expert}.weight"] == (4096,)
    assert shapes["model.layers.31.mlp.gate_proj.weight"] == (11008, 4096)
    assert shapes["lm_head.weight"] == (32000, 4096)


@torch.no_grad()
def test_training_may_begin_with_a_plain_llama_a_clip_tower_and_a_fresh_abstractor() -> None:
    words, eyes = randomise(llama(LANGUAGE)), randomise(Vit(VISION))
    system = mplug_owl2.build(TINY)
    sources = [
        Source(HUB_LLAMA.save(words.state_dict()), LLAMA_INTO_BOTH, "language"),
        Source(HUB_CLIP.save(eyes.state_dict()), HUB_CLIP, "image.encoder"),
    ]
    assemble(system, sources, fresh=("image.connector",))
    for first, second in _experts(system.language):
        assert torch.equal(first, second)
    alone = batch_of(example([1, 2, 3]))
    assert close(system.eval()(alone), MultimodalDecoder(words)(alone))
    pixels = torch.randn(1, 3, 14, 14)
    assert close(system.image.encoder(pixels), eyes(pixels))


def _experts(language: torch.nn.Module) -> list[tuple[Tensor, Tensor]]:
    state = language.state_dict()
    firsts = [name for name in state if ".experts.0." in name]
    assert len(firsts) == 4 * LANGUAGE.layers
    return [(state[name], state[name.replace(".experts.0.", ".experts.1.")]) for name in firsts]


# Rows and sessions ----------------------------------------------------------------------------------------------------

LANGUAGE = mplug_owl2.LlamaSpec(dim=24, hidden=36, layers=2, heads=4, kv_heads=2, vocab=53)
VISION = mplug_owl2.VitSpec(dim=24, hidden=40, layers=2, heads=3, image=14, patch=7, eps=1e-6)
ABSTRACTOR = mplug_owl2.AbstractorSpec(dim=24, hidden=20, layers=2, heads=3, queries=3)
TINY = mplug_owl2.Spec(mplug_owl2.Eyes(VISION, ABSTRACTOR), LANGUAGE)
TINY_BARE = mplug_owl2.Spec(mplug_owl2.Eyes(VISION, ABSTRACTOR, cls=0, post_norm=False), LANGUAGE)


def rows(side: int = 14) -> list[Example]:
    """No two pictures are alike, and none has a digest but that of its pixels."""
    made = [
        example(ids, tuple((s, ROOM, ((0, 0),)) for s in starts), [torch.randn(3, side, side) for _ in starts])
        for ids, starts in ROWS.values()
    ]
    return [replace(one, digests={}) for one in made]


@torch.no_grad()
@pytest.mark.parametrize("spec", [TINY, TINY_BARE], ids=["class token", "grid"])
def test_a_ragged_batch_equals_each_row_alone(spec: mplug_owl2.Spec) -> None:
    assert rows_stand_alone(randomise(mplug_owl2.build(spec)), numbered(rows()))


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_equal_recompute_for_pictures_anywhere(cache: type) -> None:
    made = rows()
    assert cached_equals_recompute(randomise(mplug_owl2.build(TINY)), made, cache_of(cache, len(made)))


@torch.no_grad()
@pytest.mark.parametrize("page", [1, 3, 16])
def test_a_shared_session_equals_recompute_however_prompts_are_cut(page: int) -> None:
    system = randomise(mplug_owl2.build(TINY))
    assert shared_equals_recompute(system, rows(), tokens=page * 90, page=page, most=3)


@torch.no_grad()
def test_the_end_token_and_pictures_are_treated_by_the_media_experts() -> None:
    system, one = randomise(mplug_owl2.build(TINY)), rows()[3]
    before = system(batch_of(one))
    for expert, places in ((0, "text"), (1, "media")):
        system.language.blocks[0].attn.body.v.experts[expert].weight.data.mul_(2)
        after = system(batch_of(one))
        assert (after - before).abs().max() > 1e-3, places
        before = after
    assert batch_of(one).route.index[1].tolist() == [1, 2, 3, 4, 7, 8, 9, 10, 12, 13, 14, 15]


# Reading --------------------------------------------------------------------------------------------------------------


def picture(width: int = 9, height: int = 5) -> Image.Image:
    levels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def test_a_prompt_is_written_in_the_published_chunks() -> None:
    make = Processor(mplug_owl2.layout(TINY), metaspace())
    asked = Turn("user", (Media("image", picture()), Text("what is it?")))
    words, bos, eos = make.tokenizer.encode_text, *(make.tokenizer.id_of(t) for t in ("<s>", "</s>"))
    prompt = make(Sample((asked,)), reply=True)
    head = [bos, *words("USER: ")]
    assert prompt.ids_T.tolist() == [*head, *[0] * ROOM, *words("what is it? ASSISTANT:")]
    assert prompt.spans[0].start == len(head)
    turns = (asked, Turn("assistant", (Text("an owl"),), True), Turn("user", (Text("sure?"),)))
    row = make(Sample((*turns, Turn("assistant", (Text("an owl"),), True))))
    first, second = [*words("an owl"), eos], [*words("USER: sure? ASSISTANT:")]
    assert row.ids_T.tolist() == [*prompt.ids_T.tolist(), *first, *second, *first]
    learnt = np.flatnonzero(row.learn_T).tolist()
    n = len(prompt)
    assert learnt == [*range(n, n + len(first)), *range(len(row) - len(first), len(row))]


def test_pictures_are_stretched_to_a_square_of_the_longer_side_and_then_to_the_tower_s() -> None:
    layout, one = mplug_owl2.layout(TINY), picture()
    make = Processor(layout, metaspace())
    example = make(Sample((Turn("user", (Media("image", one), Text("a"))),)), reply=True)
    twice = one.resize((9, 9), Image.Resampling.BICUBIC).resize((14, 14), Image.Resampling.BICUBIC)
    (made,) = example.media["image"]
    assert np.array_equal(made, prepare(twice, layout.media["image"].pixels))
    assert not np.array_equal(made, prepare(one, layout.media["image"].pixels))


@pytest.mark.parametrize("size", [(9, 5), (333, 517), (14, 14), (1, 70)])
def test_pictures_equal_the_published_processor_s_to_the_bit(size: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    theirs = kind(size={"shortest_edge": 14}, crop_size={"height": 14, "width": 14})
    one = picture(*size)
    square = one.resize((max(size), max(size)))
    layout = mplug_owl2.layout(TINY).media["image"]
    (made,) = tiles(one, layout.pixels, layout.cut_of(size[1], size[0]))
    assert np.array_equal(made, np.asarray(theirs(square, return_tensors="np")["pixel_values"])[0])


def test_a_picture_that_is_thin_beyond_measure_is_prepared_without_its_square() -> None:
    make = Processor(mplug_owl2.layout(TINY), metaspace())
    turn = Turn("user", (Media("image", Image.new("RGB", (40_000, 1), "red")), Text("a")))
    (made,) = make(Sample((turn,)), reply=True).media["image"]
    assert made.shape == (3, 14, 14)


@torch.no_grad()
def test_a_padded_batch_of_the_processor_s_rows_runs() -> None:
    make = Processor(mplug_owl2.layout(replace(TINY, language=replace(LANGUAGE, vocab=400))), metaspace())
    turn = Turn("user", (Media("image", picture()), Media("image", picture(4, 4)), Text("what is it?")))
    made = [make(Sample((turn,)), reply=True), make(Sample((Turn("user", (Text("an owl"),)),)), reply=True)]
    system = randomise(mplug_owl2.build(replace(TINY, language=replace(LANGUAGE, vocab=400))))
    assert system(pad(made, pad_id=0)).isfinite().all()
