"""BLOOM against transformers' own module, random and tiny; and its cached forms against reading everything again."""

from dataclasses import replace

import pytest
import torch

from scops.checkpoints.hub_bloom import bloom_config, bloom_spec, hub_bloom
from scops.data.collate import pack
from scops.language.bloom import BloomSpec, bloom
from scops.models.compiled import CompiledSteps
from scops.models.decoder import MultimodalDecoder
from scops.nn.cache import FixedCache, GrowingCache
from scops.nn.paged import PagedCache, PagedRow, Pages
from scops.ops.alibi import alibi
from tests.conftest import batch_of, close, example, randomise
from tests.twins import cached_equals_recompute, shared_equals_recompute

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
PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [4], [5, 6, 7]]


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
    rows = [torch.randint(1, 30, (n,)) for n in (23, 1, 8)]
    made = ours(theirs)(batch_of(*(example(row.tolist()) for row in rows)))
    ids, real = torch.full((3, 23), 3), torch.zeros(3, 23, dtype=torch.long)
    for at, row in enumerate(rows):
        here = slice(23 - len(row), None) if side == "left" else slice(len(row))
        ids[at, here], real[at, here] = row, 1
    found = theirs(ids, attention_mask=real).logits
    for at, row in enumerate(rows):
        assert close(made[at, : len(row)], found[at][real[at].bool()])


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
    back = keys.save(keys.load(state))
    assert set(state) - set(back) == ({"lm_head.weight"} if spec.tied else set())
    assert all(torch.equal(back[name], state[name]) for name in back)
    assert bloom_spec(bloom_config(spec)) == spec


def test_bloom_7b1_has_the_published_count() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in bloom(BloomSpec()).parameters()) == 7_069_016_064


def test_residuals_behind_the_norms_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="apply_residual_connection_post_layernorm"):
        bloom_spec({"model_type": "bloom", "apply_residual_connection_post_layernorm": True})


@torch.no_grad()
@pytest.mark.parametrize("kind", ["fixed", "growing", "pages of 1", "pages of 4"])
def test_cached_sessions_equal_recomputing(kind: str) -> None:
    system, examples = decoder(), [example(ids) for ids in PROMPTS]
    if kind.startswith("pages"):
        cache = PagedCache(Pages(60, size=int(kind[-1])), [PagedRow() for _ in examples])
    else:
        cache = FixedCache(3, 20) if kind == "fixed" else GrowingCache(3)
    assert cached_equals_recompute(system, examples, cache)


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 2, 100])
def test_the_shared_session_equals_recomputing_however_prompts_are_cut(most: int) -> None:
    examples = [example(ids) for ids in [*PROMPTS, PROMPTS[0]]]
    assert shared_equals_recompute(decoder(), examples, tokens=80, page=2, most=most, media_bytes=0)


@torch.no_grad()
def test_a_packed_row_equals_each_document_alone() -> None:
    system, examples = decoder(), [example(ids) for ids in PROMPTS]
    batch = pack(examples, capacity=13, pad_id=0)
    assert batch.packed
    made = torch.cat([system(batch_of(one))[0] for one in examples])
    assert close(system(batch)[0, :13], made)


@torch.no_grad()
def test_a_step_through_the_compiler_s_cache_is_the_same() -> None:
    system = decoder()
    steps = CompiledSteps(system.language, say=lambda words: None)
    steps.compiled = steps._step  # the same computation without waiting for a compiler
    assert cached_equals_recompute(system, [example(ids) for ids in PROMPTS], FixedCache(3, 20), steps=steps)


def test_gradients_reach_every_parameter() -> None:
    system = randomise(MultimodalDecoder(bloom(replace(SPEC, tied=False)))).train()
    system(batch_of(*map(example, PROMPTS))).square().sum().backward()
    assert not [name for name, p in system.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
