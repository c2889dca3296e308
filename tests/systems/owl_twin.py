"""What the mPLUG-Owl family computes, said once more: plain operations on weights by their published names.

From X-PLUG/mPLUG-Owl: mPLUG-Owl/mplug_owl and mplug_owl_video, modeling_mplug_owl.py; mPLUG-Owl2/mplug_owl2/model.
"""

# M pictures, T frames, P features per picture, Q queries, D width
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv3d, gelu, interpolate, linear, silu

from scops.encoders.vit import VitSpec
from scops.language.llama import LlamaSpec
from scops.systems.mplug_owl2 import Eyes
from tests.systems.lavis_twin import Weights, attend, below, norm, project

Mixing = Callable[[Weights, Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def tower(w: Weights, pixels: Tensor, vision: VitSpec, mixing: Mixing | None = None) -> Tensor:
    """(M, P, D), class token first; queries, keys and values are fused head by head.

    Args:
        w: below `vision_model.`.
        mixing: of a layer's weights and all pictures, before the layer.
    """
    patches = conv2d(pixels, w["embeddings.patch_embed.weight"], stride=vision.patch).flatten(2).transpose(1, 2)
    first = [w["embeddings.cls_token"].expand(len(patches), -1, -1)] if "embeddings.cls_token" in w else []
    x, table = torch.cat([*first, patches], 1), w["embeddings.position_embedding"]
    if table.dim() == 2:  # without a class token the table has its own size
        old, new = (int(count**0.5) for count in (len(table), patches.shape[1]))
        grid = table.T.unflatten(1, (old, old))[None]
        table = interpolate(grid, (new, new), mode="bicubic", align_corners=False)[0].flatten(1).T
    x = norm(w, "embeddings.pre_layernorm", x + table, vision.eps)
    for number in range(vision.layers):
        layer = below(w, f"encoder.layers.{number}.")
        x = mixing(below(layer, "temporal."), x) if mixing else x
        fused = project(layer, "self_attn.query_key_value", norm(layer, "input_layernorm", x, vision.eps))
        q, k, v = fused.unflatten(-1, (vision.heads, 3, -1)).unbind(-2)
        x = x + project(layer, "self_attn.dense", attend(q.flatten(2), k.flatten(2), v.flatten(2), vision.heads))
        wide = project(layer, "mlp.fc1", norm(layer, "post_attention_layernorm", x, vision.eps))
        x = x + project(layer, "mlp.fc2", quick_gelu(wide) if vision.activation == "quick_gelu" else gelu(wide))
    return norm(w, "post_layernorm", x, vision.eps) if "post_layernorm.weight" in w else x


def mixed(w: Weights, x_TPD: Tensor) -> Tensor:
    """The frames of one clip before a layer, by three-dimensional convolutions; the class token is added to itself."""
    side = int((x_TPD.shape[1] - 1) ** 0.5)
    y = norm(w, "ln", x_TPD, 1e-5)[:, 1:].unflatten(1, (side, side)).permute(3, 0, 1, 2)[None]
    y = conv3d(y, w["down_proj.weight"], w["down_proj.bias"])
    y = conv3d(y, w["conv.weight"], w["conv.bias"], padding=(1, 0, 0), groups=y.shape[1])
    y = conv3d(quick_gelu(y), w["up_proj.weight"], w["up_proj.bias"])[0]
    return x_TPD + torch.cat([x_TPD[:, :1], y.permute(1, 2, 3, 0).flatten(1, 2)], 1)


def swiglu(w: Weights, x: Tensor, eps: float) -> Tensor:
    """Of a layer of queries, with its norm.

    Args:
        w: of the layer, with `output.norm2` and `output.mlp`.
    """
    mlp, y = below(w, "output.mlp."), norm(w, "output.norm2", x, 1e-5)
    return project(mlp, "w2", norm(mlp, "ffn_ln", silu(project(mlp, "w1", y)) * project(mlp, "w3", y), eps))


def asked(
    w: Weights, queries_1QD: Tensor, features_MPD: Tensor, heads: int, eps: float, places_SD: Tensor | float = 0.0
) -> Tensor:
    """(M, Q, D): queries see themselves and the features; the stream is that of normed queries.

    Args:
        w: below `abstractor.encoder.`.
        places_SD: of queries, then features; values have none.
    """
    x, number = queries_1QD.expand(len(features_MPD), -1, -1), 0
    while layer := below(w, f"layers.{number}.crossattention."):
        x = norm(layer, "norm1", x, 1e-5)
        both = torch.cat([x, norm(layer, "normk", features_MPD, 1e-5)], 1)
        placed = both + places_SD
        told = (("query", placed[:, : x.shape[1]]), ("key", placed), ("value", both))
        q, k, v = (project(layer, f"attention.{name}", y) for name, y in told)
        x = x + project(layer, "output.out_proj", attend(q, k, v, heads))
        x, number = x + swiglu(layer, x, eps), number + 1
    return x


def spliced(words: Tensor, parts: list[list[int] | Tensor]) -> tuple[Tensor, Tensor]:
    """(T, D) and which of them a connector made: ids and items' tokens one after the other."""
    rows = [words[torch.tensor(part)] if isinstance(part, list) else part for part in parts]
    is_media = [torch.full((len(row),), not isinstance(part, list)) for row, part in zip(rows, parts, strict=True)]
    return torch.cat(rows), torch.cat(is_media)


def logits(w: Weights, x: Tensor, is_media: Tensor, language: LlamaSpec) -> Tensor:
    """(T, V): a LLaMA whose norms, keys and values are those of each token's modality."""
    count, width, group = len(x), language.dim // language.heads, language.heads // language.kv_heads
    angles = torch.arange(count)[:, None] / language.rope_base ** (torch.arange(0, width, 2) / width)
    cos, sin = (f(torch.cat([angles, angles], -1))[:, None] for f in (torch.cos, torch.sin))
    later = torch.full((count, count), -torch.inf).triu(1)

    def own(layer: Weights, name: str, y: Tensor, plain: object) -> Tensor:
        return torch.stack(
            [plain(layer[f"{name}.multiway.{int(m)}.weight"], row) for m, row in zip(is_media, y, strict=True)]
        )

    def rms(weight: Tensor, row: Tensor) -> Tensor:
        return row * torch.rsqrt(row.pow(2).mean(-1, keepdim=True) + language.eps) * weight

    def turned(y: Tensor) -> Tensor:
        y = y.unflatten(-1, (-1, width))
        left, right = y.chunk(2, -1)
        return y * cos + torch.cat([-right, left], -1) * sin

    for number in range(language.layers):
        layer = below(w, f"model.layers.{number}.")
        y = own(layer, "input_layernorm", x, rms)
        q = turned(linear(y, layer["self_attn.q_proj.weight"]))
        k = turned(own(layer, "self_attn.k_proj", y, lambda weight, row: weight @ row))
        v = own(layer, "self_attn.v_proj", y, lambda weight, row: weight @ row).unflatten(-1, (-1, width))
        k, v = (z.repeat_interleave(group, 1) for z in (k, v))
        scores = torch.einsum("tnd,snd->nts", q, k) / width**0.5 + later
        x = x + linear(torch.einsum("nts,snd->tnd", scores.softmax(-1), v).flatten(1), layer["self_attn.o_proj.weight"])
        y, mlp = own(layer, "post_attention_layernorm", x, rms), below(layer, "mlp.")
        x = x + project(mlp, "down_proj", silu(project(mlp, "gate_proj", y)) * project(mlp, "up_proj", y))
    return linear(rms(w["model.norm.weight"], x), w["lm_head.weight"])


def sines(places: Tensor, width: int) -> Tensor:
    angles = places.double()[:, None] / 10000 ** (torch.arange(width // 2).double() / (width / 2))
    return torch.cat([angles.sin(), angles.cos()], 1).float()


def places(eyes: Eyes) -> Tensor:
    """Of queries by number; of a class token none; of patches the column's in the first half, the row's in the second."""
    side, width = eyes.vision.image // eyes.vision.patch, eyes.abstractor.dim
    at = torch.arange(side)
    grid = torch.cat([sines(at.repeat(side), width // 2), sines(at.repeat_interleave(side), width // 2)], 1)
    return torch.cat([sines(torch.arange(eyes.abstractor.queries), width), torch.zeros(eyes.cls, width), grid])


def sight(w: Weights, pixels_MCHW: Tensor, eyes: Eyes) -> Tensor:
    """(M, Q + 1, D) of mPLUG-Owl2 and 2.1.

    Args:
        w: below what has `vision_model` and `visual_abstractor`.
    """
    features = tower(below(w, "vision_model."), pixels_MCHW, eyes.vision)
    asking, own = eyes.abstractor, below(w, "visual_abstractor.")
    x = asked(below(own, "encoder."), own["query_embeds"], features, asking.heads, asking.eps, places(eyes))
    return torch.cat([project(own, "visual_fc", x), own["vit_eos"].expand(len(x), -1, -1)], 1)
