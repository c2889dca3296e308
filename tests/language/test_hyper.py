"""Hyper Attention alone against layers of the reference, and what it promises."""

import pytest
import torch
from torch import Tensor

from scops.core.batch import Where
from scops.language.hyper import GatedHyperAttention, hyper_llama
from scops.language.llama import LlamaSpec
from scops.models.beside import remembered
from scops.nn.attention import answers
from scops.nn.block import Block
from scops.nn.context import Context
from scops.ops.attention import attend
from scops.ops.masks import Causal
from scops.systems import mplug_owl3
from tests.conftest import Golden, close, randomise

SPEC = LlamaSpec(dim=24, hidden=36, layers=2, heads=4, kv_heads=2, vocab=53, rope_base=1e6, bias="qkv")


def layer(golden: Golden) -> Block:
    spec = mplug_owl3.spec_of(golden.config | {"model_type": "mplugowl3"})
    attention = "adaptive" if "self_attn.gate_proj.0.weight" in golden.weights else "fused"
    block = hyper_llama(spec.language, spec.hyper, attention, memory="image").blocks[golden.config["layer_idx"]]
    at = f"layers.{golden.config['layer_idx']}."
    named = {f"language_model.model.{at}{name}": tensor for name, tensor in golden.weights.items()}
    spec = mplug_owl3.Spec(spec.vision, spec.language, spec.hyper, attention)
    ours = mplug_owl3.KEYS["authors"](spec).load(named)
    block.load_state_dict({path.split(".", 3)[3]: tensor for path, tensor in ours.items()})
    return block.eval()


def context(features_MQD: Tensor, starts: list[list[int]], tokens: int) -> Context:
    rows = tuple(row for row, at in enumerate(starts) for _ in at)
    where = Where(torch.zeros(0, dtype=torch.long), rows, tuple(s for at in starts for s in at), (0,) * len(rows))
    memory = remembered(features_MQD, where, ((0,),) * len(starts), tokens=tokens)
    positions_BT = torch.arange(tokens).expand(len(starts), -1)
    return Context(positions_BT, Causal(), memories={"image": memory})


@torch.no_grad()
def test_every_probe_of_a_gated_layer_equals_the_reference() -> None:
    golden = Golden("owl3_hyper_layer")
    block, out = layer(golden), golden.outputs
    attn, x_BTD, e_MQD = block.attn, golden.inputs["hidden_states"], golden.inputs["image_embeds"]
    assert isinstance(attn, GatedHyperAttention)
    starts, tokens = golden.config["image_first_positions"], x_BTD.shape[1]
    ctx = context(e_MQD, [starts], tokens)
    k, v = (x.unflatten(1, (2, -1)) for x in attn.of_items(e_MQD))  # key heads apart, as published: head, K/V, channel
    kv = torch.stack([k.flatten(1, 2), v.flatten(1, 2)], 2).permute(0, 3, 1, 2, 4).flatten(2)
    assert close(kv, out["visual_kv"])
    k, v = answers(attn, ctx)
    assert close(k, out["visual_key_rotated"])
    q, c_BNTH = attn.body.attended(attn.norm(x_BTD), ctx)
    found_BTD = attend(q, k, v, attn.visible(q, ctx)).transpose(1, 2).flatten(2)
    assert close(found_BTD[:, starts[0] + 1 :], out["visual_context"])
    assert found_BTD[:, : starts[0] + 1].abs().max() == 0
    assert close(attn.gate(c_BNTH), out["gate"])
    caught = []
    attn.body.o.register_forward_pre_hook(lambda module, given: caught.append(given[0]))
    assert close(block(x_BTD, ctx), out["hidden_states_out"])
    assert close(caught[0], out["fused_context"])
    assert close(block(x_BTD, Context(ctx.positions_BT, Causal())), out["hidden_states_out_without_image"])
    batch = golden.inputs["batch_hidden_states"]
    both = context(golden.inputs["batch_image_embeds"], golden.config["batch_image_first_positions"], batch.shape[1])
    assert close(block(batch, both), out["batch_hidden_states_out"])


@torch.no_grad()
def test_every_probe_of_a_fused_layer_equals_the_reference() -> None:
    golden = Golden("owl3_fused_layer")
    block, x_BTD = layer(golden), golden.inputs["hidden_states"]
    caught = []
    block.attn.body.o.register_forward_pre_hook(lambda module, given: caught.append(given[0]))
    ctx = context(golden.inputs["image_embeds"], golden.config["image_first_positions"], x_BTD.shape[1])
    assert close(block(x_BTD, ctx), golden.outputs["hidden_states_out"])
    assert close(caught[0], golden.outputs["fused_context"])


@torch.no_grad()
def test_a_static_gate_is_the_sigmoid_of_one_number_per_channel() -> None:
    attn = randomise(hyper_llama(SPEC, (1,), "static", memory="image")).blocks[0].attn
    x_BTD, e_MQD = torch.randn(1, 7, 24), torch.randn(2, 3, 24)
    ctx = context(e_MQD, [[1, 4]], 7)
    q, c_BNTH = attn.body.attended(attn.norm(x_BTD), ctx)
    found = attend(q, *answers(attn, ctx), attn.visible(q, ctx))
    c_BTD, found_BTD = (x.transpose(1, 2).flatten(2) for x in (c_BNTH, found))
    g_D = attn.gate.weight.sigmoid()
    mixed = torch.cat([c_BTD[:, :2], (c_BTD * (1 - g_D) + found_BTD * g_D)[:, 2:]], 1)
    assert close(attn(x_BTD, ctx), x_BTD + attn.body.o(mixed))


@pytest.mark.parametrize("arrangement", ["adaptive", "static", "fused"])
def test_gradients_are_finite_where_tokens_see_no_picture(arrangement: str) -> None:
    language = randomise(hyper_llama(SPEC, (1, 2), arrangement, memory="image"))
    e_MQD = torch.randn(2, 3, 24, requires_grad=True)
    ctx = context(e_MQD, [[], [2, 5]], 8)
    language.hidden(torch.randn(2, 8, 24), ctx).square().sum().backward()
    grads = {name: p.grad for name, p in language.named_parameters() if name.startswith("blocks")} | {"e": e_MQD.grad}
    assert all(grad is not None and grad.isfinite().all() and grad.abs().max() > 0 for grad in grads.values())


@torch.no_grad()
@pytest.mark.parametrize(("arrangement", "first"), [("adaptive", 3), ("static", 3), ("fused", 2)])
def test_a_picture_is_seen_from_its_place_on_and_never_before(arrangement: str, first: int) -> None:
    language = randomise(hyper_llama(SPEC, (1, 2), arrangement, memory="image"))
    x_BTD, e_MQD = torch.randn(1, 6, 24), torch.randn(1, 3, 24)
    here, other = (language.hidden(x_BTD, context(e, [[2]], 6)) for e in (e_MQD, e_MQD + 1))
    moved_T = (here - other).abs().amax(-1)[0]
    assert moved_T[:first].max() == 0
    assert moved_T[first:].min() > 1e-4


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"layers \[0, 3\], counted from 1, but the model has 2"):
        hyper_llama(SPEC, (0, 1, 3), "fused", memory="image")
