"""mPLUG-Owl2.1 against a golden of X-PLUG/mPLUG-Owl, and long documents in sessions."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from scops.core.batch import Batch, Example
from scops.core.sample import Sample, Text, Turn
from scops.data.collate import pack
from scops.data.processor import Processor
from scops.models.cached import CachedSession
from scops.models.decoder import MultimodalDecoder
from scops.models.recompute import Recompute
from scops.native.library import library
from scops.native.steps import Steps
from scops.nn.cache import FixedCache, GrowingCache
from scops.ops.rope import DynamicNtk
from scops.systems import mplug_owl21
from scops.systems.mplug_owl2 import Eyes
from tests.conftest import Golden, batch_of, close, example, randomise
from tests.data.vocabularies import chatml
from tests.systems.test_mplug_owl2 import ABSTRACTOR, ROOM, VISION, rows
from tests.twins import come_back_bitwise, follow, numbered, published, rows_stand_alone, shared_equals_recompute

AUTHORS = {"model_type": "mplug_owl2_1"}
STEPS = 7


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("owl21")


@pytest.fixture(scope="module")
def spec(golden: Golden) -> mplug_owl21.Spec:
    return mplug_owl21.spec_of(golden.config | AUTHORS)


@pytest.fixture(scope="module")
def system(golden: Golden, spec: mplug_owl21.Spec) -> MultimodalDecoder:
    return published(mplug_owl21, spec, golden.weights)


def batch(golden: Golden, case: str) -> tuple[Batch, list[int]]:
    """The golden's ids, where -200 is a picture, and its labels: the ids themselves, none of a picture."""
    written, labels, spans = [], [], []
    for token in golden.inputs[f"{case}_input_ids"][0].tolist():
        if token == -200:
            spans.append((len(written), 6))
            written, labels = written + [0] * 6, labels + [-100] * 6
        else:
            written, labels = [*written, token], [*labels, token]
    return batch_of(example(written, tuple(spans), list(golden.inputs.get(f"{case}_images", ())))), labels


@torch.no_grad()
@pytest.mark.parametrize("case", "AC")
def test_every_probe_equals_the_reference_within_and_beyond_the_trained_length(
    case: str, golden: Golden, system: MultimodalDecoder
) -> None:
    (made, labels), out = batch(golden, case), golden.outputs
    if case == "A":
        pixels = golden.inputs["A_images"]
        assert close(system.image.encoder.embed(pixels), out["A_vision_embeddings"])
        assert close(system.image.encoder(pixels), out["A_vision_last_hidden_state"])
        assert close(system.connect(made)["image"], out["A_abstractor_last_hidden_state"])
    x_BTD, ctx = system.read(made)
    assert close(system.language.blocks[0](x_BTD, ctx), out[f"{case}_hidden_layer1"])
    logits = system(made)
    assert close(logits, out[f"{case}_logits"])
    assert close(cross_entropy(logits[0, :-1], torch.tensor(labels[1:]))[None], out[f"{case}_loss"])


def test_keys_round_trip_bitwise(golden: Golden, spec: mplug_owl21.Spec) -> None:
    assert come_back_bitwise(mplug_owl21.KEYS["authors"](spec), golden.weights)


def test_spec_and_config_say_the_same_both_ways(spec: mplug_owl21.Spec) -> None:
    for one in (spec, TINY, PLAIN, *mplug_owl21.SIZES.values()):
        assert mplug_owl21.spec_of(mplug_owl21.config_of(one)) == one
    assert mplug_owl21.spec_of({"model_type": "qwen"}) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"multiway": False}, "multiway False; only True"),
        ({"kv_channels": 16}, "kv_channels 16; only 12"),
        ({"rotary_pct": 0.5}, "rotary_pct 0.5"),
    ],
)
def test_another_qwen_is_refused(change: dict, said: str, golden: Golden) -> None:
    with pytest.raises(ValueError, match=said):
        mplug_owl21.spec_of(golden.config | AUTHORS | change)


