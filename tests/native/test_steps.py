"""A language model's steps through the kernels against its own modules."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from scops.core.stage import Lora
from scops.language.bloom import BloomSpec, bloom
from scops.language.gpt_neox import GptNeoxSpec, gpt_neox
from scops.language.llama import LlamaSpec, llama
from scops.language.mpt import MptSpec, mpt
from scops.language.opt import OptSpec, opt
from scops.models.cached import CachedSession
from scops.models.decoder import MultimodalDecoder
from scops.models.recompute import Recompute
from scops.native.library import library
from scops.native.matrix import Quantised
from scops.native.quantise import quantise
from scops.native.steps import Steps, steps_of
from scops.nn import lora
from scops.nn.cache import FixedCache, GrowingCache
from scops.nn.context import Context
from scops.nn.paged import PagedCache, PagedRow, Pages
from tests.conftest import batch_of, close, example, randomise

pytestmark = pytest.mark.skipif(library() is None, reason="no compiler here")
FAMILY = {
    "llama": {},
    "grouped heads": {"heads": 6, "kv_heads": 2, "head_dim": 8},
    "one key head": {"heads": 4, "kv_heads": 1},
    "qwen2": {"bias": "qkv", "tied": True},
    "all biases": {"bias": "qkvo"},
    "qwen3": {"norms": "qk", "head_dim": 10},
    "window": {"window": 3},
    "wide heads": {"dim": 64, "heads": 2, "kv_heads": 1, "head_dim": 32},
}
SIZES = {"dim": 24, "layers": 3, "heads": 4, "vocab": 53}
HIDDEN = {"hidden": 40, "context": 64}
OTHERS = {
    "opt": opt(OptSpec(**SIZES, **HIDDEN)),
    "opt without biases": opt(OptSpec(**SIZES, **HIDDEN, bias=False, affine=False)),
    "opt with gelu": opt(OptSpec(**SIZES, **HIDDEN, activation="gelu", tied=False)),
    "narrow words": opt(OptSpec(**SIZES, **HIDDEN, words=12)),
    "gpt-neox": gpt_neox(GptNeoxSpec(**SIZES, **HIDDEN, eps=1e-3)),
    "a part of each head is turned": gpt_neox(GptNeoxSpec(**SIZES, **HIDDEN, rotary=0.7, activation="gelu_new")),
    "mpt": mpt(MptSpec(**SIZES)),
    "six heads": mpt(MptSpec(dim=24, layers=2, heads=6, vocab=53, steepest=4)),
    "bloom": bloom(BloomSpec(**SIZES)),
}
"""LayerNorms, biases, plain feed-forwards, linear biases by distance."""
PART = {
    "mpt-1b": (mpt(MptSpec(**SIZES, norms="qk")), [False, True]),
    "clipped": (mpt(MptSpec(**SIZES, clip=0.5)), [False, True]),
}
"""Language models and which of their block's sub-layers kernels know."""
PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [4], [11, 12, 13]]
STEPS = 6


def decoder(**changes: object) -> MultimodalDecoder:
    sizes = {"dim": 24, "hidden": 40, "layers": 3, "heads": 4, "kv_heads": 2, "vocab": 53} | changes
    return randomise(MultimodalDecoder(llama(LlamaSpec(**sizes))))


def session(system: MultimodalDecoder, prompts: list[list[int]] = PROMPTS) -> CachedSession:
    capacity = max(map(len, prompts)) + STEPS
    return CachedSession(system, batch_of(*map(example, prompts)), FixedCache(len(prompts), capacity))


def stepping_equals_recomputing(system: MultimodalDecoder) -> bool:
    ids_BS = torch.randint(1, 50, (len(PROMPTS), STEPS))
    slow = Recompute(system, [batch_of(example(one)) for one in PROMPTS])
    return close(follow(session(system), ids_BS), follow(slow, ids_BS))


def follow(one: CachedSession | Recompute, ids_BS: torch.Tensor) -> torch.Tensor:
    return torch.stack([one.logits_BV, *(one.step(ids_B) for ids_B in ids_BS.T)])


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILY)
def test_steps_equal_recomputing(name: str) -> None:
    system = decoder(**FAMILY[name])
    assert all(Steps(system.language).known)
    assert stepping_equals_recomputing(system)


