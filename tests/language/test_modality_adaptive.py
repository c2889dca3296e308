"""The modality-adaptive LLaMA against a layer of X-PLUG/mPLUG-Owl, with grouped heads, and begun from a plain LLaMA."""

from dataclasses import replace

import pytest
import torch

from scops.checkpoints.hub_llama import HUB_LLAMA
from scops.checkpoints.hub_modality_adaptive import LLAMA_INTO_BOTH, MODALITY_ADAPTIVE, twice
from scops.checkpoints.keymap import KeyMap, KeyMismatch
from scops.checkpoints.keymap import same as kept
from scops.checkpoints.sources import Source, assemble
from scops.core.batch import Batch, Route
from scops.language.llama import LlamaSpec, llama
from scops.language.modality_adaptive import block, modality_adaptive
from scops.models.cached import CachedSession
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.models.recompute import Recompute
from scops.native.library import library
from scops.native.steps import Steps
from scops.nn.attention import number_slots
from scops.nn.cache import FixedCache, GrowingCache
from scops.nn.context import Context
from scops.ops.masks import Causal, Real
from scops.ops.rope import plain
from scops.systems.llama import language_spec
from tests.conftest import Golden, batch_of, close, example, randomise

GROUPED = LlamaSpec(dim=24, hidden=40, layers=3, heads=4, kv_heads=2, vocab=53, eps=1e-5)


def route_of(modality_BT: torch.Tensor) -> Route:
    flat = modality_BT.flatten()
    index = tuple((flat == expert).nonzero()[:, 0] for expert in range(2))
    return Route(index, torch.cat(index).argsort())


@torch.no_grad()
def test_a_layer_and_its_cached_step_equal_the_reference() -> None:
    golden = Golden("owl2_mam_layer")
    spec, out = language_spec(golden.config), golden.outputs
    layer = block(spec, plain(spec.head_width)).eval()
    number_slots(layer)
    names = {"self_attn.q_proj": "q", "self_attn.o_proj": "o"}
    mlp = {"mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down"}
    keys = KeyMap(
        twice("", ""),
        *(kept(f"{theirs}.weight", f"attn.body.{ours}.weight") for theirs, ours in names.items()),
        *(kept(f"{theirs}.weight", f"mlp.body.{ours}.weight") for theirs, ours in mlp.items()),
    )
    weights = {name: tensor for name, tensor in golden.weights.items() if not name.endswith("inv_freq")}
    layer.load_state_dict(keys.load(weights))
    x_BTD, real_BT = golden.inputs["hidden_states"], golden.inputs["attention_mask"].bool()
    rows, tokens = real_BT.shape
    visible = (Causal() & Real(real_BT)).dense(rows, tokens, tokens, "cpu")
    cache = GrowingCache(rows)
    cache.reserve([tokens] * rows)
    places_BT = torch.arange(tokens).expand(rows, -1)
    ctx = Context(places_BT, visible, route_of(golden.inputs["modality_indicators"]), cache=cache)
    normed_BTD = layer.attn.norm(x_BTD, ctx)
    assert close(normed_BTD, out["input_layernorm"])
    assert close(layer.attn.body.k(normed_BTD, ctx), out["key_proj"])
    assert close(layer(x_BTD, ctx), out["hidden_states_out"])
    assert all(close(made, out[name]) for made, name in zip(cache.slots[0], ("past_key", "past_value"), strict=True))
    cache.advance(torch.full((rows,), tokens))
    seen = torch.cat([real_BT, torch.ones(rows, 1, dtype=torch.bool)], 1)[:, None, None]
    step = Context(torch.full((rows, 1), tokens), seen, cache=cache)
    assert close(layer(golden.inputs["step_hidden_states"], step), out["step_hidden_states_out"])


