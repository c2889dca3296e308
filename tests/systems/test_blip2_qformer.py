"""BLIP-2's first stage against its golden of salesforce/LAVIS, and live against transformers."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import scops
from scops.checkpoints.keymap import KeyMismatch
from scops.checkpoints.write import save_tensors
from scops.cli.train import train
from scops.connectors.qformer import QFormerSpec
from scops.core.batch import Batch, Example, Span, Words
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.collate import pack, pad
from scops.data.processor import Processor
from scops.data.tokenizer import Tokenizer
from scops.encoders.eva import EvaSpec
from scops.encoders.vit import VitSpec
from scops.models.query_pairs import QueryPairs
from scops.models.recompute import Recompute
from scops.nn.cache import FixedCache, GrowingCache
from scops.objectives import COUNTS, OBJECTIVES
from scops.systems import SYSTEMS, blip2_qformer, module_of, spec_to_json
from tests import tiny as tiny_models
from tests.conftest import Golden, batch_of, close, example, randomise
from tests.systems.test_stages import follow as follow_stages
from tests.twins import cache_of, come_back_bitwise, replies_equal_recompute, rows_stand_alone

ALL = "contrastive+matching+generation"


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("blip2_stage1")


@pytest.fixture(scope="module")
def spec(golden: Golden) -> blip2_qformer.Spec:
    config, bert = golden.config, golden.config["qformer"]
    tower = EvaSpec(dim=bert["encoder_width"], hidden=20, layers=1, heads=2, image=6, patch=2)  # the golden has none
    qformer = QFormerSpec(
        dim=bert["hidden_size"], hidden=bert["intermediate_size"], layers=bert["num_hidden_layers"],
        heads=bert["num_attention_heads"], queries=bert["num_query_token"], width=bert["encoder_width"],
        every=bert["cross_attention_freq"], vocab=bert["vocab_size"], context=bert["max_position_embeddings"],
    )  # fmt: skip
    return blip2_qformer.Spec(tower, qformer, replace(blip2_qformer.PAIRING, space=config["embed_dim"]), opens=1)


@pytest.fixture(scope="module")
def system(golden: Golden, spec: blip2_qformer.Spec) -> QueryPairs:
    system = randomise(blip2_qformer.build(spec))
    ours = blip2_qformer.KEYS["authors"](spec).load(golden.weights)
    missing, unexpected = system.load_state_dict(ours, strict=False)
    assert not unexpected
    assert all(path.startswith("image.encoder.") for path in missing)
    return system


def batch_with(golden: Golden, names: list[str]) -> Batch:
    """The golden's rows as the processor writes them, [DEC] first; pictures known by these names."""
    opening, rows = golden.config["bos_token_id"], []
    for ids, mask in zip(golden.inputs["input_ids"], golden.inputs["attention_mask"], strict=True):
        line = np.array([opening, *ids[mask.bool()].tolist()[1:]])
        rows.append(Example(line, np.arange(len(line)) > 0, (Span("image", 1, 0),)))
    made = batch_of(*rows)
    return replace(made, features={"image": golden.inputs["image_features"]}, digests={"image": tuple(names)})


@pytest.fixture(scope="module")
def batch(golden: Golden) -> Batch:
    return batch_with(golden, [f"picture {number}" for number in range(4)])


