"""What the tests of LLaVA's systems share: transformers' tiny peers, rows of pictures for both sides, the reference's splicing."""

# M pictures, V views, C channels
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scops.core.batch import Example, Span
from scops.core.layout import MediaLayout, Slot
from scops.data.tokenizer import Tokenizer
from scops.encoders.vit import Vit, VitSpec
from scops.language.llama import LlamaSpec
from scops.models.decoder import MultimodalDecoder
from tests.conftest import batch_of, close, randomise
from tests.twins import greedy

SLOT = 5
"""The id at the places of pictures in transformers' rows."""
ORDERS = {
    "first": (None, 7, 8, 9),
    "last": (1, 9, 8, 7, None),
    "adjacent": (1, 3, None, None, 4),
    "several": (1, None, 2, 3, None, 4, None, 8),
    "none": (1, 2, 3, 4, 6),
    "alone": (None,),
}
"""Ids, and None for a picture."""
SIZES = ((40, 90), (31, 31), (100, 20), (9, 7), (200, 211), (1, 300), (57, 28))
"""(height, width) of pictures, taken in turn."""


SMALL: dict[str, Any] = {
    "vision": VitSpec(dim=12, hidden=20, layers=3, heads=2, image=14, patch=7),
    "language": LlamaSpec(dim=24, hidden=36, layers=2, heads=4, kv_heads=2, vocab=60, context=900),
}
UNUSED = (
    "image.encoder.vit.post_norm.weight",
    "image.encoder.vit.post_norm.bias",
    *(f"image.encoder.vit.blocks.2.{name}" for name, _ in Vit(SMALL["vision"]).blocks[2].named_parameters()),
)
"""Of the tower, what comes after the hidden state that is taken."""


def peer(kind: str, *, tower: Any = None, text: Any = None, **more: Any) -> Any:
    """transformers' Llava or LlavaNext with random weights."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2}
    tower = transformers.CLIPVisionConfig(**{**sizes, "image_size": 28, "patch_size": 7, **(tower or {})})
    words = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    named = {"vocab_size": 60, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0, **words, **(text or {})}
    language = getattr(transformers, f"{named.pop('family', 'Llama')}Config")(**named)
    config = getattr(transformers, f"{kind}Config")(
        vision_config=tower, text_config=language, image_token_index=SLOT, **more
    )
    return randomise(getattr(transformers, f"{kind}ForConditionalGeneration")._from_config(config))


def drawn(seed: int) -> dict[str, Any]:
    """Random small sizes of a peer."""
    dice = np.random.default_rng(seed)

    def one(low: int, high: int) -> int:
        return int(dice.integers(low, high))

    heads, kv, patch, layers = one(1, 4), one(1, 3), one(3, 8), one(2, 5)
    tower = {
        "hidden_size": heads * one(3, 9), "num_attention_heads": heads, "intermediate_size": one(5, 30),
        "num_hidden_layers": layers, "patch_size": patch, "image_size": patch * one(2, 5),
    }  # fmt: skip
    text = {
        "hidden_size": 2 * kv * 2 * one(2, 6), "num_attention_heads": 2 * kv, "num_key_value_heads": kv,
        "intermediate_size": one(9, 50), "num_hidden_layers": one(1, 4), "vocab_size": one(40, 90),
        "rope_theta": float(one(50, 20_000)), "family": ("Llama", "Mistral", "Qwen2")[one(0, 3)], "sliding_window": None,
    }  # fmt: skip
    return {"tower": tower, "text": text, "vision_feature_layer": one(-layers, 0)}


def ours(module_file: Any, theirs: Any) -> tuple[Any, MultimodalDecoder]:
    """(spec, system) with the peer's config and weights."""
    spec = module_file.spec_of(theirs.config.to_dict())
    system = module_file.build(spec)
    system.load_state_dict(module_file.KEYS["transformers"](spec).load(theirs.state_dict()))
    return spec, system.eval()


