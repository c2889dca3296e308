"""BLOOM against transformers' own module, random and tiny; and its cached forms against reading everything again."""

from dataclasses import replace

import pytest
import torch

from scops.checkpoints.hub_bloom import bloom_config, bloom_spec, hub_bloom
from scops.language.bloom import BloomSpec, bloom
from scops.models.decoder import MultimodalDecoder
from scops.nn.cache import FixedCache, GrowingCache
from scops.ops.alibi import alibi
from tests.conftest import close, randomise
from tests.language.claims import PROMPTS, compiled_equals_recompute, equals_transformers, every_parameter_learns
from tests.twins import (
    cache_of,
    cached_equals_recompute,
    come_back_bitwise,
    documents_stand_alone,
    shared_equals_recompute,
)

transformers = pytest.importorskip("transformers")

SIZES = {
    "four heads": {"vocab_size": 61, "hidden_size": 24, "n_layer": 3, "n_head": 4},
    "six heads": {"vocab_size": 47, "hidden_size": 30, "n_layer": 2, "n_head": 6, "layer_norm_epsilon": 1e-3},
    "one head": {"vocab_size": 31, "hidden_size": 10, "n_layer": 2, "n_head": 1},
    "eleven heads, a head of its own": {
        "vocab_size": 53, "hidden_size": 44, "n_layer": 1, "n_head": 11, "tie_word_embeddings": False,
    },
}  # fmt: skip
SPEC = BloomSpec(dim=30, layers=2, heads=6, vocab=53)


def reference(size: str) -> torch.nn.Module:
    return randomise(transformers.BloomForCausalLM(transformers.BloomConfig(**SIZES[size])))


def ours(theirs: torch.nn.Module) -> MultimodalDecoder:
    spec = bloom_spec(theirs.config.to_dict())
    language = bloom(spec)
    language.load_state_dict(hub_bloom(spec).load(theirs.state_dict()))
    return MultimodalDecoder(language).eval()


def decoder() -> MultimodalDecoder:
    return randomise(MultimodalDecoder(bloom(SPEC)))


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", SIZES)
def test_logits_of_unequal_prompts_equal_transformers_wherever_it_pads(size: str, side: str) -> None:
    theirs = reference(size)
    assert equals_transformers(ours(theirs), theirs, side)


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2, 3, 6, 11, 16, 25, 32, 112])
def test_slopes_equal_transformers(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    expected_N1S = build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), heads, torch.float32)
    assert close(torch.tensor(alibi(heads).slopes), expected_N1S[:, 0, 1])


@pytest.mark.parametrize("size", SIZES)
def test_keys_round_trip_bitwise_and_numbers_come_back(size: str) -> None:
    theirs = reference(size)
    spec = bloom_spec(theirs.config.to_dict())
    keys, state = hub_bloom(spec), theirs.state_dict()
    assert come_back_bitwise(keys, state, but="lm_head.weight" if spec.tied else "")
    assert bloom_spec(bloom_config(spec)) == spec


def test_bloom_7b1_has_the_published_count() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in bloom(BloomSpec()).parameters()) == 7_069_016_064


def test_residuals_behind_the_norms_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="apply_residual_connection_post_layernorm"):
        bloom_spec({"model_type": "bloom", "apply_residual_connection_post_layernorm": True})


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache, 1, 4])
def test_cached_sessions_equal_recomputing(cache: type | int) -> None:
    assert cached_equals_recompute(decoder(), PROMPTS, cache_of(cache, len(PROMPTS)))


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 2, 100])
def test_the_shared_session_equals_recomputing_however_prompts_are_cut(most: int) -> None:
    assert shared_equals_recompute(decoder(), [*PROMPTS, PROMPTS[0]], tokens=80, page=2, most=most, media_bytes=0)


@torch.no_grad()
def test_a_packed_row_equals_each_document_alone() -> None:
    assert documents_stand_alone(decoder(), PROMPTS, capacity=13)


@torch.no_grad()
def test_a_step_through_the_compiler_s_cache_is_the_same() -> None:
    assert compiled_equals_recompute(decoder())


def test_gradients_reach_every_parameter() -> None:
    assert every_parameter_learns(randomise(MultimodalDecoder(bloom(replace(SPEC, tied=False)))))
