"""GGUF files (ggml-org/ggml, docs/gguf.md), read into the names and the row order of transformers' LLaMA."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, ReaderField, ReaderTensor
from gguf.quants import dequantize
from tokenizers import Tokenizer
from torch import Tensor

from scops.checkpoints.gguf_tokenizer import gguf_tokenizer
from scops.checkpoints.keymap import KeyMap, Op, Unpermute, dropped, same
from scops.checkpoints.reader import MappedReader, Reader
from scops.core.names import nearest

# What differs inside the family: are q and k rows permuted, which projections carry a bias, which are normed per head.
ARCHITECTURES = {
    "llama": (True, "", ""),
    "qwen2": (False, "qkv", ""),
    "qwen3": (False, "", "qk"),
}
HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}


def gguf_llama(heads: int, kv_heads: int, *, permuted: bool) -> KeyMap:
    """llama.cpp's names of a LLaMA-family model -> transformers' names."""
    q, k = (Unpermute(heads), Unpermute(kv_heads)) if permuted else (Op(), Op())
    theirs, ours = "blk.{i}.", "model.layers.{i}."
    return KeyMap(
        same("token_embd.weight", "model.embed_tokens.weight"),
        same(theirs + "attn_norm.weight", ours + "input_layernorm.weight"),
        same(theirs + "attn_q.{w}", ours + "self_attn.q_proj.{w}", q),
        same(theirs + "attn_k.{w}", ours + "self_attn.k_proj.{w}", k),
        same(theirs + "attn_v.{w}", ours + "self_attn.v_proj.{w}"),
        same(theirs + "attn_output.{w}", ours + "self_attn.o_proj.{w}"),
        same(theirs + "attn_q_norm.weight", ours + "self_attn.q_norm.weight"),
        same(theirs + "attn_k_norm.weight", ours + "self_attn.k_norm.weight"),
        same(theirs + "ffn_norm.weight", ours + "post_attention_layernorm.weight"),
        same(theirs + "ffn_gate.weight", ours + "mlp.gate_proj.weight"),
        same(theirs + "ffn_up.weight", ours + "mlp.up_proj.weight"),
        same(theirs + "ffn_down.weight", ours + "mlp.down_proj.weight"),
        same("output_norm.weight", "model.norm.weight"),
        same("output.weight", "lm_head.weight"),
        dropped("rope_freqs.weight", "read into the config as rope_scaling"),
        dropped(theirs + "attn_rot_embd.weight", "rotary frequencies, rebuilt from the base"),
    )


class RawGguf(Reader):
    """The file as it is: llama.cpp's names and row order, dequantised to float32 (halves stay halves)."""

    kind = "GGUF"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = GGUFReader(self.path)
        except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
            size = self.path.stat().st_size
            raise ValueError(
                f"{self.path} ({size} bytes) is not a whole GGUF file, probably cut short: {error}"
            ) from error
        self._tensors = {tensor.name: tensor for tensor in self._file.tensors}
        self.kind = f"GGUF, {self._file.fields['GGUF.version'].contents()}"

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self._find(name).shape))

    def dtype(self, name: str) -> torch.dtype:
        return HALVES.get(self.stored(name), torch.float32)

    def stored(self, name: str) -> str:
        """How the file keeps it: F32, Q4_1, ..."""
        return self._find(name).tensor_type.name

    def __getitem__(self, name: str) -> Tensor:
        tensor, kind = self._find(name), self._find(name).tensor_type
        if kind.name in HALVES:
            whole = torch.from_numpy(np.array(tensor.data).view(np.int16)).view(HALVES[kind.name])
        else:
            try:
                whole = torch.from_numpy(np.array(dequantize(tensor.data, kind), dtype=np.float32))
            except NotImplementedError as error:
                known = [k.name for k in GGMLQuantizationType]
                raise ValueError(
                    f"{self.path}: {name!r} is {kind.name}, which the gguf package of {known} cannot read"
                ) from error
        return whole.reshape(self.shape(name))

    def value(self, key: str, default: Any = None) -> Any:
        """A metadata value; no default means it must be there."""
        field: ReaderField | None = self._file.fields.get(key)
        if field is not None:
            return field.contents()
        if default is None:
            raise ValueError(f"{self.path} has no metadata {key!r}{nearest(key, self._file.fields)}")
        return default

    def metadata(self) -> list[str]:
        return list(self._file.fields)

    def _find(self, name: str) -> ReaderTensor:
        if name not in self._tensors:
            raise self.absent(name)
        return self._tensors[name]


