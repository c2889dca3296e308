"""A LLaVA of random eyes over a language model of ours (LLaVA-1.5, arXiv 2310.03744), and transformers' with its weights."""

# M pictures, C channels, P patches, D width
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from scops.checkpoints.hub_clip import HUB_CLIP_BARE
from scops.checkpoints.hub_llama import HUB_LLAMA, HUB_LLAMA_TIED
from scops.core.batch import Example, Span
from scops.data.processor import Processor
from scops.encoders.vit import Vit, VitSpec
from scops.model import Model
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.nn.context import Context
from scops.systems.llama import language_config

EYES = VitSpec(dim=384, hidden=1536, layers=12, heads=6, image=336)
"""A small tower at LLaVA-1.5's resolution: 576 tokens a picture."""
SLOT = 0
"""The id at the places of pictures; it stands nowhere else."""


class Patches(nn.Module):
    """All blocks but the last, without the class token: LLaVA's choice of features.

    forward: (M, C, image, image) -> (M, P, D)
    """

    def __init__(self, vit: Vit):
        super().__init__()
        self.vit = vit

    def forward(self, pixels_MCHW: Tensor) -> Tensor:
        x_MPD, ctx = self.vit.embed(pixels_MCHW), Context()
        for block in self.vit.blocks[:-1]:
            x_MPD = block(x_MPD, ctx)
        return x_MPD[:, 1:]


def llava(model: Model, eyes: VitSpec = EYES) -> MultimodalDecoder:
    """The language model of `model` (its own weights, not copied), with random eyes and a random projector."""
    width = model.spec.language.dim
    torch.manual_seed(0)
    encoder = Patches(Vit(eyes))
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.02)
    connector = nn.Sequential(nn.Linear(eyes.dim, width), nn.GELU(), nn.Linear(width, width))
    made = MultimodalDecoder(model.module.language, image=MediaInput(encoder, connector, Inline()))
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
    language = (HUB_LLAMA_TIED if spec.tied else HUB_LLAMA).save(system.language.state_dict())
    state = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in language.items()}
    seeing = HUB_CLIP_BARE.save(system.input("image").encoder.vit.state_dict())
    state |= {f"model.vision_tower.{name}": tensor for name, tensor in seeing.items()}
    first, _, second = system.input("image").connector
    for name, linear in (("linear_1", first), ("linear_2", second)):
        state |= {f"model.multi_modal_projector.{name}.{w}": tensor for w, tensor in linear.state_dict().items()}
    found = theirs.load_state_dict(state, strict=False)
    if found.unexpected_keys or set(found.missing_keys) - ({"lm_head.weight"} if spec.tied else set()):
        raise ValueError(f"transformers' LLaVA and our key maps disagree: {found}")
    theirs.generation_config = transformers.GenerationConfig(pad_token_id=SLOT)
    return theirs.eval()


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