def row(order: Sequence[int | None], media: MediaLayout, sizes: Sequence[tuple[int, int]]) -> Example:
    """Ids of words, and pictures of these (height, width) as the layout arranges them; everything else is learnt."""
    ids: list[int] = []
    spans, pictures, shapes = [], [], iter(sizes)
    for entry in order:
        if entry is not None:
            ids.append(entry)
            continue
        cut = media.cut_of(*next(shapes))
        slot = next(piece for piece in media.arrange(cut) if isinstance(piece, Slot))
        spans.append(Span("image", len(ids), slot.tokens, slot.places, slot.extent))
        pictures += [torch.randn(3, media.pixels.height, media.pixels.width).numpy() for _ in slot.places]
        ids += [SLOT] * slot.tokens
    learn = np.array([t > 0 and not any(s.start <= t < s.start + s.length for s in spans) for t in range(len(ids))])
    return Example(np.array(ids), learn, tuple(spans), {"image": tuple(pictures)} if pictures else {})


def sizes_of_rows() -> dict[str, list[tuple[int, int]]]:
    """Of the pictures of each order, other ones in turn."""
    following = cycle(SIZES)
    return {name: [next(following) for _ in range(order.count(None))] for name, order in ORDERS.items()}


def rows(media: MediaLayout) -> dict[str, Example]:
    return {name: row(ORDERS[name], media, sizes) for name, sizes in sizes_of_rows().items()}


def given(example: Example, sizes: Sequence[tuple[int, int]] = ()) -> dict[str, Tensor]:
    """The same row for transformers; `sizes` where pictures have views."""
    ids_1T = torch.from_numpy(example.ids_T)[None]
    found = {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}
    if not example.spans:
        return found
    pixels = torch.from_numpy(np.stack(example.media["image"]))
    if not sizes:
        return found | {"pixel_values": pixels}
    items = pixels.split([len(span.places) for span in example.spans])
    most = max(map(len, items))
    filled = torch.zeros(len(items), most, *pixels.shape[1:])
    for number, item in enumerate(items):
        filled[number, : len(item)] = item
    return found | {"pixel_values": filled, "image_sizes": torch.tensor(sizes)}


@torch.no_grad()
def equal(system: MultimodalDecoder, theirs: Any, example: Example, sizes: Sequence[tuple[int, int]] = ()) -> bool:
    """Logits, and the next eight best tokens."""
    inputs = given(example, sizes)
    assert close(system(batch_of(example)), theirs(**inputs).logits)
    made = theirs.generate(**inputs, max_new_tokens=8, do_sample=False)[0, len(example) :]
    assert torch.equal(greedy(system.session(batch_of(example), len(example) + 9), 8)[0], made)
    return True


def processor(kind: str, tokenizer: Tokenizer, **pixels: Any) -> Any:
    """transformers' own, with a tokenizer that has <image>; pictures of 28 pixels in patches of 7."""
    transformers = pytest.importorskip("transformers")
    square = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, bos_token="<s>", eos_token="</s>")
    return getattr(transformers, f"{kind}Processor")(
        getattr(transformers, f"{kind}ImageProcessorPil")(**square, **pixels), fast, patch_size=7,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip


def reads_alike(theirs: Any, made: Example, prompt: str, pictures: Sequence[Any], tokenizer: Tokenizer) -> bool:
    """Ids, where pictures stand in them, and their numbers."""
    given = theirs(images=list(pictures), text=prompt, return_tensors="np")
    slot = tokenizer.id_of("<image>")
    ids = made.ids_T.tolist()
    for span in made.spans:
        ids[span.start : span.start + span.length] = [slot] * span.length
    assert ids == given["input_ids"][0].tolist()
    pixels = given["pixel_values"]
    items = pixels if pixels[0].ndim == 3 else [view for item, span in zip(pixels, made.spans, strict=True)
                                                for view in item[: len(span.places)]]  # fmt: skip
    assert all(np.array_equal(a, b) for a, b in zip(made.media["image"], items, strict=True))
    return True