@torch.no_grad()
@pytest.mark.parametrize("name", OTHERS)
def test_other_families_steps_equal_recomputing(name: str) -> None:
    system = randomise(MultimodalDecoder(deepcopy(OTHERS[name])))
    assert all(Steps(system.language).known)
    assert stepping_equals_recomputing(system)


@torch.no_grad()
@pytest.mark.parametrize("name", PART)
def test_what_kernels_do_not_know_runs_between_them(name: str) -> None:
    language, known = PART[name]
    system = randomise(MultimodalDecoder(deepcopy(language)))
    assert Steps(system.language).known == known * 3
    assert stepping_equals_recomputing(system)


def test_norms_behind_and_parallel_branches_leave_nothing_to_the_kernels() -> None:
    assert steps_of(opt(OptSpec(**SIZES, **HIDDEN, norms="after"))) is None
    assert steps_of(gpt_neox(GptNeoxSpec(**SIZES, **HIDDEN, parallel=True))) is None


@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_long_contexts_are_read_in_chunks_by_any_number_of_threads(threads: int) -> None:
    system, prompt = decoder(layers=1), torch.randint(1, 50, (700,)).tolist()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = follow(session(system, [prompt, [5]]), torch.randint(1, 50, (2, 3)).sort().values)
        fast = session(system, [prompt])
        ids_BS = torch.tensor([[7, 8]])
        assert close(follow(fast, ids_BS), follow(Recompute(system, [batch_of(example(prompt))]), ids_BS))
        assert made.isfinite().all()
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
@pytest.mark.parametrize("length", [62, 63, 64, 127, 255, 256])
def test_rows_of_any_length_are_read_in_chunks(length: int) -> None:
    system, prompt = decoder(layers=1), torch.randint(1, 50, (length,)).tolist()
    slow, ids_BS = Recompute(system, [batch_of(example(prompt))]), torch.randint(1, 50, (1, 3))
    assert close(follow(session(system, [prompt]), ids_BS), follow(slow, ids_BS))


@torch.no_grad()
def test_linear_biases_reach_through_all_chunks() -> None:
    system, prompt = randomise(MultimodalDecoder(mpt(MptSpec(24, 1, 4, 53)))), torch.randint(1, 50, (700,)).tolist()
    ids_BS = torch.tensor([[7, 8]])
    assert close(
        follow(session(system, [prompt]), ids_BS), follow(Recompute(system, [batch_of(example(prompt))]), ids_BS)
    )


WIDE = {
    "llama": lambda: decoder(dim=64, hidden=96, heads=2, kv_heads=1, head_dim=32),
    "opt": lambda: randomise(MultimodalDecoder(opt(OptSpec(64, 96, 3, 2, 53, context=64)))),
    "mpt": lambda: randomise(MultimodalDecoder(mpt(MptSpec(64, 3, 2, 53)))),
    "bloom": lambda: randomise(MultimodalDecoder(bloom(BloomSpec(64, 3, 2, 53)))),
}


