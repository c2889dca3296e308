"""mPLUG against its reference's text encoder, fusion encoder and decoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from scops.core.batch import Example, Span
from scops.core.pairs import Pairing
from scops.core.sample import Media, Sample, Text, Turn
from scops.data.collate import pack
from scops.data.processor import Processor
from scops.data.tokenizer import Tokenizer
from scops.encoders.skip_fusion import FusionSpec
from scops.encoders.vit import VitSpec
from scops.language.bert import BertSpec
from scops.models.encoder_decoder import READ
from scops.models.recompute import Recompute
from scops.nn.cache import FixedCache, GrowingCache
from scops.nn.context import Context, Memory
from scops.objectives import COUNTS, OBJECTIVES
from scops.ops.masks import Causal
from scops.systems import mplug
from tests.conftest import Golden, batch_of, close, example, randomise
from tests.twins import come_back_bitwise, follow

GOLDEN = "mplug_fusion"


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden(GOLDEN)


@pytest.fixture(scope="module")
def spec(golden: Golden) -> mplug.Spec:
    config, text = golden.config, golden.config["bert"]
    return mplug.Spec(
        VitSpec(dim=text["encoder_width"], hidden=20, layers=1, heads=2, image=8, patch=4),  # the golden has no tower
        FusionSpec(config["num_hidden_layers"], config["fusion_layers"], config["stride_layer"]),
        BertSpec(
            dim=text["hidden_size"], hidden=text["intermediate_size"], layers=config["text_decode_layers"],
            heads=text["num_attention_heads"], vocab=text["vocab_size"], context=text["max_position_embeddings"],
            segments=text["type_vocab_size"], eps=text["layer_norm_eps"],
        ),
        reading=config["text_encoder_layers"],
        pairing=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def system(golden: Golden, spec: mplug.Spec) -> torch.nn.Module:
    system = randomise(mplug.build(spec))
    ours = mplug.KEYS["authors"](spec).load(golden.weights)
    missing, unexpected = system.load_state_dict(ours, strict=False)
    assert not unexpected
    assert all(path.startswith("image.encoder.") for path in missing)
    return system


@torch.no_grad()
def test_every_probe_equals_the_reference(golden: Golden, system: torch.nn.Module) -> None:
    inputs, wanted = golden.inputs, golden.outputs
    real, embeds = inputs["attention_mask"].bool(), inputs["image_embeds"]
    text = system.encoder.read(inputs["input_ids"], real)
    assert close(text, wanted["text_last_hidden_state"])
    pictures = Memory(embeds, torch.ones(embeds.shape[:2], dtype=torch.long))
    fused_image, fused_text = system.encoder.fusion(text, real, pictures)
    assert close(fused_image.features_BSD, wanted["fused_image"])
    assert close(fused_text, wanted["fused_text"])
    memory = system.encoder(system.encoder.embed(inputs["input_ids"]), real, {"image": pictures})
    answers, answered = inputs["answer_ids"], inputs["answer_mask"].bool()
    positions = torch.arange(answers.shape[1]).expand_as(answers)
    ctx = Context(positions, Causal(), memories={READ: memory})
    logits = system.head(system.decoder.hidden(system.embed(answers), ctx))
    assert close(logits[answered], wanted["decoder_logits"][answered])
    targets = answers.masked_fill(~answered, -100)[:, 1:]
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none")
    assert close(losses.sum(1), wanted["decoder_loss"])


def test_the_loss_of_whole_replies_equals_the_reference(golden: Golden, system: torch.nn.Module) -> None:
    inputs, rows_ = golden.inputs, []
    for ids, mask, answer, answered in zip(
        *(inputs[name] for name in ("input_ids", "attention_mask", "answer_ids", "answer_mask")), strict=True
    ):
        prompt = ids[mask.bool()].tolist()
        line = np.array([*prompt, *answer[answered.bool()].tolist()])
        span = (Span("image", 1, 0),)
        rows_.append(Example(line, np.arange(len(line)) > len(prompt), span, reply=len(prompt)))
    batch = replace(batch_of(*rows_), connected={"image": inputs["image_embeds"]})
    loss = OBJECTIVES["whole_reply"](system, batch, {})
    assert (loss.count, loss.unit) == (2, "reply")
    assert close(loss.sum, golden.outputs["decoder_loss"].sum())
    assert COUNTS["whole_reply"](batch) == 2


def test_keys_round_trip_bitwise(golden: Golden, spec: mplug.Spec) -> None:
    assert come_back_bitwise(mplug.KEYS["authors"](spec), golden.weights, but="position_ids")


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "live"), [("mplug-base", 369_292_919), ("mplug-large", 589_779_831)])
def test_full_sizes_have_the_published_names_and_shapes(size: str, live: int) -> None:
    """The README gives 350M and 600M: of what runs, rounded, without the embeddings that only fill in masks."""
    spec = mplug.SIZES[size]
    with torch.device("meta"):
        system = mplug.build(spec)
    assert sum(p.numel() for path, p in system.named_parameters() if "unused" not in path) == live
    shapes = {k: tuple(v.shape) for k, v in mplug.KEYS["authors"](spec).save(system.state_dict()).items()}
    width, tokens = spec.vision.dim, spec.vision.tokens
    assert shapes["visual_encoder.visual.conv1.weight"] == (width, 3, spec.vision.patch, spec.vision.patch)
    assert shapes["visual_encoder.visual.class_embedding"] == (width,)
    assert shapes["visual_encoder.visual.positional_embedding"] == (tokens, width)
    last = f"visual_encoder.visual.transformer.resblocks.{spec.vision.layers - 1}."
    assert shapes[last + "attn.in_proj_weight"] == (3 * width, width)
    assert shapes[last + "mlp.c_fc.bias"] == (4 * width,)
    assert shapes.get("visn_fc.weight") == (None if width == 768 else (768, width))
    assert shapes["text_encoder.encoder.layer.5.output.dense.weight"] == (768, 3072)
    assert shapes["fusion_encoder.encoder.layer.0.crossattention.self.key.weight"] == (768, 768)
    assert shapes["fusion_encoder.encoder.layer.11.crossattention.self.key.weight"] == (768, 768)
    assert shapes["text_decoder.cls.predictions.decoder.weight"] == (30522, 768)
    assert shapes["vision_proj.weight"] == (256, 768)
    assert len([name for name in shapes if name.startswith("fusion_encoder.encoder.layer.")]) == 12 * 26


@pytest.mark.parametrize("size", mplug.SIZES)
def test_authors_configuration_goes_both_ways(size: str) -> None:
    for spec in (mplug.SIZES[size], replace(mplug.SIZES[size], pairing=None)):
        assert mplug.spec_of(mplug.config_of(spec)) == spec
    with pytest.raises(ValueError, match="clip_name is 'RN50'"):
        mplug.spec_of(mplug.config_of(mplug.SIZES[size]) | {"clip_name": "RN50"})
    assert mplug.spec_of({"model_type": "bert"}) is None
    plain = replace(TINY, pairing=None)
    assert mplug.spec_of(mplug.config_of(plain)) == plain  # its tower has no name


@pytest.mark.parametrize(("stride", "joint"), [(3, [3]), (6, []), (2, [2, 4]), (1, [1, 2, 3, 4, 5])])
def test_layers_at_multiples_of_the_stride_are_joint_but_for_the_first(stride: int, joint: list[int]) -> None:
    with torch.device("meta"):
        system = mplug.build(replace(mplug.SIZES["mplug-large"], fusion=FusionSpec(stride=stride)))
    assert [n for n, is_joint in enumerate(system.encoder.fusion.joint) if is_joint] == joint
    assert sorted(system.encoder.fusion.unused.cross) == [str(n) for n in joint]


def test_a_training_file_s_shadows_queues_and_text_tower_are_left_out(golden: Golden, spec: mplug.Spec) -> None:
    keys = mplug.KEYS["authors"](spec)
    more = {
        name.replace("text_encoder.", "text_encoder_m."): tensor
        for name, tensor in golden.weights.items()
        if name.startswith("text_encoder.")
    }
    others = (
        "image_queue", "queue_ptr", "visual_encoder.visual.proj", "visual_encoder.transformer.resblocks.0.attn.in_proj_bias",
        "visual_encoder.transformer.resblocks.0.mlp.c_fc.weight", "visual_encoder.token_embedding.weight",
        "visual_encoder.logit_scale", "visual_encoder_m.visual.transformer.resblocks.3.attn.in_proj_bias",
    )  # fmt: skip
    more |= {name: torch.zeros(1) for name in others}
    assert keys.load(golden.weights | more).keys() == keys.load(golden.weights).keys()


def test_prompts_are_written_as_the_authors_tokenizer_writes_them() -> None:
    transformers = pytest.importorskip("transformers")
    specials, plain = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "what is this ? an owl ##s sep [ ] on a branch"
    words = [*specials, *plain.split()]
    theirs = transformers.BertTokenizer(vocab={word: at for at, word in enumerate(words)}, do_lower_case=True)
    ours = Tokenizer(theirs.backend_tokenizer, bos="[CLS]", eos="[SEP]", pad="[PAD]")
    make = Processor(mplug.layout(TINY), ours)
    picture = Media("image", Image.new("RGB", (30, 20), "red"))
    asked = (Turn("user", (picture, Text("What IS this?"))), Turn("assistant", (Text("an owls"),), learn=True))
    example = make(Sample(asked))
    question, answer = theirs("What IS this?").input_ids, theirs("an owls").input_ids
    assert example.ids_T.tolist() == [*question, *answer]
    assert example.reply == len(question)
    assert example.learn_T.tolist() == [False] * (len(question) + 1) + [True] * (len(answer) - 1)
    assert example.media["image"][0].shape == (3, 14, 14)
    assert example.spans == (Span("image", 1, 0),)
    prompt = make(Sample(asked[:1]), reply=True)
    assert prompt.ids_T.tolist() == [*question, ours.id_of("[CLS]")]
    assert prompt.reply == len(question)
    alone = make(Sample((Turn("user", (picture,)), asked[1])))
    assert alone.ids_T.tolist() == [*theirs("").input_ids, *answer]
    markup = make(Sample((Turn("user", (Text("[SEP]"),)), asked[1])))
    assert markup.ids_T.tolist().count(ours.id_of("[SEP]")) == 2  # the template's own
    more = make(Sample((*asked, Turn("user", (Text("this?"),)), asked[1])))
    assert more.reply == len(more) - len(answer)


# Reading and writing --------------------------------------------------------------------------------------------------

TINY = mplug.Spec(
    VitSpec(dim=12, hidden=20, layers=2, heads=2, image=14, patch=7),
    FusionSpec(layers=6, live=5, stride=3),
    BertSpec(dim=24, hidden=36, layers=2, heads=4, vocab=53, context=40),
    reading=2,
    pairing=Pairing(space=7, queue=6, mask=4),
)
CLS, SEP = 2, 3
ROWS = {
    "first": ((0,), [8, 9, 7], [5]),
    "last": ((3,), [8, 9, 7, 11], []),
    "adjacent": ((1, 1), [6, 5], [5, 6, 7]),
    "several": ((0, 1, 2), [11, 12, 13, 14, 15], [9, 8]),
    "none": ((), [16, 17], [4]),
    "alone": ((0,), [], [4, 19, 23, 8]),
}  # items before these words of the prompt; the prompt's words; those of the reply


def row(places: tuple[int, ...], prompt: list[int], reply: list[int]) -> Example:
    ids = [CLS, *prompt, SEP, CLS, *reply]
    spans = tuple((1 + place, 0) for place in places)
    made = example(ids, spans, [torch.randn(3, 14, 14) for _ in places])
    begins = len(prompt) + 2
    return replace(made, learn_T=np.arange(len(ids)) > begins, reply=begins, digests={})


def rows() -> dict[str, Example]:
    return {name: row(*parts) for name, parts in ROWS.items()}


@pytest.fixture(scope="module")
def tiny() -> torch.nn.Module:
    torch.manual_seed(1)
    return randomise(mplug.build(TINY))


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone(tiny: torch.nn.Module) -> None:
    made = rows()
    together = tiny(batch_of(*made.values()))
    for logits, (name, one) in zip(together, made.items(), strict=True):
        assert close(logits[one.reply : len(one)], tiny(batch_of(one))[0, one.reply :]), name


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_session_equals_recompute(tiny: torch.nn.Module, cache: type) -> None:
    made = list(rows().values())
    room = {"capacity": 20} if cache is FixedCache else {}
    session = tiny.cached(batch_of(*made), cache(len(made), **room))
    slow = Recompute(tiny, [batch_of(one) for one in made])
    ids_BS = torch.randint(5, 50, (len(made), 5))
    assert close(follow(session, ids_BS), follow(slow, ids_BS))


@torch.no_grad()
def test_selected_rows_go_on_as_if_alone(tiny: torch.nn.Module) -> None:
    made = list(rows().values())
    session = tiny.session(batch_of(*made), capacity=12)
    kept = torch.tensor([4, 3, 4])
    session.select(kept)
    alone = [tiny.session(batch_of(made[i]), capacity=12) for i in kept.tolist()]
    ids_B = torch.tensor([7, 8, 9])
    assert close(session.step(ids_B), torch.cat([one.step(ids_B[i : i + 1]) for i, one in enumerate(alone)]))


@torch.no_grad()
def test_shared_session_equals_recompute_while_rows_come_and_go(tiny: torch.nn.Module) -> None:
    made = list(rows().values())
    shared = tiny.shared(60, page=3, media_bytes=2**20)
    opened = [shared.open(one) for one in made]
    slow = [Recompute(tiny, [batch_of(one)]) for one in made]
    for at, (one, twin) in enumerate(zip(opened, slow, strict=True)):
        assert shared.needs(one) == -(-(len(ROWS[[*ROWS][at]][2]) + 2) // 3)
        scores = None
        while scores is None:
            scores = shared.read(one, 2)
        assert close(scores[None], twin.logits_BV)
    for numbers in ((0, 1, 2, 3, 4, 5), (5, 2, 0), (5, 2, 0), (1, 3)):
        ids_B = torch.randint(5, 50, (len(numbers),))
        wanted = torch.cat([slow[n].step(ids_B[i : i + 1]) for i, n in enumerate(numbers)])
        assert close(shared.step([opened[n] for n in numbers], ids_B), wanted)
    looked: list[int] = []
    hook = tiny.image.encoder.register_forward_hook(lambda *_: looked.append(1))
    free = shared.free
    shared.release(opened[3])
    assert shared.free > free
    while (scores := shared.read(opened[3], 4)) is None:
        pass
    hook.remove()
    assert not looked  # its pictures were kept
    assert close(scores[None], slow[3].logits_BV)


@torch.no_grad()
def test_every_picture_of_a_row_reaches_the_reply(tiny: torch.nn.Module) -> None:
    one = rows()["several"]
    before = tiny(batch_of(one))[0, -1]
    for changed in range(3):
        pictures = list(one.media["image"])
        pictures[changed] = torch.randn(3, 14, 14).numpy()
        after = tiny(batch_of(replace(one, media={"image": tuple(pictures)})))[0, -1]
        assert (after - before).abs().max() > 1e-3, f"picture {changed} does not matter"


def test_batches_that_cannot_be_read_are_refused(tiny: torch.nn.Module) -> None:
    one = rows()["first"]
    with pytest.raises(ValueError, match="does not say where its replies begin"):
        tiny(batch_of(replace(one, reply=None)))
    with pytest.raises(ValueError, match="this batch is packed"):
        tiny(pack([one, one], capacity=2 * len(one), pad_id=0))
    with pytest.raises(ValueError, match="the reply begins at 0"):
        tiny(batch_of(replace(one, reply=0)))
    plain = mplug.build(replace(TINY, pairing=None))
    with pytest.raises(ValueError, match="without heads for pairs"):
        plain.similarities(batch_of(one))


@torch.no_grad()
def test_similarities_and_matches_say_what_the_heads_say(tiny: torch.nn.Module) -> None:
    batch = batch_of(*rows().values())
    similar = tiny.similarities(batch)
    assert similar.shape == (len(batch.where["image"].row_M), len(ROWS))
    assert similar.abs().max() <= 1 + 1e-6
    matches = tiny.matches(batch)
    for at, number in enumerate(batch.where["image"].row_M):
        one = [*rows().values()][number]
        ids = torch.from_numpy(one.ids_T[one.reply :])[None]
        text = tiny.texts(ids, torch.ones_like(ids, dtype=torch.bool))
        picture = tiny.connect(batch)["image"][at : at + 1]
        assert close(similar[at, number], (tiny.picture_vectors(picture)[0, 0] @ tiny.text_vectors(text)[0]))
        assert close(matches[at], tiny.verdicts(picture, text).softmax(-1)[0, 1])
