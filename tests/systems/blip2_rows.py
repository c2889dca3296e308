"""What the tests of BLIP-2 and InstructBLIP share: transformers' tiny peers, rows of pictures and what both sides make of them."""

# M pictures, Q tokens per picture
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scops.core.batch import Example
from scops.encoders.eva import EvaSpec
from scops.language.t5 import T5Spec
from tests.conftest import batch_of, close, example, randomise
from tests.twins import greedy

QUERIES, IMAGE = 3, 60
VISION = {
    "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 14,
    "patch_size": 7, "layer_norm_eps": 1e-5,
}  # fmt: skip
QFORMER = {
    "vocab_size": 31, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 10,
    "cross_attention_frequency": 2, "encoder_hidden_size": 12, "max_position_embeddings": 20,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "small": {"vision_config": VISION, "qformer_config": QFORMER, "num_query_tokens": QUERIES},
    "other": {
        "vision_config": VISION | {"hidden_size": 8, "num_attention_heads": 2, "image_size": 21, "num_hidden_layers": 1,
                                   "layer_norm_eps": 1e-3},
        "qformer_config": QFORMER | {"num_hidden_layers": 4, "cross_attention_frequency": 3, "encoder_hidden_size": 8,
                                     "layer_norm_eps": 1e-6},
        "num_query_tokens": 5,
    },
}  # fmt: skip
TEXT: dict[str, dict[str, Any]] = {
    "opt": {
        "model_type": "opt", "vocab_size": 61, "hidden_size": 16, "ffn_dim": 20, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64, "word_embed_proj_dim": 16,
    },
    "llama": {
        "model_type": "llama", "vocab_size": 61, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    },
    "t5": {
        "model_type": "t5", "vocab_size": 61, "d_model": 16, "d_ff": 20, "num_layers": 2, "num_heads": 2, "d_kv": 5,
        "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu", "tie_word_embeddings": False,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 9, "decoder_start_token_id": 0,
    },
}  # fmt: skip
EYE = EvaSpec(12, 20, 2, 3, image=14, patch=7)
SMALL_T5 = T5Spec(dim=16, hidden=20, layers=2, heads=2, head_dim=5, vocab=53, buckets=8, farthest=9)


def peer(name: str, kind: str, size: str = "small") -> nn.Module:
    """transformers' Blip2 or InstructBlip with random weights."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(text_config=TEXT[kind], image_token_index=IMAGE, **SIZES[size])
    made = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    if kind == "t5":  # transformers 5 ties its head in any case, and unties it by what it loads
        made.language_model.lm_head.weight = nn.Parameter(torch.empty_like(made.language_model.lm_head.weight))
    randomise(made)
    width = SIZES[size]["vision_config"]["hidden_size"]
    for layer in made.vision_model.encoder.layers:  # published towers have no bias of keys
        nn.init.zeros_(layer.self_attn.qkv.bias[width : 2 * width])
    return made


def published(theirs: nn.Module) -> dict[str, Tensor]:
    """As a file of transformers has it: tied tensors once."""
    again = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
    tied = "language_model.model.decoder.embed_tokens.weight" in theirs.state_dict()
    return {
        name: x for name, x in theirs.state_dict().items()
        if not name.removeprefix("language_model.").startswith(again) and not (tied and name.endswith("lm_head.weight"))
    }  # fmt: skip


def ours(module_file: Any, theirs: nn.Module) -> tuple[Any, Any]:
    """(system, spec) with the peer's config and weights."""
    named = published(theirs)
    spec = module_file.spec_of(json.loads(json.dumps(theirs.config.to_dict())))
    spec = module_file.settled(spec, {name: tuple(x.shape) for name, x in named.items()})
    system = module_file.build(spec)
    system.load_state_dict(module_file.KEYS["transformers"](spec).load(named))
    return system.eval(), spec


def row(
    kind: str, text: list[int], reply: list[int], room: int, *pixels: Tensor, at: tuple[int, ...] = (0,)
) -> Example:
    """Pictures at these places of a text; for T5 a reply behind it."""
    ids, spans = [*text], []
    for number, place in enumerate(at[: len(pixels)]):
        start = place + number * room
        ids[start:start] = [0] * room
        spans.append((start, room))
    made = example(ids + (reply if kind == "t5" else []), tuple(spans), [*pixels])
    if kind == "t5":
        begins = len(ids)
        made = replace(made, learn_T=np.arange(len(made)) > begins, reply=begins)
    return replace(made, digests={})


