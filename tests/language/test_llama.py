"""The LLaMA family against transformers' own modules, random and tiny."""

import pytest
import torch

from scops.models.decoder import MultimodalDecoder
from scops.systems import llama
from tests.conftest import batch_of, close, example, randomise

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
CASES = {
    "llama": ("Llama", {}),
    "llama, tied, all heads": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 6}),
    "llama with biases": ("Llama", {"attention_bias": True}),
    "llama, head width of its own": ("Llama", {"head_dim": 10}),
    "smollm2": ("Llama", {"tie_word_embeddings": True, "rope_theta": 1e5, "rms_norm_eps": 1e-5}),
    "vicuna 16k": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "llama 3.1": ("Llama", {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}),
    "mistral, windowed": ("Mistral", {"sliding_window": 5}),
    "mistral, no window": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"rope_theta": 1e6}),
    "qwen2, yarn": ("Qwen2", {"rope_parameters": YARN | {"rope_theta": 1e6}}),
    "qwen3": ("Qwen3", {"head_dim": 8, "rope_theta": 1e6}),
    "qwen3, tied": ("Qwen3", {"head_dim": 8, "tie_word_embeddings": True}),
}  # fmt: skip


def reference(case: str) -> torch.nn.Module:
    name, changes = CASES[case]
    config = getattr(transformers, f"{name}Config")(**(SMALL | changes), attn_implementation="eager")
    return randomise(getattr(transformers, f"{name}ForCausalLM")(config))


def ours(theirs: torch.nn.Module) -> MultimodalDecoder:
    spec = llama.spec_of(theirs.config.to_dict())
    system = llama.build(spec)
    state = {name: tensor for name, tensor in theirs.state_dict().items()}
    system.load_state_dict(llama.KEYS["transformers"](spec).load(state))
    return system.eval()


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case: str) -> None:
    theirs = reference(case)
    ids = torch.randint(1, 61, (2, 23))
    batch = batch_of(*(example(row.tolist()) for row in ids))
    assert close(ours(theirs)(batch), theirs(ids).logits)


@pytest.mark.parametrize("case", CASES)
def test_keys_round_trip_bitwise(case: str) -> None:
    theirs = reference(case)
    spec = llama.spec_of(theirs.config.to_dict())
    keys, state = llama.KEYS["transformers"](spec), theirs.state_dict()
    back = keys.save(keys.load(state))
    assert set(state) - set(back) <= {"lm_head.weight"}
    assert all(torch.equal(back[name], state[name]) for name in back)


def test_the_named_sizes_have_the_published_counts() -> None:
    counts = {
        "smollm2-135m-instruct": 134_515_008,
        "llama-7b": 6_738_415_616,
        "vicuna-7b-v1.5": 6_738_415_616,
        "mistral-7b-v0.1": 7_241_732_096,
        "qwen2-7b-instruct": 7_615_616_512,
        "qwen3-8b": 8_190_735_360,
    }
    assert counts.keys() == llama.SIZES.keys()
    for name, spec in llama.SIZES.items():
        with torch.device("meta"):
            assert sum(p.numel() for p in llama.build(spec).parameters()) == counts[name], name


def test_other_ropes_and_activations_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="rope scaling 'su'"):
        llama.build(llama.spec_of({"model_type": "llama", "rope_scaling": {"type": "su"}}))
    with pytest.raises(ValueError, match="activation 'gelu'"):
        llama.spec_of({"model_type": "llama", "hidden_act": "gelu"})
    with pytest.raises(ValueError, match="use_sliding_window"):
        llama.spec_of({"model_type": "qwen2", "use_sliding_window": True})