@pytest.fixture
def hardest(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Negatives are not drawn but the likeliest, as in the golden; which they are."""
    found: list[Tensor] = []

    def likeliest(scores_NW: Tensor, may_NW: Tensor, floor: float) -> Tensor:
        found.append(scores_NW.masked_fill(~may_NW, -torch.inf).argmax(-1))
        return found[-1]

    monkeypatch.setattr(import_module("scops.objectives.matching"), "drawn", likeliest)
    return found


@torch.no_grad()
def test_every_probe_equals_the_reference(golden: Golden, system: QueryPairs, batch: Batch) -> None:
    out, pictures = golden.outputs, system.connect(batch)["image"]
    assert close(system.qformer(pictures), out["query_output"])
    assert close(system.picture_vectors(pictures), out["image_feats"])
    texts = system.texts(*system.captions(batch))
    assert torch.equal(texts.ids_NT, golden.inputs["input_ids"])
    assert close(system.text_vectors(texts), out["text_feat"])
    assert close(system.similarities(batch) / system.temperature, out["sim_i2t"])
    assert close(system.similarities(batch).T / system.temperature, out["sim_t2i"])
    picture_R = torch.cat([torch.arange(4), out["neg_image_idx"], torch.arange(4)])
    text_R = torch.cat([torch.arange(4), torch.arange(4), out["neg_text_idx"]])
    said = system.verdicts(pictures[picture_R], texts.select(text_R))
    assert close(said, out["itm_logits"])
    assert close(system.matches(batch), out["itm_logits"][:4].softmax(-1)[:, 1])
    real = golden.inputs["attention_mask"].bool()
    assert close(system(batch)[real], out["lm_logits"][real])


@pytest.mark.parametrize("case", ["", "with_image_id."])
def test_losses_and_negatives_equal_the_reference(
    golden: Golden, system: QueryPairs, batch: Batch, hardest: list[Tensor], case: str
) -> None:
    """Pairs of one picture are told by its content; the golden names two pictures alike in its second case."""
    if case:
        batch = batch_with(golden, [f"picture {number}" for number in golden.config["image_ids"]])
    with torch.enable_grad():
        loss = OBJECTIVES[ALL](system, batch, {})
    out = golden.outputs
    assert (loss.count, loss.unit, COUNTS[ALL](batch)) == (4, "pair", 4)
    assert torch.equal(hardest[0], out[case + "neg_image_idx"])
    assert torch.equal(hardest[1], out[case + "neg_text_idx"])
    for ours, theirs in (("contrastive", "itc"), ("matching", "itm"), ("generation", "lm")):
        total, count = loss.parts[ours]
        assert close(total[None] / count, out[f"{case}loss_{theirs}"])
    assert close(loss.sum.detach()[None] / 4, out[case + "loss"])


def test_keys_round_trip_bitwise(golden: Golden, spec: blip2_qformer.Spec) -> None:
    assert come_back_bitwise(blip2_qformer.KEYS["authors"](spec), golden.weights, but="position_ids")


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "count"),
    [("blip2-qformer", 1_172_599_998), ("blip2-qformer-vitl", 473_747_262), ("blip2-qformer-coco", 1_173_191_358)],
)
def test_full_sizes_have_the_published_names_and_shapes(size: str, count: int) -> None:
    """1.2B and 474M (table 5); the tower is 39 of g's 40 blocks, or 23 of CLIP's 24."""
    spec = blip2_qformer.SIZES[size]
    with torch.device("meta"):
        system = blip2_qformer.build(spec)
    assert sum(p.numel() for p in system.parameters()) == count
    learnt = sum(p.numel() for path, p in system.named_parameters() if path.startswith(("qformer.", "lm_head.")))
    assert learnt == {1408: 186_307_387, 1024: 182_768_443}[spec.vision.dim]
    shapes = {k: tuple(v.shape) for k, v in blip2_qformer.KEYS["authors"](spec).save(system.state_dict()).items()}
    width = spec.vision.dim
    assert shapes["query_tokens"] == (1, 32, 768)
    assert shapes["Qformer.bert.embeddings.word_embeddings.weight"] == (30523, 768)
    assert shapes["Qformer.cls.predictions.decoder.weight"] == (30523, 768)
    assert shapes["Qformer.cls.predictions.bias"] == shapes["Qformer.cls.predictions.decoder.bias"] == (30523,)
    assert shapes["Qformer.bert.encoder.layer.10.crossattention.self.key.weight"] == (768, width)
    assert "Qformer.bert.encoder.layer.11.crossattention.self.key.weight" not in shapes
    assert shapes["Qformer.bert.encoder.layer.11.intermediate_query.dense.weight"] == (3072, 768)
    assert shapes["ln_vision.weight"] == (width,)
    assert shapes["vision_proj.weight"] == shapes["text_proj.weight"] == (256, 768)
    assert (shapes["itm_head.weight"], shapes["temp"]) == ((2, 768), ())
    if width == 1408:
        assert shapes["visual_encoder.pos_embed"] == (1, spec.vision.tokens, 1408)
        assert shapes["visual_encoder.blocks.38.attn.qkv.weight"] == (3 * 1408, 1408)
        assert shapes["visual_encoder.blocks.38.attn.q_bias"] == (1408,)
    else:
        assert shapes["visual_encoder.positional_embedding"] == (257, 1024)
        assert shapes["visual_encoder.transformer.resblocks.22.attn.in_proj_weight"] == (3072, 1024)
        assert not [name for name in shapes if "ln_post" in name or "resblocks.23" in name]


@pytest.mark.parametrize("size", blip2_qformer.SIZES)
def test_configurations_go_both_ways(size: str) -> None:
    spec = blip2_qformer.SIZES[size]
    assert blip2_qformer.spec_of(blip2_qformer.authors_config(spec)) == spec
    other = replace(spec, vision=replace(spec.vision, layers=3), eps=1e-3)
    assert blip2_qformer.spec_of(blip2_qformer.authors_config(other)) == other
    if isinstance(spec.vision, EvaSpec):
        compares = replace(spec, writes=False, eps=spec.vision.eps)
        assert blip2_qformer.spec_of(blip2_qformer.transformers_config(compares)) == compares


def test_configurations_of_others_are_left_alone_and_odd_ones_refused() -> None:
    assert blip2_qformer.spec_of({"model_type": "blip-2", "architectures": ["Blip2ForConditionalGeneration"]}) is None
    assert blip2_qformer.spec_of({"arch": "blip2_opt", "num_query_token": 32}) is None
    with pytest.raises(ValueError, match="vit_model is 'eva2_clip_L'; BLIP-2 has eva_clip_g, clip_L"):
        blip2_qformer.spec_of({"arch": "blip2", "num_query_token": 32, "vit_model": "eva2_clip_L"})
    small = replace(TINY, vision=VitSpec(dim=12, hidden=20, layers=1, heads=2, image=14, patch=7), writes=False)
    keys, weights = blip2_qformer.KEYS["transformers"](small), blip2_qformer.build(small).state_dict()
    with pytest.raises(KeyMismatch, match=r"image\.encoder\.pre_norm\.bias"):  # transformers has EVA-CLIP's tower alone
        keys.save(weights)


# Against transformers -------------------------------------------------------------------------------------------------


def live(seed: int) -> tuple[blip2_qformer.Spec, nn.Module]:
    """A retrieval model of random sizes."""
    sizes = np.random.default_rng(seed)
    heads, towers = int(sizes.integers(1, 4)), int(sizes.integers(1, 4))
    config = transformers.Blip2Config(
        vision_config={
            "hidden_size": 4 * towers, "intermediate_size": int(sizes.integers(5, 30)), "num_attention_heads": towers,
            "num_hidden_layers": int(sizes.integers(1, 4)), "image_size": 14, "patch_size": 7,
            "layer_norm_eps": 10.0 ** -int(sizes.integers(4, 7)),
        },
        qformer_config={
            "hidden_size": 4 * heads, "intermediate_size": int(sizes.integers(5, 30)), "num_attention_heads": heads,
            "num_hidden_layers": int(sizes.integers(1, 5)), "vocab_size": 41, "max_position_embeddings": 15,
            "cross_attention_frequency": int(sizes.integers(1, 4)), "use_qformer_text_input": True,
        },
        text_config={"model_type": "opt", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 8},
        num_query_tokens=int(sizes.integers(1, 7)), image_text_hidden_size=int(sizes.integers(2, 9)),
        architectures=["Blip2ForImageTextRetrieval"],
    )  # fmt: skip
    reference = randomise(transformers.Blip2ForImageTextRetrieval(config), 0.4)
    for layer in reference.vision_model.encoder.layers:  # published towers have no bias of keys
        nn.init.zeros_(layer.self_attn.qkv.bias[config.vision_config.hidden_size :][: config.vision_config.hidden_size])
    return replace(blip2_qformer.spec_of(config.to_dict()), opens=2), reference


@torch.no_grad()
@pytest.mark.parametrize("seed", range(6))
def test_scores_equal_transformers_at_random_sizes(seed: int) -> None:
    spec, reference = live(seed)
    keys, published = blip2_qformer.KEYS["transformers"](spec), reference.state_dict()
    system = blip2_qformer.build(spec).eval()
    system.load_state_dict(keys.load(published))
    assert come_back_bitwise(keys, published)
    lines = [[2, 9, 8, 7, 3], [2, 5, 3], [2, 11, 12, 13, 14, 15, 3]]
    made = batch_of(*(picture_row(line, 14) for line in lines))
    words = Words.of([np.array(line) for line in lines])
    pixels, given = made.media["image"], {"input_ids": words.ids_IT, "attention_mask": words.real_IT.long()}
    alike = reference(pixels, **given, use_image_text_matching_head=False).logits_per_image
    together = reference(pixels, **given, use_image_text_matching_head=True).logits_per_image
    assert close(system.similarities(made), alike)
    assert close(system.verdicts(system.connect(made)["image"], system.texts(*system.captions(made))), together)
    assert close(system.matches(made), together.softmax(-1)[:, 1])


def picture_row(ids: list[int], side: int, pictures: int = 1, at: int = 1) -> Example:
    """A text, and pictures beside it from that token on; what stands behind the first token is learnt."""
    made = example(ids, ((at, 0),) * pictures, [torch.randn(3, side, side) for _ in range(pictures)])
    return replace(made, digests={})


def test_what_only_compares_says_so_when_it_is_to_write() -> None:
    spec, _ = live(0)
    system = blip2_qformer.build(spec)
    with pytest.raises(ValueError, match="has no head that writes"):
        system(batch_of(picture_row([4, 5, 6], 14)))
    loss = OBJECTIVES["matching"](system, batch_of(picture_row([4, 5], 14), picture_row([4, 7], 14)), {})
    assert loss.sum.isfinite()


# Reading and writing --------------------------------------------------------------------------------------------------

TINY = blip2_qformer.Spec(
    EvaSpec(dim=12, hidden=20, layers=2, heads=2, image=14, patch=7),
    QFormerSpec(dim=16, hidden=20, layers=3, heads=4, queries=3, width=12, vocab=53, context=40),
    replace(blip2_qformer.PAIRING, space=7),
    opens=2,
)
DEC, SEP = 52, 3
ROWS = {
    "first": ([DEC, 8, 9, 7], 1, 1),
    "last": ([DEC, 8, 9], 1, 3),
    "adjacent": ([DEC, 6, 5, 11, 12, 13], 2, 2),
    "several": ([DEC, 11, 12], 3, 1),
    "none": ([DEC, 16, 17, 4, 5], 0, 0),
    "alone": ([DEC], 1, 1),
}  # ids, pictures, where these stand


def rows() -> dict[str, Example]:
    return {name: picture_row(ids, 14, count, at) for name, (ids, count, at) in ROWS.items()}


@pytest.fixture(scope="module")
def tiny() -> QueryPairs:
    torch.manual_seed(1)
    system = randomise(blip2_qformer.build(TINY))
    system.pairs.temperature.value.data.fill_(0.2)
    return system


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone(tiny: QueryPairs) -> None:
    assert rows_stand_alone(tiny, rows())


@torch.no_grad()
@pytest.mark.parametrize("kind", [FixedCache, GrowingCache])
@pytest.mark.parametrize("names", [[*ROWS], ["none"], ["alone"], ["first", "alone"]], ids="-".join)
def test_cached_session_equals_recompute(tiny: QueryPairs, kind: type, names: list[str]) -> None:
    made = [rows()[name] for name in names]
    assert replies_equal_recompute(tiny, made, cache_of(kind, len(made)))


@torch.no_grad()
def test_selected_rows_go_on_as_if_alone(tiny: QueryPairs) -> None:
    made = list(rows().values())
    session, kept = tiny.session(batch_of(*made), capacity=12), torch.tensor([4, 3, 4])
    session.select(kept)
    alone = [tiny.session(batch_of(made[i]), capacity=12) for i in kept.tolist()]
    ids_B = torch.tensor([7, 8, 9])
    assert close(session.step(ids_B), torch.cat([one.step(ids_B[i : i + 1]) for i, one in enumerate(alone)]))


@torch.no_grad()
def test_shared_session_equals_recompute_while_rows_come_and_go(tiny: QueryPairs) -> None:
    made = list(rows().values())
    shared = tiny.shared(60, page=3, media_bytes=2**20)
    opened, slow = [shared.open(one) for one in made], [Recompute(tiny, [batch_of(one)]) for one in made]
    for one, twin in zip(opened, slow, strict=True):
        while (scores := shared.read(one, 2)) is None:
            pass
        assert close(scores[None], twin.logits_BV)
    for numbers in ((0, 1, 2, 3, 4, 5), (5, 2, 0), (5, 2, 0), (1, 3), (4,)):
        ids_B = torch.randint(5, 50, (len(numbers),))
        wanted = torch.cat([slow[n].step(ids_B[i : i + 1]) for i, n in enumerate(numbers)])
        assert close(shared.step([opened[n] for n in numbers], ids_B), wanted)
    looked: list[int] = []
    hook = tiny.image.encoder.register_forward_hook(lambda *_: looked.append(1))
    shared.release(opened[3])
    while (scores := shared.read(opened[3], 4)) is None:
        pass
    hook.remove()
    assert not looked  # its pictures were kept
    assert close(scores[None], slow[3].logits_BV)


@torch.no_grad()
def test_every_picture_reaches_the_text_wherever_it_stands(tiny: QueryPairs) -> None:
    for name, count in (("several", 3), ("last", 1)):
        one = rows()[name]
        before = tiny(batch_of(one))[0]
        for changed in range(count):
            pictures = list(one.media["image"])
            pictures[changed] = torch.randn(3, 14, 14).numpy()
            after = tiny(batch_of(replace(one, media={"image": tuple(pictures)})))[0]
            assert ((after - before).abs().amax(-1) > 1e-4).all(), f"picture {changed} of {name!r} does not matter"


def test_batches_that_cannot_be_read_are_refused(tiny: QueryPairs) -> None:
    one = rows()["first"]
    with pytest.raises(ValueError, match="this batch is packed"):
        tiny(pack([one, one], capacity=2 * len(one), pad_id=0))
    with pytest.raises(ValueError, match="needs one conversation per row"):
        OBJECTIVES[ALL](tiny, pack([one, one], capacity=2 * len(one), pad_id=0), {})
    with pytest.raises(ValueError, match="learns no masked words"):
        OBJECTIVES["masked"](tiny, batch_of(one, rows()["last"]), {})
    with pytest.raises(ValueError, match="are not compiled by torch"):
        tiny.compile_steps()


def test_texts_are_written_as_the_authors_tokenizer_writes_them() -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *["a", "photo", "of", "an", "owl", "##s", "on", "branch"]]
    theirs = transformers.BertTokenizer(vocab={word: at for at, word in enumerate(words)}, do_lower_case=True)
    theirs.add_special_tokens({"bos_token": "[DEC]"})
    make = Processor(
        blip2_qformer.layout(TINY), Tokenizer(theirs.backend_tokenizer, bos="[DEC]", eos="[SEP]", pad="[PAD]")
    )
    picture, caption = Media("image", Image.new("RGB", (30, 20), "red")), "A photo of an owls"
    made = make(Sample((Turn("user", (picture,)), Turn("assistant", (Text(caption),), learn=True))))
    wanted = theirs(caption).input_ids
    assert made.ids_T.tolist() == [len(words), *wanted[1:]]  # [DEC] is one word more
    assert made.learn_T.tolist() == [False] + [True] * (len(wanted) - 1)
    assert made.spans == (Span("image", 1, 0),)
    system = blip2_qformer.build(replace(TINY, opens=theirs.cls_token_id))
    ids, real = system.captions(pad([made, make(Sample((Turn("user", (picture, Text("a"))),)), reply=True)], pad_id=0))
    assert ids[0].tolist() == wanted
    assert ids[1, :2].tolist() == theirs("a").input_ids[:2]
    assert real.sum(1).tolist() == [len(wanted), 2]
    prompt = make(Sample((Turn("user", (picture, Text("a photo of"))),)), reply=True)
    assert prompt.ids_T.tolist() == [len(words), *theirs("a photo of").input_ids[1:-1]]


# Learning -------------------------------------------------------------------------------------------------------------

LEARNS = ("image.connector.", "qformer.", "pairs.", "lm_head.")
RECIPES = {
    "blip2-qformer": ((LEARNS, ""),),
    "blip2-qformer-vitl": ((LEARNS, ""),),
    "code": ((LEARNS, ""),),
    "blip2-qformer-coco": ((("image.encoder.", *LEARNS), ""),),
}


@pytest.mark.parametrize("recipe", blip2_qformer.STAGES)
def test_stages_move_exactly_what_they_name(recipe: str) -> None:
    assert blip2_qformer.STAGES.keys() == RECIPES.keys()
    tower = replace(TINY.vision, layers=39) if recipe == "blip2-qformer-coco" else TINY.vision  # each has its rate
    if recipe == "blip2-qformer-vitl":
        tower = VitSpec(dim=12, hidden=20, layers=2, heads=2, image=14, patch=7)
    module = randomise(blip2_qformer.build(replace(TINY, vision=tower)))
    module.pairs.temperature.value.data.fill_(0.2)
    texts = [[DEC, *range(1, 40)], [DEC, *range(40, 52), SEP]]  # words and places that do not occur learn nothing else
    batch = batch_of(*(picture_row(text, 14) for text in texts))
    follow_stages(module, blip2_qformer.STAGES[recipe], RECIPES[recipe], batch)


def test_the_tower_learns_the_slower_the_deeper() -> None:
    (coco,) = blip2_qformer.STAGES["blip2-qformer-coco"]
    assert coco.lr_of["image.encoder.blocks.38"] == pytest.approx(0.95 * coco.lr)
    assert coco.lr_of["image.encoder.blocks.0"] == pytest.approx(0.95**39 * coco.lr)
    assert coco.lr_of["image.encoder.patch"] == pytest.approx(0.95**40 * coco.lr)


def test_rows_without_exactly_one_picture_write_nothing_that_is_learnt(tiny: QueryPairs) -> None:
    kept, others = [rows()["first"], rows()["last"]], [rows()["none"], rows()["several"]]
    alone, among = (OBJECTIVES["generation"](tiny, batch_of(*some), {}) for some in (kept, [*kept, *others]))
    assert (alone.count, among.count) == (2, 2)
    assert close(alone.sum.detach(), among.sum.detach())
    scores, real = tiny(batch_of(*kept)), [(0, 3), (1, 2)]
    said = torch.cat([scores[row, :end] for row, end in real])
    wanted = torch.cat([torch.from_numpy(one.ids_T[1:]) for one in kept])
    assert close(alone.sum.detach() / 2, F.cross_entropy(said, wanted, label_smoothing=0.1).detach())


def test_no_gradient_passes_through_a_candidate(tiny: QueryPairs) -> None:
    """As published: every picture learns from its own row of scores alone, and every text from its own."""
    batch = batch_of(*(picture_row([DEC, *text], 14) for text in ([4, 5], [6], [7, 8, 9])))
    pictures, texts = tiny.connect(batch)["image"].detach(), tiny.texts(*tiny.captions(batch))
    tiny.zero_grad()
    OBJECTIVES["contrastive"](tiny, batch, {}).sum.backward()
    made = tiny.pairs.picture.weight.grad.clone()
    tiny.zero_grad()
    fixed = tiny.text_vectors(texts).detach()
    scores = torch.einsum("nqe,ke->nqk", tiny.picture_vectors(pictures), fixed).amax(1) / tiny.temperature
    (3 * F.cross_entropy(scores, torch.arange(3), label_smoothing=0.1) / 2).backward()
    assert close(made, tiny.pairs.picture.weight.grad)
    tiny.zero_grad()


# A real run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model, captions of pictures of which two are one and the same, and a run over them."""
    folder = tmp_path_factory.mktemp("data")
    tiny_models.blip2_pairs().save(folder / "fresh")
    rows = []
    for number, colour in enumerate(("red", "green", "blue", "white", "red")):
        tiny_models.picture(colour).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": f"an owl {number} on a {colour} branch"})
    for name, broken in (("rows", None), ("null", None), ("gone", "gone"), ("blank", "  ")):
        last = dict(rows[4], caption=broken) if name != "rows" else rows[4]
        last = {key: value for key, value in last.items() if value != "gone"}
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows[:4], last]))
    words = {
        "system": "blip2-qformer", "init": str(folder / "fresh"), "output_dir": str(folder / "run"), "device": "cpu",
        "stages": [{"name": "stage1", "max_steps": 2, "batch": 5, "learning_rate": 1e-2, "warmup_steps": 0}],
        "data": {"pairs": {"path": str(folder / "rows.jsonl")}}, "logging_steps": 1,
    }  # fmt: skip
    (folder / "run.yaml").write_text(json.dumps(words))
    return folder


