"""MPT against transformers' own module, random and tiny; MPT-1B's norms spelt out; cached forms against reading all again."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scops.checkpoints.hub_mpt import MOSAIC_GPT, hub_mpt, mpt_config, mpt_spec
from scops.language.mpt import MptSpec, mpt
from scops.models.decoder import MultimodalDecoder
from scops.nn.cache import FixedCache, GrowingCache
from scops.ops.alibi import alibi
from tests.conftest import batch_of, close, randomise
from tests.language.claims import PROMPTS, equals_transformers, every_parameter_learns
from tests.twins import cache_of, cached_equals_recompute, come_back_bitwise, shared_equals_recompute

transformers = pytest.importorskip("transformers")

BASE = {"vocab_size": 61, "d_model": 24, "n_layers": 3, "n_heads": 4, "max_seq_len": 40}
SIZES = {
    "four heads": {},
    "six heads, held": {"n_heads": 6, "attn_config": {"clip_qkv": 0.6}, "layer_norm_epsilon": 1e-3},
    "five heads": {"d_model": 30, "n_heads": 5},  # transformers takes 8 whatever alibi_bias_max says
    "a head of its own": {"tie_word_embeddings": False},
}
SPEC = MptSpec(dim=24, layers=2, heads=3, vocab=53, norms="qk", clip=0.8)


def reference(size: str) -> torch.nn.Module:
    return randomise(transformers.MptForCausalLM(transformers.MptConfig(**BASE | SIZES[size])), 0.3)


def ours(theirs: torch.nn.Module) -> MultimodalDecoder:
    spec = mpt_spec(theirs.config.to_dict())
    language = mpt(spec)
    language.load_state_dict(hub_mpt(spec).load(theirs.state_dict()))
    return MultimodalDecoder(language).eval()


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_logits_of_unequal_prompts_equal_transformers(size: str) -> None:
    theirs = reference(size)
    assert equals_transformers(ours(theirs), theirs)


@pytest.mark.parametrize(("heads", "most"), [(1, 8), (2, 8), (5, 4), (6, 8), (16, 8), (25, 16), (32, 8)])
def test_slopes_equal_transformers(heads: int, most: int) -> None:
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    expected_N = -build_mpt_alibi_tensor(heads, 2, most)[:, 0, 0]
    assert close(torch.tensor(alibi(heads, most).slopes), expected_N)


@pytest.mark.parametrize("size", SIZES)
def test_keys_round_trip_bitwise_and_numbers_come_back(size: str) -> None:
    theirs = reference(size)
    spec, state = mpt_spec(theirs.config.to_dict()), theirs.state_dict()
    assert come_back_bitwise(hub_mpt(spec), state, but="lm_head.weight" if spec.tied else "")
    assert mpt_spec(mpt_config(spec)) == spec


def attended(x_BTD: Tensor, theirs: dict[str, Tensor], heads: int, clip: float) -> Tensor:
    """MPT-1B's attention spelt out: bounds, norms over the whole width, then heads."""
    q, k, v = (x_BTD @ theirs["Wqkv.weight"].T).clamp(-clip, clip).chunk(3, -1)
    norm = lambda x, name: torch.nn.functional.layer_norm(x, x.shape[-1:], theirs[f"{name}_ln.weight"])
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (norm(q, "q"), norm(k, "k"), v))
    tokens = x_BTD.shape[1]
    far_TS = torch.arange(tokens) - torch.arange(tokens)[:, None]
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + torch.tensor(alibi(heads).slopes)[:, None, None] * far_TS
    found = scores.masked_fill(far_TS > 0, -torch.inf).softmax(-1) @ v
    return found.transpose(1, 2).flatten(2) @ theirs["out_proj.weight"].T


@torch.no_grad()
def test_queries_and_keys_of_mpt_1b_are_normed_over_their_whole_width() -> None:
    system = randomise(MultimodalDecoder(mpt(SPEC)))
    state = hub_mpt(SPEC, MOSAIC_GPT).save(system.language.state_dict())
    assert {name for name in state if "blocks.1." in name} == {
        f"transformer.blocks.1.{name}.weight"
        for name in (
            "ln_1",
            "ln_2",
            "attn.Wqkv",
            "attn.q_ln",
            "attn.k_ln",
            "attn.out_proj",
            "mlp.mlp_up",
            "mlp.mlp_down",
        )
    }
    theirs = {name.removeprefix("transformer.blocks.1.attn."): tensor for name, tensor in state.items()}
    seen = []
    body = system.language.blocks[1].attn.body
    body.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    system(batch_of(PROMPTS[0]))
    x_BTD, made_BTD = seen[0]
    assert close(made_BTD, attended(x_BTD, theirs, SPEC.heads, SPEC.clip))
    assert come_back_bitwise(hub_mpt(SPEC, MOSAIC_GPT), state)


def test_the_config_of_mpt_1b_is_read() -> None:
    """mosaicml/mpt-1b-redpajama-200b."""
    spec = mpt_spec({
        "model_type": "mosaic_gpt", "d_model": 2048, "n_heads": 16, "n_layers": 24, "mlp_ratio": 4, "max_seq_len": 2048,
        "vocab_size": 50368, "attn_qk_ln": True, "attn_clip_qkv": None, "attn_impl": "torch", "attn_pdrop": 0,
        "alibi": True, "alibi_bias_max": 8, "no_bias": True, "softmax_scale": None,
    })  # fmt: skip
    assert spec == MptSpec(dim=2048, layers=24, heads=16, vocab=50368, norms="qk")


def test_mpt_7b_has_the_published_count() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in mpt(MptSpec()).parameters()) == 6_649_286_656


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"no_bias": False}, "no_bias"),
        ({"attn_config": {"alibi": False}}, "alibi"),
        ({"attn_config": {"attn_type": "multiquery_attention"}}, "attn_type"),
        ({"logit_scale": 0.5}, "logit_scale"),
    ],
)
def test_what_no_published_size_has_is_refused_by_name(config: dict, named: str) -> None:
    with pytest.raises(ValueError, match=f"this MPT has a {named} that no published size has"):
        mpt_spec(config)


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_sessions_equal_recomputing(cache: type) -> None:
    system = randomise(MultimodalDecoder(mpt(SPEC)))
    assert cached_equals_recompute(system, PROMPTS, cache_of(cache, 3))


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 2, 100])
def test_the_shared_session_equals_recomputing_however_prompts_are_cut(most: int) -> None:
    system, examples = randomise(MultimodalDecoder(mpt(SPEC))), [*PROMPTS, PROMPTS[0]]
    assert shared_equals_recompute(system, examples, tokens=80, page=2, most=most, media_bytes=0)


def test_gradients_reach_every_parameter() -> None:
    assert every_parameter_learns(randomise(MultimodalDecoder(mpt(replace(SPEC, tied=False, clip=None)))))
