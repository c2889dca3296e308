"""A LLaVA of random eyes over a language model of ours (LLaVA-1.5, arXiv 2310.03744), and transformers' with its weights."""

# M pictures, C channels, P patches, D width
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from scops.core.batch import Example, Span
from scops.data.processor import Processor
from scops.encoders.vit import VitSpec
from scops.model import Model
from scops.models.decoder import MultimodalDecoder
from scops.systems.llama import language_config
from scops.systems.llava import Spec, sight
from scops.systems.llava import transformers as hub

EYES = VitSpec(dim=384, hidden=1536, layers=12, heads=6, image=336)
"""A small tower at LLaVA-1.5's resolution: 576 tokens a picture."""
SLOT = 0
"""The id at the places of pictures; it stands nowhere else."""


def spec_of(model: Model, eyes: VitSpec = EYES) -> Spec:
    return Spec(eyes, language=model.spec.language)


def llava(model: Model, eyes: VitSpec = EYES) -> MultimodalDecoder:
    """The language model of `model` (its own weights, not copied), with random eyes and a random projector."""
    torch.manual_seed(0)
    seen = sight(spec_of(model, eyes))
    for parameter in seen.encoder.parameters():
        nn.init.normal_(parameter, std=0.02)
    made = MultimodalDecoder(model.module.language, image=seen)
    return made.to(model.dtype).eval()


def peer_of(system: MultimodalDecoder, model: Model, eyes: VitSpec = EYES) -> nn.Module:
    """transformers' module with the same weights."""
    spec = model.spec.language
    numbers = language_config(spec)
    if numbers.pop("model_type") != "llama":
        raise ValueError("the peer is a LLaVA over a LLaMA")
    tower = CLIPVisionConfig(
        hidden_size=eyes.dim, intermediate_size=eyes.hidden, num_hidden_layers=eyes.layers,
        num_attention_heads=eyes.heads, image_size=eyes.image, patch_size=eyes.patch, projection_dim=eyes.dim,
        layer_norm_eps=eyes.eps, hidden_act=eyes.activation,
    )  # fmt: skip
    text = LlamaConfig(**numbers, bos_token_id=None, eos_token_id=None)
    config = LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=SLOT, projector_hidden_act="gelu",
        tie_word_embeddings=spec.tied,
    )  # fmt: skip
    theirs = LlavaForConditionalGeneration._from_config(config, dtype=model.dtype, attn_implementation="sdpa")
    state = {_in_memory(name): x for name, x in hub(spec_of(model, eyes)).save(system.state_dict()).items()}
    found = theirs.load_state_dict(state, strict=False)
    if found.unexpected_keys or set(found.missing_keys) - ({"lm_head.weight"} if spec.tied else set()):
        raise ValueError(f"transformers' LLaVA and our key maps disagree: {found}")
    theirs.generation_config = transformers.GenerationConfig(pad_token_id=SLOT)
    return theirs.eval()


def _in_memory(name: str) -> str:
    """transformers 5 has other names in memory than in files."""
    name = name.replace("language_model.lm_head.", "lm_head.").replace("vision_model.", "")
    return name if name.startswith("lm_head.") else "model." + name.replace("language_model.model.", "language_model.")


def asked(before: Sequence[int], picture: Tensor | None, after: Sequence[int], eyes: VitSpec = EYES) -> Example:
    """Words, a picture (C, image, image) or none, words."""
    slots = eyes.tokens - 1 if picture is not None else 0
    ids = np.array([*before, *[SLOT] * slots, *after])
    spans = (Span("image", len(before), slots),) if slots else ()
    media = {"image": (picture.numpy(),)} if picture is not None else {}
    return Example(ids, np.zeros(len(ids), np.bool_), spans, media, name=f"{len(ids)} tokens")


def inputs_of(example: Example, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same for transformers."""
    ids_1T = torch.from_numpy(example.ids_T)[None]
    pixels = {kind: torch.from_numpy(np.stack(items)).to(dtype) for kind, items in example.media.items()}
    found = {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}
    return found | ({"pixel_values": pixels["image"]} if pixels else {})


def endless(model: Model) -> Processor:
    """The model's processor with a template at whose tokens no reply ends."""
    return Processor(replace(model.layout, template=replace(model.layout.template, stops=())), model.tokenizer)


def picture(seed: int, eyes: VitSpec = EYES) -> Tensor:
    return torch.randn(3, eyes.image, eyes.image, generator=torch.Generator().manual_seed(seed))