def test_a_run_trains_saves_and_compares(data: Path) -> None:
    train(data / "run.yaml", [])
    first, last = (json.loads(line) for line in (data / "run" / "metrics.jsonl").read_text().splitlines())
    assert {"contrastive", "matching", "generation"} <= set(first)
    assert last["loss"] < first["loss"]
    fresh, made = scops.load(data / "fresh"), scops.load(data / "run")
    before, after = (dict(model.module.named_parameters()) for model in (fresh, made))
    assert all(torch.equal(before[path], after[path]) == path.startswith("image.encoder.") for path in before)
    assert isinstance(made.chat("an owl", [data / "0.png"], max_tokens=4), str)
    assert isinstance(made.chat("", [data / "0.png"], max_tokens=4), str)
    assert len(made.retrieve([data / f"{n}.png" for n in range(5)], text="an owl", keep=False).found) == 5


@pytest.mark.parametrize(
    ("name", "words"),
    [("null", "'caption' is null"), ("gone", "no 'caption', which the first row has"), ("blank", "has no words")],
)
def test_a_row_without_a_caption_is_named(data: Path, name: str, words: str) -> None:
    changes = [f"data.pairs.path={data / name}.jsonl", f"output_dir={data / name}"]
    with pytest.raises(ValueError, match=f"{name}.jsonl row 4: .*{words}"):
        train(data / "run.yaml", changes)