@torch.no_grad()
def test_a_plain_llama_begins_both_experts_so_that_media_and_text_are_treated_alike() -> None:
    plainly = randomise(llama(GROUPED))
    published = HUB_LLAMA.save(plainly.state_dict())
    doubled = modality_adaptive(GROUPED)
    assemble(doubled, [Source(published, LLAMA_INTO_BOTH)])
    x_BTD, route = torch.randn(2, 7, 24), route_of(torch.tensor([[0, 1, 1, 0, 1, 0, 0]] * 2))
    places_BT = torch.arange(7).expand(2, -1)
    expected = plainly.hidden(x_BTD, Context(places_BT, Causal()))
    assert close(doubled.eval().hidden(x_BTD, Context(places_BT, Causal(), route)), expected)


def test_experts_that_are_still_equal_are_one_llama_again_and_others_are_not() -> None:
    plainly = llama(GROUPED)
    published = HUB_LLAMA.save(plainly.state_dict())
    state = LLAMA_INTO_BOTH.load(published)
    back = LLAMA_INTO_BOTH.save(state)
    assert back.keys() == published.keys()
    assert all(torch.equal(back[name], published[name]) for name in published)
    state["blocks.1.attn.body.k.experts.1.weight"] += 1
    with pytest.raises(KeyMismatch, match=r"blocks\.1\.attn\.body\.k.*differ by now"):
        LLAMA_INTO_BOTH.save(state)


def test_names_of_every_expert_come_back_bitwise() -> None:
    for bias in ("", "qkv", "qkvo"):
        spec = LlamaSpec(dim=24, hidden=40, layers=2, heads=4, kv_heads=2, vocab=53, bias=bias)
        state = randomise(modality_adaptive(spec)).state_dict()
        back = MODALITY_ADAPTIVE.load(MODALITY_ADAPTIVE.save(state))
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], state[name]) for name in state)


def batches() -> list[Batch]:
    """Prompts of unequal length in which tokens are marked as media at no, some and all places."""
    spans = [((1, 3), (6, 2)), (), ((0, 2),)]
    rows = [example(list(range(1, 10)), spans[0]), example([4, 5]), example([7, 8], spans[2])]
    media = [torch.randn(sum(length for _, length in some), 24) for some in spans]
    return [_connected([row], [tokens]) for row, tokens in zip(rows, media, strict=True)] + [_connected(rows, media)]


def _connected(rows: list, media: list[torch.Tensor]) -> Batch:
    tokens = torch.cat(media)
    batch = batch_of(*rows)
    return replace(batch, connected={"image": tokens} if len(tokens) else {})


def decoder() -> MultimodalDecoder:
    nothing = MediaInput(torch.nn.Identity(), torch.nn.Identity(), Inline())
    return randomise(MultimodalDecoder(modality_adaptive(GROUPED), image=nothing))


@torch.no_grad()
@pytest.mark.skipif(library() is None, reason="no compiler here")
def test_steps_of_the_first_expert_go_through_the_kernels_and_equal_recomputing() -> None:
    system = decoder()
    assert all(Steps(system.language).known)
    *alone, together = batches()
    ids_BS = torch.randint(1, 50, (3, 6))
    fast = CachedSession(system, together, FixedCache(3, 16))
    slow = CachedSession(system, together, GrowingCache(3), steps=system.language)
    again = Recompute(system, alone)
    for ids_B in ids_BS.T:
        assert close(fast.step(ids_B), slow.step(ids_B))
        assert close(fast.logits_BV, again.step(ids_B))


@torch.no_grad()
@pytest.mark.skipif(library() is None, reason="no compiler here")
def test_kernels_leave_tokens_with_a_route_alone() -> None:
    system = decoder()
    steps, cache = Steps(system.language), FixedCache(1, 4)
    cache.reserve([1])
    x_11D = torch.randn(1, 1, 24)
    ctx = Context(torch.zeros(1, 1, dtype=torch.long), cache.visible(1), route_of(torch.ones(1, 1)), cache=cache)
    assert not steps.takes(x_11D, ctx)
    made = steps.hidden(x_11D, ctx)
    assert close(made, system.language.hidden(x_11D, Context(ctx.positions_BT, Causal(), ctx.route)))
