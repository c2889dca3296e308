"""Adapter files of the PEFT library, written and read, give the same model on both sides."""

import json

import pytest
import torch

from scops.checkpoints.adapter import Adapter, read_adapter, write_adapter
from scops.checkpoints.hub_llama import HUB_LLAMA
from scops.checkpoints.keymap import KeyMap, split
from scops.checkpoints.write import save_json, save_tensors

PATHS = ("blocks.0.attn.body.q", "blocks.1.attn.body.v", "blocks.1.mlp.body.down")


def tiny_llama():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
        vocab_size=31,
    )  # fmt: skip
    torch.manual_seed(2)
    return transformers.LlamaForCausalLM(config).eval()


def adapter(rank: int = 3) -> Adapter:
    sizes = dict(zip(PATHS, [(12, 12), (4, 12), (12, 20)], strict=True))
    weights = {path: (torch.randn(rank, i), torch.randn(o, rank)) for path, (o, i) in sizes.items()}
    return Adapter(weights, rank=rank, alpha=5.0, dropout=0.25)


def same(a: Adapter, b: Adapter) -> bool:
    return (a.rank, a.alpha, a.dropout) == (b.rank, b.alpha, b.dropout) and all(
        torch.equal(x, y) for path in a.weights for x, y in zip(a.weights[path], b.weights[path], strict=True)
    )


def test_what_was_written_is_read_back(tmp_path):
    made = adapter()
    write_adapter(tmp_path, made, HUB_LLAMA)
    again = read_adapter(tmp_path, HUB_LLAMA)
    assert again.weights.keys() == made.weights.keys()
    assert same(made, again)


def test_peft_reads_ours_and_merges_to_the_same_weights(tmp_path):
    peft = pytest.importorskip("peft")
    model, made = tiny_llama(), adapter()
    before = {key: value.clone() for key, value in HUB_LLAMA.load(model.state_dict()).items()}
    write_adapter(tmp_path, made, HUB_LLAMA, base="tiny")
    theirs = peft.PeftModel.from_pretrained(model, tmp_path)
    assert {n.split("base_model.model.")[1] for n, m in theirs.named_modules() if hasattr(m, "lora_A")} == {
        "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj", "model.layers.1.mlp.down_proj",
    }  # fmt: skip
    merged = HUB_LLAMA.load(theirs.merge_and_unload().state_dict())
    for key, tensor in before.items():
        grown = 0.0
        if key.removesuffix(".weight") in made.weights:
            a, b = made.weights[key.removesuffix(".weight")]
            grown = made.scale * (b @ a)
        torch.testing.assert_close(merged[key], tensor + grown, atol=5e-6, rtol=1e-5)


def test_ours_reads_what_peft_wrote(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, lora_dropout=0.1, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    )
    theirs = peft.get_peft_model(tiny_llama(), config)
    theirs.save_pretrained(tmp_path)
    read = read_adapter(tmp_path, HUB_LLAMA)
    assert (read.rank, read.alpha, read.dropout) == (4, 6, 0.1)
    assert sorted(read.weights) == sorted(
        f"blocks.{i}.{part}" for i in (0, 1) for part in ("attn.body.q", "mlp.body.down")
    )
    layer = theirs.base_model.model.model.layers[1].mlp.down_proj
    a, b = read.weights["blocks.1.mlp.body.down"]
    assert torch.equal(a, layer.lora_A["default"].weight)
    assert torch.equal(b, layer.lora_B["default"].weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "expected 'LORA'"),
    ],
)
def test_adapters_that_are_more_are_refused(tmp_path, change, message):
    write_adapter(tmp_path, adapter(), HUB_LLAMA)
    path = tmp_path / "adapter_config.json"
    save_json(path, json.loads(path.read_text()) | change)
    with pytest.raises(ValueError, match=message):
        read_adapter(tmp_path, HUB_LLAMA)


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no adapter_config\.json"):
        read_adapter(tmp_path, HUB_LLAMA)
    write_adapter(tmp_path, adapter(), HUB_LLAMA)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_tensors(tmp_path / "adapter_model.safetensors", {name: torch.zeros(3, 12)})
    with pytest.raises(ValueError, match=r"only one of lora_A, lora_B for .*q_proj"):
        read_adapter(tmp_path, HUB_LLAMA)
    save_tensors(tmp_path / "adapter_model.safetensors", {"q_proj.weight": torch.zeros(3, 12)})
    with pytest.raises(ValueError, match=r"expected base_model\.model\.<module>"):
        read_adapter(tmp_path, HUB_LLAMA)


def test_shapes_that_are_not_the_rank_are_refused():
    with pytest.raises(ValueError, match=r"A \(2, 12\) and B \(12, 3\), expected \(3, in\) and \(out, 3\)"):
        Adapter({"q": (torch.zeros(2, 12), torch.zeros(12, 3))}, rank=3, alpha=1)


def test_projections_that_the_published_layout_fuses_are_refused(tmp_path):
    fused = KeyMap(split("qkv.{w}", ("q.{w}", "k.{w}")))
    pairs = {path: (torch.zeros(3, 12), torch.zeros(12, 3)) for path in ("q", "k")}
    with pytest.raises(ValueError, match="fuses or reorders"):
        write_adapter(tmp_path, Adapter(pairs, rank=3, alpha=1), fused)