def told(one: Example, *words: Sequence[int]) -> Example:
    """With words that the Q-Former reads with each picture."""
    return replace(one, words={"image": tuple(np.array(ids) for ids in words)}) if words else one


def questions(kind: str, spec: Any, words: Sequence[Sequence[int]] = ()) -> list[Example]:
    """Two rows of a picture and a question, and the first words of a reply; with words for the Q-Former where it reads any."""
    texts, replies, read = ([2, 7, 8, 9, 11], [2, 5]), ([0, 4, 6], [0, 9]), words or ((), ())
    pixels = torch.randn(2, 3, spec.vision.image, spec.vision.image)
    made = [
        row(kind, text, reply, spec.qformer.queries, one)
        for text, reply, one in zip(texts, replies, pixels, strict=True)
    ]
    return [told(one, ids) if len(ids) else one for one, ids in zip(made, read, strict=True)]


def given(rows: Sequence[Example]) -> dict[str, Tensor]:
    """The prompts of rows for transformers: padded on the left, as published processors do, the Q-Former's words on the right."""
    prompts = []
    for one in rows:
        ids = torch.from_numpy(one.ids_T[: one.reply].copy())
        for span in one.spans:
            ids[span.start : span.start + span.length] = IMAGE
        prompts.append(ids)
    words = [torch.from_numpy(ids) for one in rows for ids in one.words.get("image", ())]
    shown = torch.stack([torch.from_numpy(picture) for one in rows for picture in one.media["image"]])
    found = {"pixel_values": shown} | padded("", prompts, "left")
    return found | padded("qformer_", words, "right") if words else found


def padded(name: str, rows: Sequence[Tensor], side: str) -> dict[str, Tensor]:
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1, padding_side=side)
    real = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return {f"{name}input_ids": ids, f"{name}attention_mask": real}


def logits_equal(system: Any, theirs: nn.Module, rows: Sequence[Example]) -> bool:
    """Of all that a decoder reads; of an encoder-decoder's reply."""
    for made, one in zip(system(batch_of(*rows)), rows, strict=True):
        start, reply = one.reply or 0, {}
        if one.reply is not None:
            reply = {"decoder_input_ids": torch.from_numpy(one.ids_T[start:])[None]}
        assert close(made[start : len(one)], theirs(**given([one]), **reply).logits[0])
    return True


def replies_equal(system: Any, theirs: nn.Module, rows: Sequence[Example], count: int = 9) -> bool:
    """Greedy ones, of prompts of unequal length; what an encoder-decoder's row has of a reply is left out but for its beginning."""
    rows = [one if one.reply is None else first(one, one.reply + 1) for one in rows]
    more = {"min_new_tokens": count, "max_new_tokens": count, "do_sample": False, "use_cache": True}
    found = theirs.generate(**given(rows), **more)[:, -count:]
    end = theirs.generation_config.eos_token_id or theirs.language_model.generation_config.eos_token_id
    assert greedy(system.session(batch_of(*rows), 40), count, but=end).tolist() == found.tolist()
    return True


def first(one: Example, tokens: int) -> Example:
    return replace(one, ids_T=one.ids_T[:tokens], learn_T=one.learn_T[:tokens])


ROWS = {
    "first": ((0,), [8, 9, 7], [0, 5]),
    "last": ((3,), [8, 9, 7], [0]),
    "adjacent": ((1, 1), [6, 5], [0, 5, 6, 7]),
    "several": ((0, 1, 3), [11, 12, 13, 14], [0, 9, 8]),
    "none": ((), [16, 17, 4, 9, 9, 8, 5], [0, 4]),
    "alone": ((0,), [], [0, 19]),
}


def rows(kind: str) -> dict[str, Example]:
    return {
        name: row(kind, text, reply, QUERIES, *(torch.randn(3, 14, 14) for _ in at), at=at)
        for name, (at, text, reply) in ROWS.items()
    }