@pytest.mark.parametrize("kind", ["eva", "clip"])
def test_what_was_trained_and_its_tower_are_put_together(kind: str, tmp_path: Path) -> None:
    made = tiny_models.blip2_pairs()
    if kind == "clip":
        made.spec = replace(made.spec, vision=VitSpec(dim=12, hidden=48, layers=2, heads=2, image=28, patch=14))
        made.module = randomise(blip2_qformer.build(made.spec))
    state = made.module.state_dict()
    named = blip2_qformer.KEYS["authors"](made.spec).save(state)
    own = {k: v for k, v in named.items() if not k.startswith("visual_encoder.")}
    torch.save({"model": own}, tmp_path / "trained.pth")
    tower = {k.removeprefix("visual_encoder."): v for k, v in named.items() if k.startswith("visual_encoder.")}
    last = {"eva": "blocks.2.norm1.weight", "clip": "transformer.resblocks.2.ln_1.weight"}[kind]
    torch.save(tower | {last: torch.ones(12)}, tmp_path / "tower.pth")  # its last block does not run
    made.tokenizer.save(tmp_path / "words")
    said = {"size": "blip2-qformer", "overrides": spec_to_json(made.spec), "tokenizer": "words",
            "weights": {"": "trained.pth", "image.encoder": "tower.pth"}}  # fmt: skip
    (tmp_path / "parts.json").write_text(json.dumps(said))
    loaded = scops.load(tmp_path).module.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(x, loaded[name]) for name, x in state.items())


