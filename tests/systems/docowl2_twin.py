"""What DocOwl 2 computes from pages to logits, said once more: plain operations on weights by their published names.

From arXiv 2409.03420 section 3 and 2403.12895 section 3.1, X-PLUG/mPLUG-DocOwl (tower, H-Reducer, modality-adaptive layers) and the
remote code of mPLUG/DocOwl2 (compressor, one page after the other here).
"""

# J tiles of a page, P features per picture, Q cells of a picture, T tokens, D width
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, gelu, linear, silu

from scops.systems.docowl2 import Spec
from tests.systems.lavis_twin import Weights, attend, below, norm, project

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def grid_of(width: int, height: int, grids: tuple[tuple[int, int], ...], side: int) -> tuple[int, int]:
    """Of (rows, columns) the first that overlaps most: 100 times with the page's shape, once with the page."""
    best, chosen = -1.0, grids[0]
    for rows, columns in grids:
        wide, high = columns * side, rows * side
        score = 0.0
        for weight, w, h in ((100, wide, int(height / width * wide)), (1, width, height)):
            shared = min(wide, w) * min(high, h)
            score += weight * shared / (wide * high + w * h - shared + 1e-5)
        if score > best:
            best, chosen = score, (rows, columns)
    return chosen


def cut(page: Image.Image, grid: tuple[int, int], side: int) -> Tensor:
    """(1 + J, 3, side, side): the whole page, then its tiles row by row."""
    rows, columns = grid
    large = page.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    views = [page.resize((side, side), Image.Resampling.BICUBIC)]
    for row in range(rows):
        for column in range(columns):
            views.append(large.crop((column * side, row * side, (column + 1) * side, (row + 1) * side)))
    pixels = torch.from_numpy(np.stack([np.asarray(view, np.float32) for view in views])) / 255
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def tower(w: Weights, pixels: Tensor, spec: Spec) -> Tensor:
    """(1 + J, P, D), class token first; queries, keys and values are fused head by head."""
    vision = spec.vision
    patches = conv2d(pixels, w["embeddings.patch_embed.weight"], stride=vision.patch).flatten(2).transpose(1, 2)
    x = torch.cat([w["embeddings.cls_token"].expand(len(patches), -1, -1), patches], 1)
    x = norm(w, "embeddings.pre_layernorm", x + w["embeddings.position_embedding"], vision.eps)
    for number in range(vision.layers):
        layer = below(w, f"encoder.layers.{number}.")
        fused = project(layer, "self_attn.query_key_value", norm(layer, "input_layernorm", x, vision.eps))
        q, k, v = fused.unflatten(-1, (vision.heads, 3, -1)).unbind(-2)
        x = x + project(layer, "self_attn.dense", attend(q.flatten(2), k.flatten(2), v.flatten(2), vision.heads))
        wide = project(layer, "mlp.fc1", norm(layer, "post_attention_layernorm", x, vision.eps))
        x = x + project(layer, "mlp.fc2", wide * torch.sigmoid(1.702 * wide))
    return norm(w, "post_layernorm", x, vision.eps)


def reduced(w: Weights, features: Tensor, spec: Spec) -> Tensor:
    """(1 + J, rows, columns, D): the H-Reducer's map; its end token is let go, and its norm never used."""
    kernel = spec.reducer.kernel
    side = spec.vision.image // spec.vision.patch
    maps = features[:, 1:].transpose(1, 2).reshape(len(features), -1, side, side)
    wide = gelu(conv2d(maps, w["reducer_before.0.weight"], w["reducer_before.0.bias"], stride=kernel))
    count, channels = kernel[0] * kernel[1], features.shape[-1]
    spread = torch.stack([wide[:, x * channels : (x + 1) * channels] for x in range(count)], -1).flatten(3)
    return project(
        w, "visual_fc", conv2d(spread, w["reducer.weight"], w["reducer.bias"], stride=kernel).permute(0, 2, 3, 1)
    )


def compressed(w: Weights, maps: Tensor, grid: tuple[int, int], spec: Spec) -> Tensor:
    """(Q + 1, D) of one page: each cell of the whole view asks those of the large map that lie behind it.

    Args:
        maps: of the whole view first, then of the tiles.
    """
    rows, columns = grid
    high, wide = maps.shape[1:3]
    large = torch.cat([torch.cat(list(maps[1 + row * columns : 1 + (row + 1) * columns]), 1) for row in range(rows)], 0)
    made = []
    for y in range(high):
        for x in range(wide):
            behind = large[y * rows : (y + 1) * rows, x * columns : (x + 1) * columns].flatten(0, 1)[None]
            made.append(asked(w, maps[0, y, x][None, None], behind, spec)[0, 0])
    return torch.cat([project(w, "compressor_fc", torch.stack(made)), w["compressor_eos"][0]])


def asked(w: Weights, x: Tensor, behind: Tensor, spec: Spec) -> Tensor:
    for number in range(spec.compressor.layers):
        layer = below(w, f"compressor_crossatt.layers.{number}.")
        x, keys = norm(layer, "norm1", x, 1e-5), norm(layer, "normk", behind, 1e-5)
        q, k, v = (
            project(layer, f"attention.{name}", of) for name, of in (("query", x), ("key", keys), ("value", keys))
        )
        x = x + project(layer, "output.out_proj", attend(q, k, v, spec.compressor.heads))
        mlp, y = below(layer, "output.mlp."), norm(layer, "output.norm2", x, 1e-5)
        gated = norm(mlp, "ffn_ln", silu(project(mlp, "w1", y)) * project(mlp, "w3", y), spec.compressor.eps)
        x = x + project(mlp, "w2", gated)
    return x


def page_tokens(w: Weights, page: Image.Image, grids: tuple[tuple[int, int], ...], spec: Spec) -> Tensor:
    grid = grid_of(*page.size, grids, spec.vision.image)
    features = tower(below(w, "model.vision_model."), cut(page, grid, spec.vision.image), spec)
    maps = reduced(below(w, "model.vision2text."), features, spec)
    return compressed(below(w, "model.hr_compressor."), maps, grid, spec)


def spliced(w: Weights, parts: list[list[int] | Tensor]) -> tuple[Tensor, Tensor]:
    """(T, D) and which of them a connector made: ids and pages' tokens one after the other."""
    words = w["model.embed_tokens.weight"]
    rows = [words[torch.tensor(part)] if isinstance(part, list) else part for part in parts]
    is_media = [torch.full((len(row),), not isinstance(part, list)) for row, part in zip(rows, parts, strict=True)]
    return torch.cat(rows), torch.cat(is_media)


def logits(w: Weights, x: Tensor, is_media: Tensor, spec: Spec) -> Tensor:
    """(T, V): a LLaMA whose norms, keys and values are those of each token's modality."""
    language, count = spec.language, len(x)
    width, group = language.dim // language.heads, language.heads // language.kv_heads
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