class GgufReader(MappedReader):
    """A language model with its tokenizer, config and chat template, in transformers' LLaMA layout."""

    def __init__(self, path: str | Path) -> None:
        self.raw = RawGguf(path)
        config = self.config
        permuted = ARCHITECTURES[config["architecture"]][0]
        super().__init__(self.raw, gguf_llama(config["heads"], config["kv_heads"], permuted=permuted))

    @cached_property
    def config(self) -> dict[str, Any]:
        """`architecture`, and the numbers of a decoder under the names of `LlamaSpec`."""
        raw, architecture = self.raw, self.raw.value("general.architecture")
        if architecture not in ARCHITECTURES:
            raise ValueError(f"{raw.path} holds a {architecture!r} model{nearest(architecture, ARCHITECTURES)}")
        _, bias, norms = ARCHITECTURES[architecture]
        heads = raw.value(f"{architecture}.attention.head_count")
        dim = raw.value(f"{architecture}.embedding_length")
        if not isinstance(heads, int):
            raise ValueError(f"{raw.path}: {architecture}.attention.head_count differs between layers: {heads}")
        return {
            "architecture": architecture,
            "dim": dim,
            "hidden": raw.value(f"{architecture}.feed_forward_length"),
            "layers": raw.value(f"{architecture}.block_count"),
            "heads": heads,
            "kv_heads": raw.value(f"{architecture}.attention.head_count_kv", heads),
            "head_dim": raw.value(f"{architecture}.attention.key_length", dim // heads),
            "vocab": raw.shape("token_embd.weight")[0],
            "context": raw.value(f"{architecture}.context_length"),
            "eps": _short(raw.value(f"{architecture}.attention.layer_norm_rms_epsilon")),
            "rope_base": _short(raw.value(f"{architecture}.rope.freq_base", 10000.0)),
            "rope_scaling": self._scaling(architecture),
            "bias": bias if "blk.0.attn_q.bias" in raw.names() else "",
            "norms": norms,
            "tied": "output.weight" not in raw.names(),
        }

    def _scaling(self, architecture: str) -> dict[str, Any] | None:
        """As config.json writes it. Frequency factors (LLaMA 3) stand in a tensor and keep that form."""
        if "rope_freqs.weight" in self.raw.names():
            return {"rope_type": "factors", "factors": self.raw["rope_freqs.weight"].tolist()}
        at = f"{architecture}.rope.scaling."
        kind = self.raw.value(at + "type", "none")
        if kind == "none":
            return None
        scaling: dict[str, Any] = {"rope_type": kind, "factor": _short(self.raw.value(at + "factor", 1.0))}
        if original := self.raw.value(at + "original_context_length", 0):
            scaling["original_max_position_embeddings"] = original
        return scaling

    @property
    def chat_template(self) -> str:
        """Jinja; empty when the file brings none."""
        return self.raw.value("tokenizer.chat_template", "")

    @property
    def special_ids(self) -> dict[str, int]:
        """Those of unk, bos, eos, pad that the file names."""
        keys = {"unk": "unknown", "bos": "bos", "eos": "eos", "pad": "padding"}
        found = {role: self.raw.value(f"tokenizer.ggml.{key}_token_id", -1) for role, key in keys.items()}
        return {role: at for role, at in found.items() if at >= 0}

    @property
    def special_tokens(self) -> dict[str, str]:
        """Their spelling, as `scops.data.tokenizer.Tokenizer` takes them (bos, eos, pad)."""
        tokens = self.raw.value("tokenizer.ggml.tokens")
        return {role: tokens[at] for role, at in self.special_ids.items() if role != "unk"}

    def tokenizer(self) -> Tokenizer:
        return gguf_tokenizer(self.raw.value, self.special_ids)


def _short(number: float) -> float:
    """The number that was meant: GGUF keeps float32, so 1e-5 reads as 9.999999747378752e-06."""
    return float(str(np.float32(number)))