@torch.no_grad()
@pytest.mark.parametrize("size", ["blip2_opt", "instructblip"])
def test_the_second_stage_begins_with_what_the_first_trained(size: str, tmp_path: Path) -> None:
    later, first = tiny_models.MODELS[size](), tiny_models.blip2_pairs()
    former = replace(later.spec.qformer, vocab=310, context=60)
    first.spec = replace(first.spec, vision=later.spec.vision, qformer=former)
    first.module = randomise(blip2_qformer.build(first.spec))
    first.save(tmp_path / "first", "authors")
    module = module_of(later.system)
    language = {
        k.removeprefix("language."): v for k, v in later.module.state_dict().items() if k.startswith("language.")
    }
    save_tensors(tmp_path / "lm.safetensors", module.parts(later.spec)["language"][0].keys.save(language))
    named = blip2_qformer.KEYS["authors"](first.spec).save(first.module.state_dict())
    tower = {k.removeprefix("visual_encoder."): v for k, v in named.items() if k.startswith("visual_encoder.")}
    save_tensors(tmp_path / "tower.safetensors", tower)
    later.tokenizer.save(tmp_path / "words")
    said = {
        "size": SYSTEMS[later.system].sizes[0], "overrides": spec_to_json(later.spec), "tokenizer": "words",
        "weights": {"image.encoder": "tower.safetensors", "image.connector": "first", "language": "lm.safetensors"},
        "fresh": ["image.connector.project"],
    }  # fmt: skip
    (tmp_path / "parts.json").write_text(json.dumps(said))
    loaded = scops.load(tmp_path).module
    batch = batch_of(picture_row([DEC, 5], 28))
    asked = loaded.image.connector.qformer(loaded.image.connector.norm(loaded.encode(batch)["image"]))
    assert torch.equal(asked, first.module.qformer(first.module.connect(batch)["image"]))
