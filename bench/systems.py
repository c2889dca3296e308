"""A question about a picture, answered by three ways of joining sight and language, against transformers' same systems with equal
weights: LLaVA (in the sequence), BLIP-2 (through queries) and IDEFICS (beside the sequence, gated cross-attention).

Weights are random; towers and language models are of SmolLM2-135M's width, so that both sides run on a small machine.
"""

# T tokens
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from bench import decode
from bench.pair import Pair, Settings, Skip, interleave, run, timed
from scops.core.batch import Batch, Example, Span
from scops.data.collate import pad
from scops.systems import blip2, idefics, llava

WORDS, NEW, MARK = 32, 32, 1000
"""Words of the question, tokens of the reply, and the id that stands for a picture."""
TOWER = {
    "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 224,
    "patch_size": 14,
}  # fmt: skip
LANGUAGE = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 16, "num_attention_heads": 9, "vocab_size": 16384,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
OPT = {
    "model_type": "opt", "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "vocab_size": 16384, "max_position_embeddings": 512, "word_embed_proj_dim": 768,
}  # fmt: skip
ASKING = {
    "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536, "encoder_hidden_size": 384,
}  # fmt: skip
RESAMPLER = {
    "use_resampler": True, "resampler_depth": 3, "resampler_n_heads": 6, "resampler_head_dim": 64, "resampler_n_latents": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Same:
    """One system twice, and one question for both.

    Args:
        asked: what transformers' is asked.
    """

    ours: Any
    theirs: nn.Module
    batch: Batch
    asked: Mapping[str, Tensor]


def of_llava(dtype: torch.dtype) -> Same:
    text = transformers.LlamaConfig(**LANGUAGE, tie_word_embeddings=False)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**TOWER), text_config=text, image_token_index=MARK
    )
    theirs = made(transformers.LlavaForConditionalGeneration, config, dtype)
    room = (TOWER["image_size"] // TOWER["patch_size"]) ** 2
    return same(llava, theirs, dtype, words()[:1] + [MARK] * room + words()[1:], Span("image", 1, room))


def of_blip2(dtype: torch.dtype) -> Same:
    config = transformers.Blip2Config(
        vision_config=TOWER, qformer_config=ASKING, text_config=OPT, image_token_index=MARK
    )
    theirs = made(transformers.Blip2ForConditionalGeneration, config, dtype)
    width = TOWER["hidden_size"]
    for layer in theirs.vision_model.encoder.layers:  # published towers have no bias of keys
        nn.init.zeros_(layer.self_attn.qkv.bias[width : 2 * width])
    room = config.num_query_tokens
    return same(blip2, theirs, dtype, [MARK] * room + [2, *words()], Span("image", 0, room))


def of_idefics(dtype: torch.dtype) -> Same:
    vision = {name: value for name, value in TOWER.items() if name != "hidden_size"} | {
        "embed_dim": TOWER["hidden_size"]
    }
    config = transformers.IdeficsConfig(
        **LANGUAGE | {"vocab_size": MARK}, additional_vocab_size=2, cross_layer_interval=4, use_resampler=True,
        vision_config=vision, perceiver_config=RESAMPLER,
    )  # fmt: skip
    theirs = made(transformers.IdeficsForVisionText2Text, config, dtype)
    found = same(idefics, theirs, dtype, [1, MARK, *(word % MARK for word in words())], Span("image", 1, 0))
    mask = (torch.arange(found.batch.ids_BT.shape[1]) >= 1)[None, :, None]
    asked = {**found.asked, "pixel_values": found.asked["pixel_values"][:, None], "image_attention_mask": mask.long()}
    return replace(found, asked=asked)


def words() -> list[int]:
    return torch.randint(3, 900, (WORDS,), generator=torch.Generator().manual_seed(0)).tolist()


def made(kind: Any, config: Any, dtype: torch.dtype) -> nn.Module:
    """transformers' model with random weights, gates open."""
    torch.manual_seed(0)
    theirs = kind._from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    for name, parameter in theirs.named_parameters():
        if parameter.ndim > 1 or "alpha" in name:
            nn.init.normal_(parameter, std=0.05)
    return theirs.to(dtype).eval()


def same(module: Any, theirs: nn.Module, dtype: torch.dtype, ids: list[int], span: Span) -> Same:
    """Ours with the weights of theirs, read through the key maps of published files."""
    spec = module.spec_of(json.loads(json.dumps(theirs.config.to_dict())))
    keys, state = module.KEYS["transformers"](spec), theirs.state_dict()
    tied = {name for name in state if name.endswith("lm_head.weight") and _is_tied(theirs, state[name])}
    ours = module.build(spec).to(dtype)
    ours.load_state_dict(keys.load({name: x for name, x in state.items() if name not in tied}))
    side = TOWER["image_size"]
    pixels = torch.randn(3, side, side, generator=torch.Generator().manual_seed(1))
    example = Example(np.array(ids), np.zeros(len(ids), np.bool_), (span,), {"image": (pixels.numpy(),)})
    seen = pixels[None].to(dtype)
    batch = replace(pad([example], pad_id=0), media={"image": seen})
    return Same(ours.eval(), theirs, batch, decode.of_words(ids) | {"pixel_values": seen})


def _is_tied(theirs: nn.Module, head: Tensor) -> bool:
    return theirs.get_input_embeddings().weight.data_ptr() == head.data_ptr()


SYSTEMS: Mapping[str, Callable[[torch.dtype], Same]] = {"LLaVA": of_llava, "BLIP-2": of_blip2, "IDEFICS": of_idefics}


def measure(settings: Settings) -> Iterator[Pair | Skip]:
    for name, make in SYSTEMS.items():
        if settings.only not in name:
            continue
        for dtype in (torch.float32, torch.bfloat16):
            yield from pairs(name, make(dtype), settings)


def pairs(name: str, both: Same, settings: Settings) -> Iterator[Pair]:
    mine = lambda new=NEW: decode.ours(both.ours, both.batch, new)
    other = lambda new=NEW: decode.theirs(both.theirs, both.asked, new)
    checked = decode.check(mine(), other())
    kind = f"{name}, {str(next(both.theirs.parameters()).dtype).removeprefix('torch.')}"
    first = interleave(timed(lambda: mine(1)), timed(lambda: other(1)), settings.rounds)
    yield Pair(f"{kind}: a picture and {WORDS} words", f"transformers' {name}", "first token", None, checked, first)
    rest = interleave(lambda: mine().seconds, lambda: other().seconds, settings.rounds)
    yield Pair(f"{kind}: greedy behind them", f"transformers' {name}", "tokens", NEW - 1, checked, rest)


if __name__ == "__main__":
    run("systems", measure, rounds=5)
