"""OPT against transformers' own module, random and tiny; and its cached forms against reading everything again."""

from dataclasses import replace

import pytest
import torch

from scops.checkpoints.hub_opt import bare_opt, hub_opt, opt_config, opt_spec
from scops.language.opt import OptSpec, opt
from scops.models.decoder import MultimodalDecoder
from scops.nn.cache import FixedCache, GrowingCache
from tests.conftest import randomise
from tests.language.claims import PROMPTS, compiled_equals_recompute, equals_transformers, every_parameter_learns
from tests.twins import (
    cache_of,
    cached_equals_recompute,
    come_back_bitwise,
    documents_stand_alone,
    rows_stand_alone,
    shared_equals_recompute,
)

transformers = pytest.importorskip("transformers")

SIZES = {
    "four heads": {"vocab_size": 61, "hidden_size": 24, "ffn_dim": 36, "num_hidden_layers": 3, "num_attention_heads": 4},
    "as 350m": {
        "vocab_size": 47, "hidden_size": 30, "ffn_dim": 22, "num_hidden_layers": 2, "num_attention_heads": 3,
        "do_layer_norm_before": False, "word_embed_proj_dim": 14,
    },
    "narrow words, norms before": {
        "vocab_size": 41, "hidden_size": 20, "ffn_dim": 30, "num_hidden_layers": 2, "num_attention_heads": 2,
        "word_embed_proj_dim": 26,
    },
    "as Galactica, a head of its own": {
        "vocab_size": 53, "hidden_size": 18, "ffn_dim": 40, "num_hidden_layers": 2, "num_attention_heads": 1,
        "activation_function": "gelu", "enable_bias": False, "layer_norm_elementwise_affine": False,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
SPEC = OptSpec(dim=30, hidden=44, layers=2, heads=6, vocab=53, context=40)


def reference(size: str) -> torch.nn.Module:
    return randomise(transformers.OPTForCausalLM(transformers.OPTConfig(max_position_embeddings=40, **SIZES[size])))


def ours(theirs: torch.nn.Module) -> MultimodalDecoder:
    spec = opt_spec(theirs.config.to_dict())
    language = opt(spec)
    state = hub_opt(spec).load(theirs.state_dict())
    language.load_state_dict(state)
    return MultimodalDecoder(language).eval()


def decoder() -> MultimodalDecoder:
    return randomise(MultimodalDecoder(opt(SPEC)))


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", SIZES)
def test_logits_of_unequal_prompts_equal_transformers_wherever_it_pads(size: str, side: str) -> None:
    theirs = reference(size)
    assert equals_transformers(ours(theirs), theirs, side)


@pytest.mark.parametrize("size", SIZES)
def test_keys_round_trip_bitwise_and_numbers_come_back(size: str) -> None:
    theirs = reference(size)
    spec = opt_spec(theirs.config.to_dict())
    keys, state = hub_opt(spec), theirs.state_dict()
    assert come_back_bitwise(keys, state, but="lm_head.weight" if spec.tied else "")
    assert opt_spec(opt_config(spec)) == spec
    bare = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    assert bare_opt(spec).load(bare).keys() == keys.load(state).keys()


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (OptSpec(), 2_651_596_800),
        (OptSpec(dim=4096, hidden=16384), 6_658_473_984),
        (OptSpec(dim=1024, hidden=4096, layers=24, heads=16, words=512, norms="after"), 331_196_416),
    ],
    ids=["2.7b", "6.7b", "350m"],
)
def test_full_sizes_have_the_count_of_the_published_modules(spec: OptSpec, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in opt(spec).parameters()) == count
        theirs = transformers.OPTForCausalLM(transformers.OPTConfig(**opt_config(spec)))
        assert sum(p.numel() for p in theirs.parameters()) == count


def test_what_is_not_built_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="activation 'silu'"):
        opt_spec({"model_type": "opt", "activation_function": "silu"})
    with pytest.raises(ValueError, match="_remove_final_layer_norm"):
        opt_spec({"model_type": "opt", "_remove_final_layer_norm": True})


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache, 1, 4])
@pytest.mark.parametrize("norms", ["before", "after"])
def test_cached_sessions_equal_recomputing(cache: type | int, norms: str) -> None:
    system = randomise(MultimodalDecoder(opt(replace(SPEC, norms=norms))))
    assert cached_equals_recompute(system, PROMPTS, cache_of(cache, len(PROMPTS)))


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 2, 100])
def test_the_shared_session_equals_recomputing_however_prompts_are_cut(most: int) -> None:
    assert shared_equals_recompute(decoder(), [*PROMPTS, PROMPTS[0]], tokens=80, page=2, most=most, media_bytes=0)


@torch.no_grad()
def test_rows_stand_alone_also_packed() -> None:
    system = decoder()
    assert rows_stand_alone(system, PROMPTS)
    assert documents_stand_alone(system, PROMPTS, capacity=13)


@torch.no_grad()
def test_a_step_through_the_compiler_s_cache_is_the_same() -> None:
    assert compiled_equals_recompute(decoder())


def test_gradients_reach_every_parameter() -> None:
    assert every_parameter_learns(randomise(MultimodalDecoder(opt(replace(SPEC, tied=False, words=12)))))
