"""Gated cross-attention alone against the reference's block, and what it promises."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scops.checkpoints.hub_flamingo import gated_keys
from scops.core.batch import Where
from scops.language.gated import GatedSpec, gated_llama, gated_sublayers
from scops.language.llama import LlamaSpec, llama
from scops.models.beside import remembered
from scops.nn.block import Block
from scops.nn.context import Context, Memory
from scops.nn.initialise import initialise
from tests.conftest import Golden, close, randomise
from tests.twins import come_back_bitwise

SPEC = LlamaSpec(dim=24, hidden=36, layers=4, heads=4, kv_heads=2, vocab=53)


def layer(golden: Golden, *, immediate: bool = True) -> Block:
    sizes = golden.config["args"]
    spec = GatedSpec(heads=sizes["heads"], head_dim=sizes["dim_head"], times=sizes["ff_mult"], immediate=immediate)
    made = Block(**gated_sublayers(spec, sizes["dim"], memory="image", width=sizes["dim_visual"]))
    made.load_state_dict(gated_keys(immediate=immediate).load(golden.weights))
    return made.eval()


def memory_of(media_BIQD: Tensor, starts: list[list[int]], tokens: int) -> Memory:
    rows = tuple(row for row, at in enumerate(starts) for _ in at)
    where = Where(torch.zeros(0, dtype=torch.long), rows, tuple(s for at in starts for s in at), (0,) * len(rows))
    return remembered(media_BIQD.flatten(0, 1), where, ((0,),) * len(starts), tokens=tokens)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("open_flamingo_gated_xattn")


@pytest.fixture
def memory(golden: Golden) -> Memory:
    starts, tokens = golden.config["image_positions"], golden.inputs["x"].shape[1]
    assert golden.inputs["media_locations"].nonzero().tolist() == [[r, s] for r, at in enumerate(starts) for s in at]
    return memory_of(golden.inputs["media"], starts, tokens)


@torch.no_grad()
def test_every_probe_of_the_block_equals_the_reference(golden: Golden, memory: Memory) -> None:
    block, x_BTD, out = layer(golden), golden.inputs["x"], golden.outputs
    ctx = Context(memories={"image": memory})
    look = block.gated_attn
    assert close(look.body(look.norm(x_BTD), ctx), out["attn_out"])
    assert close(block(x_BTD, ctx), out["out"])
    behind = replace(memory.behind(), features_BSD=memory.features_BSD)
    assert close(block(golden.inputs["x_step"], Context(memories={"image": behind})), out["out_cached_step"])
    of_no_place = Memory(memory.features_BSD, memory.item_BS)
    assert close(block(x_BTD, Context(memories={"image": of_no_place})), out["out_no_locations"])


@torch.no_grad()
def test_text_before_the_first_picture_finds_exactly_nothing(golden: Golden, memory: Memory) -> None:
    look, x_BTD = layer(golden).gated_attn, golden.inputs["x"]
    found_BTD = look.body(look.norm(x_BTD), Context(memories={"image": memory}))
    first = golden.config["image_positions"][1][0]
    assert found_BTD[1, :first].abs().max() == 0
    assert found_BTD[1, first:].abs().amax(-1).min() > 0


def evenly(block: Block, x_BTD: Tensor, media_BIQD: Tensor, starts: list[list[int]]) -> Tensor:
    """The reference's cross-attention with only_attend_immediate_media=False, spelt out: a smallest number, not -inf, in the mask."""
    body = block.gated_attn.body
    split = lambda x: x.unflatten(-1, (-1, body.head_dim)).transpose(1, 2)
    features_BSD = media_BIQD.flatten(1, 2)
    q, k, v = (
        split(p(x))
        for p, x in ((body.q.body, block.gated_attn.norm(x_BTD)), (body.k, features_BSD), (body.v, features_BSD))
    )
    met_BT = torch.stack([torch.tensor([sum(s <= t for s in at) for t in range(x_BTD.shape[1])]) for at in starts])
    item_S = torch.arange(media_BIQD.shape[1]).repeat_interleave(media_BIQD.shape[2]) + 1
    scores = (q * body.head_dim**-0.5) @ k.transpose(-1, -2)
    scores = scores.masked_fill(met_BT[:, None, :, None] < item_S, -torch.finfo(scores.dtype).max)
    return body.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@torch.no_grad()
def test_all_earlier_pictures_and_else_the_average_of_all(golden: Golden) -> None:
    block, x_BTD, media_BIQD = layer(golden, immediate=False), golden.inputs["x"], golden.inputs["media"]
    starts = [[4, 8], [2, 6]]
    ctx = Context(memories={"image": memory_of(media_BIQD, starts, x_BTD.shape[1])})
    found_BTD = block.gated_attn.body(block.gated_attn.norm(x_BTD), ctx)
    assert close(found_BTD, evenly(block, x_BTD, media_BIQD, starts))
    assert close(found_BTD[0, 0], found_BTD[0, 3])  # whoever asks before the first picture


def test_what_needs_later_pictures_is_read_neither_in_parts_nor_packed(golden: Golden, memory: Memory) -> None:
    block, x_BTD = layer(golden, immediate=False), golden.inputs["x"]
    with pytest.raises(ValueError, match="cannot be read in parts"):
        block(x_BTD, Context(memories={"image": replace(memory, features_BSD=None)}))
    with pytest.raises(ValueError, match="cannot be packed"):
        block(x_BTD, Context(memories={"image": replace(memory, before_BT=torch.zeros_like(memory.met_BT))}))


@pytest.mark.parametrize("immediate", [True, False])
def test_keys_come_back_bitwise(golden: Golden, immediate: bool) -> None:
    assert come_back_bitwise(gated_keys(immediate=immediate), golden.weights)


@torch.no_grad()
def test_closed_gates_leave_the_language_model_as_it_was() -> None:
    gated = gated_llama(SPEC, GatedSpec(every=2, heads=2, head_dim=6), "image", width=10)
    assert [len(list(block.children())) for block in gated.blocks] == [2, 4, 2, 4]
    initialise(gated)
    plain = llama(SPEC)
    names = plain.state_dict().keys()
    plain.load_state_dict({name: tensor for name, tensor in gated.state_dict().items() if name in names})
    x_BTD, media = torch.randn(1, 5, 24), memory_of(torch.randn(1, 2, 3, 10), [[1, 3]], 5)
    positions = Context(torch.arange(5)[None]), Context(torch.arange(5)[None], memories={"image": media})
    assert torch.equal(plain.hidden(x_BTD, positions[0]), gated.hidden(x_BTD, positions[1]))
    assert not torch.equal(plain.hidden(x_BTD, positions[0]), randomise(gated).hidden(x_BTD, positions[1]))


@pytest.mark.parametrize("every", [5, 9])
def test_a_model_with_too_few_layers_is_refused(every: int) -> None:
    with pytest.raises(ValueError, match="before layers none, but the model has 1 to 4"):
        gated_llama(SPEC, GatedSpec(every=every), "image", width=10)
