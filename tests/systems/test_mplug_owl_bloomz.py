"""mPLUG-Owl with BLOOMZ: its language model is transformers' own, put behind the tower and abstractor that goldens prove."""

import json
from dataclasses import replace

import pytest
import torch

from scops.language.bloom import BloomSpec
from scops.models.decoder import MultimodalDecoder
from scops.nn.cache import FixedCache, GrowingCache
from scops.systems import mplug_owl, spec_from_json, spec_to_json
from tests.conftest import batch_of, close, example, randomise
from tests.systems.test_mplug_owl import TINY, rows
from tests.twins import cache_of, cached_equals_recompute, shared_equals_recompute

transformers = pytest.importorskip("transformers")

SPEC = replace(TINY, language=BloomSpec(dim=24, layers=3, heads=6, vocab=53))
FULL = mplug_owl.SIZES["mplug-owl-bloomz-7b-multilingual"]


def system() -> MultimodalDecoder:
    return randomise(mplug_owl.build(SPEC))


@torch.no_grad()
def test_words_pass_the_embedding_s_norm_and_pictures_do_not() -> None:
    """As the authors' bloom_forward: what is spliced goes into the first block as it is."""
    ours = system()
    config = transformers.BloomConfig(**mplug_owl.config_of(SPEC)["text_config"])
    theirs = transformers.BloomForCausalLM(config).eval()
    published = mplug_owl.KEYS["authors"](SPEC).save(ours.state_dict())
    prefix = "language_model."
    state = {name.removeprefix(prefix): t for name, t in published.items() if name.startswith(prefix)}
    assert theirs.load_state_dict(state, strict=False).missing_keys == ["lm_head.weight"]  # tied
    norm, theirs.transformer.word_embeddings_layernorm = (
        theirs.transformer.word_embeddings_layernorm,
        torch.nn.Identity(),
    )
    for name, one in rows().items():
        batch = batch_of(one)
        x_BTD = norm(theirs.transformer.word_embeddings(batch.ids_BT))
        for item, span in enumerate(one.spans):
            x_BTD[0, span.start : span.start + span.length] = ours.connect(batch)["image"][item]
        assert close(ours(batch), theirs(inputs_embeds=x_BTD).logits), name


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_equal_recomputing_with_pictures_anywhere(cache: type) -> None:
    examples = list(rows().values())
    assert cached_equals_recompute(system(), examples, cache_of(cache, len(examples)))


@torch.no_grad()
def test_the_shared_session_equals_recomputing() -> None:
    examples = [replace(one, digests={}) for one in rows().values()]
    assert shared_equals_recompute(system(), examples, tokens=300, page=3, most=4)


def test_keys_come_back_bit_by_bit() -> None:
    keys = mplug_owl.KEYS["authors"](SPEC)
    published = {name: torch.randn_like(t) for name, t in keys.save(system().state_dict()).items()}
    published["language_model.lm_head.weight"] = published["language_model.transformer.word_embeddings.weight"]
    back = keys.save(keys.load(published))
    assert set(published) - set(back) == {"language_model.lm_head.weight"}
    assert all(torch.equal(back[name], published[name]) for name in back)


def test_full_size_has_the_counts_and_shapes_of_its_parts() -> None:
    with torch.device("meta"):
        full = mplug_owl.build(FULL)
    assert sum(p.numel() for p in full.parameters()) == 303_179_776 + 81_408_000 + 65_536 + 7_069_016_064
    shapes = {n: tuple(t.shape) for n, t in mplug_owl.KEYS["authors"](FULL).save(full.state_dict()).items()}
    assert shapes["language_model.transformer.word_embeddings.weight"] == (250880, 4096)
    assert shapes["language_model.transformer.word_embeddings_layernorm.bias"] == (4096,)
    assert shapes["language_model.transformer.h.29.self_attention.query_key_value.weight"] == (12288, 4096)
    assert shapes["language_model.transformer.h.29.mlp.dense_h_to_4h.bias"] == (16384,)
    assert shapes["abstractor.visual_fc.weight"] == (4096, 1024)


@pytest.mark.parametrize("spec", [SPEC, FULL, mplug_owl.SIZES["mplug-owl-llama-7b"]], ids=["tiny", "full", "llama"])
def test_config_and_json_name_the_language_model(spec: mplug_owl.Spec) -> None:
    again = mplug_owl.spec_of(json.loads(json.dumps(mplug_owl.config_of(spec))))
    assert mplug_owl.config_of(again) == mplug_owl.config_of(spec)
    assert type(again.language) is type(spec.language)
    kept = json.loads(json.dumps(spec_to_json(spec)))
    assert kept["language"]["kind"] == type(spec.language).__name__
    assert spec_from_json(mplug_owl.Spec, kept) == spec


def test_json_of_before_there_were_two_is_a_llama_and_wrong_kinds_are_told() -> None:
    old = json.loads(json.dumps(spec_to_json(TINY)))
    del old["language"]["kind"]
    assert spec_from_json(mplug_owl.Spec, old) == TINY
    with pytest.raises(ValueError, match=r"no kind 'BlomSpec'; did you mean 'BloomSpec'"):
        spec_from_json(mplug_owl.Spec, {"language": {"kind": "BlomSpec"}})
    with pytest.raises(ValueError, match=r"BloomSpec has no field 'hidden'"):
        spec_from_json(mplug_owl.Spec, {"language": {"kind": "BloomSpec", "hidden": 9}})


def test_another_language_model_is_refused_by_name() -> None:
    config = mplug_owl.config_of(SPEC)
    with pytest.raises(ValueError, match="'opt' language model; the published ones have 'llama' or 'bloom'"):
        mplug_owl.spec_of(config | {"text_config": {"model_type": "opt"}})


@torch.no_grad()
def test_a_row_of_nothing_but_a_picture_is_answered() -> None:
    ours, one = system(), rows()["alone"]
    assert ours(batch_of(one)).isfinite().all()
    assert ours(batch_of(example([1]))).isfinite().all()
