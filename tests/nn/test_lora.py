"""LoRA around projections."""

import pytest
import torch
from torch import nn

from scops.core.stage import Lora
from scops.nn import lora
from scops.nn.lora import LoRA
from tests.conftest import close, randomise


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(7, 5), nn.Linear(7, 3, bias=False), nn.Linear(7, 7)


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(7)

    def forward(self, x):
        return torch.cat([p(self.norm(x)) for block in self.blocks for p in (block.q, block.k, block.v)], -1)


SPEC = Lora(("blocks.*.q", "blocks.1.k"), rank=2, alpha=6.0)


def adapted(spec: Lora = SPEC) -> Body:
    body = randomise(Body())
    lora.add(body, spec)
    return randomise(body)


def test_adding_keeps_every_path_and_every_output():
    body = randomise(Body())
    x, before, paths = torch.randn(4, 7), body.state_dict(), dict(body.named_parameters())
    expected = body(x)
    assert lora.add(body, SPEC) == ["blocks.0.q", "blocks.1.q", "blocks.1.k", "blocks.2.q"]
    assert all(torch.equal(body.state_dict()[key], value) for key, value in before.items())
    assert all(dict(body.named_parameters())[path] is parameter for path, parameter in paths.items())
    assert torch.equal(body(x), expected)
    assert set(body.state_dict()) - set(before) == {
        f"{p}.{n}" for p in lora.adapters(body) for n in ("lora_a", "lora_b")
    }


def test_output_is_the_formula():
    body, x = adapted(), torch.randn(4, 7)
    q = body.blocks[0].q
    grown = q.weight + 6.0 / 2 * q.lora_b @ q.lora_a
    assert close(q(x), x @ grown.T + q.bias)


def test_merged_answers_alike_and_unmerging_restores_every_bit():
    body, x = adapted(), torch.randn(4, 7)
    expected, before = body(x), {k: v.clone() for k, v in body.state_dict().items()}
    removed = lora.merge(body)
    assert not lora.adapters(body)
    assert type(body.blocks[0].q) is nn.Linear
    assert close(body(x), expected)
    lora.unmerge(body, removed)
    assert all(torch.equal(body.state_dict()[key], value) for key, value in before.items())
    assert torch.equal(body(x), expected)


def test_half_precision_base_keeps_a_float_adapter():
    body = Body().bfloat16()
    lora.add(body, SPEC)
    adapter = body.blocks[0].q
    assert (adapter.weight.dtype, adapter.lora_a.dtype) == (torch.bfloat16, torch.float32)
    assert adapter(torch.randn(2, 7).bfloat16()).dtype == torch.bfloat16
    removed = lora.merge(body)
    assert body.blocks[0].q.weight.dtype == torch.bfloat16
    lora.unmerge(body, removed)


def test_dropout_acts_on_the_adapter_alone_and_in_training_alone():
    body, x = adapted(Lora(("blocks.0.q",), 2, 6.0, dropout=0.9)), torch.randn(4, 7)
    q = body.blocks[0].q
    assert torch.equal(q(x), q(x))
    q.train()
    assert not torch.equal(q(x), q(x))
    torch.nn.init.zeros_(q.lora_b)
    assert torch.equal(q(x), nn.functional.linear(x, q.weight, q.bias))


def test_a_glob_without_a_projection_names_the_nearest():
    with pytest.raises(ValueError, match=r"'blocks.\*.qq', but no path is like that; did you mean .*blocks\.\d\.q"):
        lora.add(Body(), Lora(("blocks.*.qq",)))
    with pytest.raises(ValueError, match="'norm'"):
        lora.add(Body(), Lora(("norm",)))


def test_a_second_stage_keeps_adapters_and_refuses_another_rank():
    body = adapted()
    before = body.blocks[0].q
    assert lora.add(body, Lora(SPEC.targets, 2, 6.0, 0.5)) == list(lora.adapters(body))
    assert body.blocks[0].q is before
    assert before.dropout.p == 0.5
    with pytest.raises(ValueError, match=r"rank 2 and alpha 6\.0 already; the stage asks for rank 3"):
        lora.add(body, Lora(SPEC.targets, 3, 6.0))


def test_a_shared_projection_gets_one_adapter_on_both_paths():
    body = Body()
    body.blocks[2].q = body.blocks[0].q
    lora.add(body, Lora(("blocks.*.q",), 2))
    assert body.blocks[2].q is body.blocks[0].q
    assert type(body.blocks[0].q) is LoRA
    removed = lora.merge(body)
    assert body.blocks[2].q is body.blocks[0].q
    lora.unmerge(body, removed)
    assert body.blocks[2].q is body.blocks[0].q


def test_equals_peft():
    peft = pytest.importorskip("peft")
    body, x = adapted(), torch.randn(4, 7)
    plain = Body()
    plain.load_state_dict(body.state_dict(), strict=False)
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=r"blocks\.\d\.q|blocks\.1\.k")
    reference = peft.get_peft_model(plain, config)
    with torch.no_grad():
        for path, (a, b) in lora.adapters(body).items():
            layer = reference.base_model.model.get_submodule(path)
            layer.lora_A.default.weight.copy_(a)
            layer.lora_B.default.weight.copy_(b)
    assert close(body(x), reference.eval()(x))