def test_full_size_has_the_published_count_and_names() -> None:
    spec = mplug_owl21.SIZES["mplug-owl2.1"]
    with torch.device("meta"):
        system = mplug_owl21.build(spec)
    assert sum(p.numel() for p in system.parameters()) == 11_386_028_032
    published = mplug_owl21.KEYS["authors"](spec).save(system.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    assert shapes["transformer.h.31.attn.c_attn.multiway.1.weight"] == (12288, 4096)
    assert shapes["transformer.h.31.attn.c_attn.multiway.0.bias"] == (12288,)
    assert shapes["transformer.h.31.attn.c_proj.weight"] == (4096, 4096)
    assert shapes["transformer.h.31.mlp.w1.weight"] == shapes["transformer.h.31.mlp.w2.weight"] == (11008, 4096)
    assert shapes["transformer.h.31.mlp.c_proj.weight"] == (4096, 11008)
    assert shapes["transformer.wte.weight"] == shapes["lm_head.weight"] == (151_851, 4096)
    assert shapes["transformer.vision_model.embeddings.position_embedding"] == (256, 1664)
    layer = "transformer.visual_abstractor.encoder.layers.5.crossattention.attention."
    assert shapes[layer + "k_pos_embed"] == (1024, 1664)


# Long documents -------------------------------------------------------------------------------------------------------

LANGUAGE = mplug_owl21.QwenSpec(dim=24, hidden=36, layers=2, heads=4, vocab=53, context=64, trained=6)
EYES = Eyes(VISION, ABSTRACTOR, cls=0, post_norm=False)
TINY = mplug_owl21.Spec(EYES, LANGUAGE)
PLAIN = mplug_owl21.Spec(EYES, replace(LANGUAGE, stretched=False, sharpened=False, bias=True))


def long_rows() -> list[Example]:
    """Prompts within the trained length, at it, beyond it and at twice it; what is written crosses both."""
    return [*rows(), *(example(torch.randint(1, 50, (n,)).tolist()) for n in (1, 6, 7, 12, 13))]


@torch.no_grad()
@pytest.mark.parametrize("spec", [TINY, PLAIN], ids=["long", "plain"])
def test_a_ragged_batch_equals_each_row_alone(spec: mplug_owl21.Spec) -> None:
    assert rows_stand_alone(randomise(mplug_owl21.build(spec)), numbered(long_rows()))


@torch.no_grad()
def test_packed_documents_equal_each_alone() -> None:
    system, made = randomise(mplug_owl21.build(TINY)), long_rows()
    packed = pack(made, capacity=40, pad_id=0)
    assert packed.packed
    alone = {len(one): system(batch_of(one))[0] for one in made if not one.spans}
    logits = system(packed)
    for row, starts in enumerate(packed.documents):
        for start, end in zip(starts, (*starts[1:], packed.lengths[row]), strict=True):
            media = any(r == row and start <= s < end for r, s in zip(*_media(packed), strict=True))
            if not media:
                assert close(logits[row, start:end], alone[end - start])


def _media(batch: Batch) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return batch.where["image"].row_M, batch.where["image"].start_M


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_equal_recompute_though_they_grow_beyond_the_trained_length(cache: type) -> None:
    system, made = randomise(mplug_owl21.build(TINY)), long_rows()
    room = {"capacity": 40} if cache is FixedCache else {}
    session = CachedSession(system, batch_of(*made), cache(len(made), **room))
    slow = Recompute(system, [batch_of(one) for one in made])
    ids_BS = torch.randint(1, 50, (len(made), STEPS))
    assert close(follow(session, ids_BS), follow(slow, ids_BS))
    chosen = torch.tensor([8, 0, 8, 10])
    session.select(chosen)
    slow.select(chosen)
    assert close(session.step(ids_BS[:4, 0]), slow.step(ids_BS[:4, 0]))


@torch.no_grad()
@pytest.mark.skipif(library() is None, reason="no compiler here")
@pytest.mark.parametrize("trained", [9, 64])
def test_kernels_take_steps_within_the_trained_length_and_no_others(trained: int) -> None:
    system = randomise(mplug_owl21.build(replace(TINY, language=replace(LANGUAGE, trained=trained))))
    assert all(Steps(system.language).known)
    made, ids_BS = rows()[2:5], torch.randint(1, 50, (3, STEPS))
    fast = CachedSession(system, batch_of(*made), FixedCache(3, 40))
    slow = CachedSession(system, batch_of(*made), FixedCache(3, 40), steps=system.language)
    assert close(follow(fast, ids_BS), follow(slow, ids_BS))


@torch.no_grad()
@pytest.mark.parametrize("page", [1, 3, 16])
def test_a_shared_session_equals_recompute_however_prompts_are_cut(page: int) -> None:
    system = randomise(mplug_owl21.build(TINY))
    assert shared_equals_recompute(system, long_rows(), tokens=page * 300, page=page, most=3, more=STEPS)


@torch.no_grad()
def test_pages_are_shared_only_by_prompts_that_are_stretched_alike() -> None:
    system, words = randomise(mplug_owl21.build(TINY)), torch.randint(1, 50, (14,)).tolist()
    shared = system.shared(60, page=2, media_bytes=0)
    for length, found in ((5, 0), (6, 2), (7, 0), (11, 3), (13, 0), (14, 6)):
        row = shared.open(example(words[:length]))
        assert sum(1 for _ in shared._found(row)) == found, length
        assert close(shared.read(row, 40)[None], system(batch_of(example(words[:length])))[:, -1])


@torch.no_grad()
def test_a_model_that_learns_is_neither_stretched_nor_sharpened() -> None:
    system, long = randomise(mplug_owl21.build(TINY)), batch_of(example(torch.randint(1, 50, (20,)).tolist()))
    plainly = mplug_owl21.build(replace(TINY, language=replace(LANGUAGE, stretched=False, sharpened=False)))
    state = {name.replace("q.body.", "q."): tensor for name, tensor in system.state_dict().items()}
    plainly.load_state_dict(state)
    assert (system(long) - plainly.eval()(long)).abs().max() > 1e-2
    assert close(system.train()(long), plainly(long))


@pytest.mark.parametrize(("tokens", "doublings"), [(1, 0), (12, 0), (13, 1), (24, 1), (25, 2), (48, 2), (49, 3)])
def test_the_rope_is_stretched_by_doublings(tokens: int, doublings: int) -> None:
    rope = DynamicNtk(8, 10000.0, 12)
    assert rope.stretch(tokens) == doublings
    base = 10000.0 * (2 ** (doublings + 1) - 1) ** (8 / 6)
    assert rope.frequencies[doublings] == pytest.approx([base ** (-i / 4) for i in range(4)])


def test_the_prompt_is_mplug_owl2_s_with_qwen_s_end() -> None:
    make = Processor(mplug_owl21.layout(TINY), chatml())
    turns = (Turn("user", (Text("what is it?"),)), Turn("assistant", (Text("an owl"),), True))
    row = make(Sample(turns))
    assert (
        make.tokenizer.decode(row.ids_T.tolist(), skip_special=False)
        == "USER: what is it? ASSISTANT:an owl<|endoftext|>"
    )
    assert mplug_owl21.layout(TINY).media["image"].tokens == ROOM
