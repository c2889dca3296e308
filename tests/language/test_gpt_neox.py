"""GPT-NeoX against transformers' own module, random and tiny; and its cached forms against reading everything again."""

from dataclasses import replace

import pytest
import torch

from scops.checkpoints.hub_gpt_neox import HEADS, gpt_neox_config, gpt_neox_spec, hub_gpt_neox
from scops.language.gpt_neox import GptNeoxSpec, gpt_neox
from scops.models.decoder import MultimodalDecoder
from scops.nn.cache import FixedCache, GrowingCache
from scops.ops.rope import turned
from tests.conftest import randomise
from tests.language.claims import PROMPTS, equals_transformers, every_parameter_learns
from tests.twins import (
    cache_of,
    cached_equals_recompute,
    come_back_bitwise,
    documents_stand_alone,
    shared_equals_recompute,
)

transformers = pytest.importorskip("transformers")

BASE = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 36}
SIZES = {
    "one after the other": {"use_parallel_residual": False, "rotary_pct": 1.0},
    "side by side, a third turned": {"use_parallel_residual": True, "rotary_pct": 0.34, "layer_norm_eps": 1e-3},
    "another base": {"rotary_pct": 0.67, "rotary_emb_base": 500, "hidden_act": "gelu_new", "tie_word_embeddings": True},
    "no biases": {"attention_bias": False, "num_attention_heads": 3, "hidden_act": "relu"},
    "interpolated": {"rope_scaling": {"rope_type": "linear", "factor": 3.0, "partial_rotary_factor": 0.5}},
}
SPEC = GptNeoxSpec(dim=24, hidden=36, layers=2, heads=4, vocab=53, rotary=0.5)


def reference(size: str) -> torch.nn.Module:
    return randomise(transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**BASE | SIZES[size])))


def ours(theirs: torch.nn.Module) -> MultimodalDecoder:
    spec = gpt_neox_spec(theirs.config.to_dict())
    language = gpt_neox(spec)
    language.load_state_dict(hub_gpt_neox(spec).load(theirs.state_dict()))
    return MultimodalDecoder(language).eval()


def decoder(**changes: object) -> MultimodalDecoder:
    return randomise(MultimodalDecoder(gpt_neox(replace(SPEC, **changes))))


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_logits_of_unequal_prompts_equal_transformers(size: str) -> None:
    theirs = reference(size)
    assert equals_transformers(ours(theirs), theirs)


@pytest.mark.parametrize("size", SIZES)
def test_keys_round_trip_bitwise_and_numbers_come_back(size: str) -> None:
    theirs = reference(size)
    spec, state = gpt_neox_spec(theirs.config.to_dict()), theirs.state_dict()
    keys = hub_gpt_neox(spec)
    assert come_back_bitwise(keys, state, but="lm_head.weight" if spec.tied else "")
    assert gpt_neox_spec(gpt_neox_config(spec)) == spec


def test_published_files_name_the_head_otherwise_and_carry_masks() -> None:
    state = reference("one after the other").state_dict()
    published = {name.replace("lm_head", "embed_out"): tensor for name, tensor in state.items()}
    spec = gpt_neox_spec(BASE | SIZES["one after the other"])
    assert come_back_bitwise(hub_gpt_neox(spec, HEADS[1]), published)
    masks = {
        f"gpt_neox.layers.0.attention.{name}": torch.zeros(1) for name in ("bias", "masked_bias", "rotary_emb.inv_freq")
    }
    assert hub_gpt_neox(spec, HEADS[1]).load(published | masks).keys() == hub_gpt_neox(spec).load(state).keys()


def test_redpajama_3b_has_the_published_shapes() -> None:
    with torch.device("meta"):
        language = gpt_neox(GptNeoxSpec())
    block = 4 * (2560 * 2560 + 2560) + 2 * 2560 * 10240 + 2560 + 10240 + 4 * 2560
    assert sum(p.numel() for p in language.parameters()) == 32 * block + 2 * 50432 * 2560 + 2 * 2560


def test_an_unknown_activation_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="activation 'gelu_quick'; did you mean"):
        gpt_neox_spec({"hidden_act": "gelu_quick"})


@torch.no_grad()
def test_channels_without_an_angle_stay_bit_by_bit() -> None:
    x, angles = torch.randn(1, 2, 3, 10), torch.randn(1, 1, 3, 2).repeat(1, 1, 1, 2)
    made = turned(x, angles.cos(), angles.sin())
    assert torch.equal(made[..., 4:], x[..., 4:])
    assert torch.equal(made[..., :4], turned(x[..., :4], angles.cos(), angles.sin()))


@torch.no_grad()
@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_equal_recomputing(cache: type, parallel: bool) -> None:
    assert cached_equals_recompute(decoder(parallel=parallel), PROMPTS, cache_of(cache, 3))


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 2, 100])
def test_the_shared_session_equals_recomputing_however_prompts_are_cut(most: int) -> None:
    assert shared_equals_recompute(decoder(), [*PROMPTS, PROMPTS[0]], tokens=80, page=2, most=most, media_bytes=0)


@torch.no_grad()
def test_a_packed_row_equals_each_document_alone() -> None:
    assert documents_stand_alone(decoder(parallel=True), PROMPTS, capacity=13)


def test_gradients_reach_every_parameter() -> None:
    assert every_parameter_learns(decoder(parallel=True))