@torch.no_grad()
@pytest.mark.parametrize("name", WIDE)
def test_bfloat16_steps_are_as_close_to_float32_as_torchs_own(name: str) -> None:
    exact, brief = WIDE[name](), WIDE[name]()
    brief.load_state_dict(exact.state_dict())
    brief.bfloat16()
    exact.load_state_dict({name: t.float() for name, t in brief.state_dict().items()})
    ids_BS = torch.randint(1, 50, (len(PROMPTS), STEPS))
    wanted = follow(session(exact), ids_BS)
    slow = CachedSession(brief, batch_of(*map(example, PROMPTS)), GrowingCache(len(PROMPTS)))
    error = lambda made: (made.float() - wanted).abs()[1:].mean()
    assert error(follow(session(brief), ids_BS)) <= 1.1 * error(follow(slow, ids_BS))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_gets_the_same_bits_alone_and_among_others(dtype: torch.dtype) -> None:
    system = WIDE["llama"]().to(dtype)
    prompts = [*PROMPTS, *(torch.randint(1, 50, (length,)).tolist() for length in (63, 200, 257))]
    ids_BS = torch.randint(1, 50, (len(prompts), STEPS))
    together = follow(session(system, prompts), ids_BS)
    for row in range(len(prompts)):
        alone = session(system, prompts)
        alone.select(torch.tensor([row]))
        assert torch.equal(follow(alone, ids_BS[row : row + 1])[1:, 0], together[1:, row])


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("width", [32, 64, 96, 128, 40])
def test_bfloat16_attention_of_any_width_and_group_is_as_close_to_float32(width: int, heads: int) -> None:
    """Many tokens that are kept, few new ones: nearly all error is attention's."""
    rows, keys, pages = 2, [301, 70], torch.tensor([[4, 0, 2], [1, 3, 5]], dtype=torch.int32)
    kept = [torch.randn(6, 1, 101, width).bfloat16() for _ in range(2)]
    system = decoder(dim=heads * width, heads=heads, kv_heads=1, head_dim=width, layers=1)
    exact, brief = system, deepcopy(system).bfloat16()
    exact.load_state_dict({name: t.float() for name, t in brief.state_dict().items()})
    x_B1D = torch.randn(rows, 1, heads * width).bfloat16()

    def found(system: MultimodalDecoder, dtype: torch.dtype) -> torch.Tensor:
        pool = Pages(6, size=101)
        pool.slots[0] = kept[0].to(dtype), kept[1].to(dtype)
        cache = PagedCache(pool, [PagedRow(page.tolist(), length) for page, length in zip(pages, keys, strict=True)])
        cache.reserve([1, 1])
        ctx = Context(positions_BT=cache.lengths_B[:, None], visible=cache.visible(1), cache=cache)
        return (Steps(system.language) if dtype is torch.bfloat16 else system.language).hidden(x_B1D.to(dtype), ctx)

    wanted_B1D, made_B1D = found(exact, torch.float32), found(brief, torch.bfloat16)
    assert (made_B1D.float() - wanted_B1D).abs().max() < 0.03 * wanted_B1D.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_steps_follow_the_rounded_weights(kind: str, name: str) -> None:
    system, plain = WIDE[name](), WIDE[name]()
    plain.load_state_dict(system.state_dict())
    quantise(system, {"language": kind})
    assert all(Steps(system.language).known)
    ids_BS = torch.randint(1, 50, (len(PROMPTS), STEPS))
    slow = CachedSession(_floats(system, plain), batch_of(*map(example, PROMPTS)), GrowingCache(len(PROMPTS)))
    fast, slow_scores = follow(session(system), ids_BS), follow(slow, ids_BS)
    assert (fast - slow_scores).std() < 0.06 * slow_scores.std()  # the vectors' own rounding to int8


def _floats(system: MultimodalDecoder, plain: MultimodalDecoder) -> MultimodalDecoder:
    """The rounded weights in plain projections."""
    plain.language.head = plain.language.projection()
    for path, module in system.named_modules():
        if type(module) is Quantised:
            plain.get_submodule(path).weight = nn.Parameter(module.weight(torch.float32))
    return plain


@torch.no_grad()
def test_an_adapted_layer_takes_its_own_way_and_the_others_the_kernels() -> None:
    system = decoder()
    lora.add(system, Lora(("language.blocks.1.attn.body.q",), rank=2, alpha=4.0))
    randomise(system)
    assert Steps(system.language).known == [True, True, False, True, True, True]
    assert stepping_equals_recomputing(system)


def test_gradients_take_torchs_way() -> None:
    system = decoder()
    ids_B = torch.tensor([1, 2, 3])
    made = session(system).step(ids_B)
    with torch.no_grad():
        fast = session(system).step(ids_B)
    assert made.requires_grad
    assert close(made, fast)


@torch.no_grad()
def test_without_a_library_there_are_no_steps(monkeypatch) -> None:
    monkeypatch.setattr("scops.native.steps.library", lambda: None)
    assert steps_of(decoder().language) is None


@torch.no_grad()
def test_a_full_cache_is_told_before_anything_is_written() -> None:
    one = session(decoder())
    for _ in range(STEPS):
        one.step(torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="the cache holds 15 tokens per row, but 16 were asked for"):
        one.step(torch.tensor([1, 2, 3]))
