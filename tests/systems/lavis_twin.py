"""What LAVIS's tower and Q-Former compute, said once more: plain operations on weights by their published names."""

# M pictures, P features per picture, S tokens, D width, N heads
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from scops.checkpoints.keymap import KeyMap
from scops.encoders.eva import EvaSpec
from scops.language.llama import LlamaSpec
from scops.systems.llama import language_config

Weights = Mapping[str, Tensor]


def below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}


def project(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(x, w[name + ".weight"], w.get(name + ".bias"))


def norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], eps)


def attend(q_MSD: Tensor, k_MSD: Tensor, v_MSD: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q_MSD, k_MSD, v_MSD))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def tower(w: Weights, pixels_MCHW: Tensor, spec: EvaSpec) -> Tensor:
    """(M, P, D), class token first.

    Args:
        w: below `visual_encoder.`.
    """
    patches = conv2d(pixels_MCHW, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=spec.patch)
    x = torch.cat([w["cls_token"].expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], 1) + w["pos_embed"]
    for number in range(spec.layers):
        block = below(w, f"blocks.{number}.")
        zero = torch.zeros_like(block["attn.q_bias"])
        bias = torch.cat([block["attn.q_bias"], zero, block["attn.v_bias"]])
        q, k, v = linear(norm(block, "norm1", x, spec.eps), block["attn.qkv.weight"], bias).chunk(3, -1)
        x = x + project(block, "attn.proj", attend(q, k, v, spec.heads))
        x = x + project(block, "mlp.fc2", gelu(project(block, "mlp.fc1", norm(block, "norm2", x, spec.eps))))
    return x


def qformer(
    w: Weights, queries_1QD: Tensor, features_MPD: Tensor, heads: int, ids_MT: Tensor | None = None,
    real_MT: Tensor | None = None, eps: float = 1e-12,
) -> Tensor:  # fmt: skip
    """(M, S, D): all that leaves it, queries first.

    Args:
        w: below `Qformer.bert.`.
        real_MT: which words are no padding; LAVIS takes 10,000 from the scores of the others.
    """
    x = queries_1QD.expand(len(features_MPD), -1, -1)
    bias, count = torch.zeros(()), x.shape[1]
    if ids_MT is not None and real_MT is not None:
        places = w["embeddings.position_embeddings.weight"][: ids_MT.shape[1]]
        x = torch.cat([x, w["embeddings.word_embeddings.weight"][ids_MT] + places], 1)
        seen_MS = torch.cat([torch.ones(len(x), count), real_MT.float()], 1)
        bias = (1 - seen_MS)[:, None, None] * -10_000.0
    x = norm(w, "embeddings.LayerNorm", x, eps)
    for number in range(len({name.split(".")[2] for name in w if name.startswith("encoder.layer.")})):
        layer = below(w, f"encoder.layer.{number}.")
        x = after(layer, "attention.output", asked(layer, "attention", x, x, heads, bias), x, eps)
        words = x[:, count:]
        x = x[:, :count]
        if "crossattention.self.query.weight" in layer:
            x = after(layer, "crossattention.output", asked(layer, "crossattention", x, features_MPD, heads), x, eps)
        x = after(layer, "output_query", gelu(project(layer, "intermediate_query.dense", x)), x, eps)
        if words.shape[1]:
            words = after(layer, "output", gelu(project(layer, "intermediate.dense", words)), words, eps)
        x = torch.cat([x, words], 1)
    return x


def asked(w: Weights, name: str, x: Tensor, keys: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    q, k, v = (project(w, f"{name}.self.{part}", y) for part, y in (("query", x), ("key", keys), ("value", keys)))
    return attend(q, k, v, heads, bias)


def after(w: Weights, name: str, made: Tensor, x: Tensor, eps: float) -> Tensor:
    return norm(w, name + ".LayerNorm", x + project(w, name + ".dense", made), eps)


def language(w: Weights, spec: LlamaSpec) -> Any:
    """transformers' LLaMA with these weights.

    Args:
        w: below `llama_model.`.
    """
    config = transformers.LlamaConfig(**{k: v for k, v in language_config(spec).items() if k != "model_type"})
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict(dict(w))
    return model


def named(keys: KeyMap, system: torch.nn.Module) -> dict[str, Tensor]:
    """A system's weights under published names."""
    return keys.save(system.state_dict())
