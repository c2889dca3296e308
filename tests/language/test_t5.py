"""T5 against transformers' own module, random and tiny; and its cached forms against reading everything again."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scops.checkpoints.hub_t5 import hub_t5, t5_config, t5_spec
from scops.core.batch import Example
from scops.language.t5 import T5Decoder, T5Encoder, T5Spec
from scops.models.encoder_decoder import READ, EncoderDecoder
from scops.nn.cache import FixedCache, GrowingCache
from scops.nn.training import train_blocks
from scops.ops.relative import one_sided, two_sided
from tests.conftest import batch_of, close, randomise
from tests.twins import cache_of, greedy, replies_equal_recompute, rows_stand_alone, shared_equals_recompute

transformers = pytest.importorskip("transformers")

SIZES: dict[str, dict[str, Any]] = {
    "1.1": {
        "vocab_size": 61, "d_model": 24, "d_ff": 36, "num_layers": 3, "num_heads": 4, "d_kv": 5,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    },
    "first": {"vocab_size": 47, "d_model": 18, "d_ff": 22, "num_layers": 2, "num_heads": 3, "d_kv": 6},
    "as LAVIS has it": {
        "vocab_size": 31, "d_model": 12, "d_ff": 36, "num_layers": 1, "num_heads": 2, "d_kv": 7,
        "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu", "tie_word_embeddings": False,
    },
    "few buckets, a longer decoder": {
        "vocab_size": 41, "d_model": 20, "d_ff": 30, "num_layers": 1, "num_decoder_layers": 3, "num_heads": 2, "d_kv": 8,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 11, "feed_forward_proj": "gated-silu",
        "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False,
    },
}  # fmt: skip
GREEDY = {"do_sample": False, "decoder_start_token_id": 0, "min_new_tokens": 12, "use_cache": False}  # never its end, 1
SPEC = T5Spec(dim=24, hidden=36, layers=2, heads=4, head_dim=5, vocab=53, buckets=8, farthest=9)
ROWS = [([8, 9, 7, 1], [0]), ([1], [0, 4, 5]), ([6, 5, 4, 3, 9, 8, 7, 5, 6, 7, 8, 1], [0, 9, 8, 6]), ([2, 1], [0, 3])]


def reference(size: str) -> nn.Module:
    made = transformers.T5ForConditionalGeneration(transformers.T5Config(**SIZES[size]))
    if SIZES[size].get("tie_word_embeddings") is False:  # transformers 5 ties in any case, and unties by what it loads
        made.lm_head.weight = nn.Parameter(torch.empty_like(made.lm_head.weight))
    return randomise(made)


def spec_of(theirs: nn.Module, size: str) -> T5Spec:
    config = theirs.config.to_dict() | {"tie_word_embeddings": SIZES[size].get("tie_word_embeddings", True)}
    return t5_spec(config)


def built(spec: T5Spec) -> EncoderDecoder:
    decoder = T5Decoder(spec, READ)
    return EncoderDecoder(T5Encoder(spec, decoder.embed), decoder)


def ours(theirs: nn.Module, size: str) -> EncoderDecoder:
    spec = spec_of(theirs, size)
    system = built(spec)
    system.load_state_dict(hub_t5(spec).load(theirs.state_dict()))
    return system.eval()


def row(prompt: list[int], reply: list[int]) -> Example:
    ids = np.array(prompt + reply)
    return Example(ids, np.arange(len(ids)) > len(prompt), reply=len(prompt))


def rows() -> list[Example]:
    return [row(*one) for one in ROWS]


@pytest.fixture
def system() -> EncoderDecoder:
    return randomise(built(SPEC))


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_logits_of_unequal_rows_equal_transformers(size: str) -> None:
    theirs = reference(size)
    lengths = (23, 4), (1, 9), (8, 1)
    prompts, replies = ([torch.randint(1, 30, (pair[at],)) for pair in lengths] for at in range(2))
    rows = [row(p.tolist(), [0, *r.tolist()]) for p, r in zip(prompts, replies, strict=True)]
    made = ours(theirs, size)(batch_of(*rows))
    ids, real = torch.full((3, 23), 3), torch.zeros(3, 23, dtype=torch.long)
    written = torch.full((3, 10), 5)
    for at, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        ids[at, : len(prompt)], real[at, : len(prompt)] = prompt, 1
        written[at, : len(reply) + 1] = torch.tensor([0, *reply.tolist()])
    found = theirs(input_ids=ids, attention_mask=real, decoder_input_ids=written).logits
    for at, (prompt, reply) in enumerate(lengths):
        assert close(made[at, prompt : prompt + reply + 1], found[at, : reply + 1])


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_greedy_replies_equal_transformers(size: str) -> None:
    theirs = reference(size)
    prompt = torch.randint(2, 30, (1, 9))
    found = theirs.generate(prompt, max_new_tokens=12, **GREEDY)[0, 1:]
    session = ours(theirs, size).session(batch_of(row(prompt[0].tolist(), [0])), capacity=20)
    assert greedy(session, 12, but=1)[0].tolist() == found.tolist()


@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (8, 11), (10, 20), (6, 40)])
def test_buckets_equal_transformers(buckets: int, farthest: int) -> None:
    theirs = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    distance = torch.arange(-300, 300)
    for both, numbered_ in ((True, two_sided), (False, one_sided)):
        expected = theirs(distance, bidirectional=both, num_buckets=buckets, max_distance=farthest)
        assert torch.equal(numbered_(distance, buckets, farthest), expected)


@pytest.mark.parametrize("size", SIZES)
def test_keys_round_trip_bitwise_and_numbers_come_back(size: str) -> None:
    theirs = reference(size)
    spec = spec_of(theirs, size)
    keys, state = hub_t5(spec), theirs.state_dict()
    back = keys.save(keys.load(state))
    again = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    assert set(state) - set(back) == again | ({"lm_head.weight"} if spec.tied else set())
    assert all(torch.equal(back[name], state[name]) for name in back)
    assert t5_config(t5_spec(t5_config(spec))) == t5_config(spec)


@pytest.mark.parametrize(
    ("spec", "count"),
    [(T5Spec(), 2_849_757_184), (T5Spec(dim=4096, hidden=10240, heads=64), 11_135_332_352)],
    ids=["flan-t5-xl", "flan-t5-xxl"],
)
def test_full_sizes_have_the_published_count(spec: T5Spec, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in built(spec).parameters()) == count


def test_another_feed_forward_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'gated-swish'"):
        t5_spec({"model_type": "t5", "feed_forward_proj": "gated-swish"})


@torch.no_grad()
def test_a_ragged_batch_equals_each_row_alone(system: EncoderDecoder) -> None:
    assert rows_stand_alone(system, rows())


@torch.no_grad()
@pytest.mark.parametrize("cache", [FixedCache, GrowingCache])
def test_cached_session_equals_recompute(system: EncoderDecoder, cache: type) -> None:
    assert replies_equal_recompute(system, rows(), cache_of(cache, len(rows())), more=14)


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 3])
def test_shared_session_equals_recompute(system: EncoderDecoder, most: int) -> None:
    assert shared_equals_recompute(system, rows(), tokens=90, page=3, most=most, media_bytes=0, more=12)


@pytest.mark.parametrize("scaled", [False, True])
def test_every_parameter_learns_also_where_blocks_are_run_again(scaled: bool) -> None:
    system, grads = randomise(built(replace(SPEC, tied=scaled, scaled=scaled))).train(), []
    for again in (False, True):
        train_blocks(system, again=again)
        system.zero_grad()
        system(batch_of(*rows())).square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in system.named_parameters() if p.grad is not None})
    assert grads[0].keys() == dict(system.named_parameters()).keys()
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])
