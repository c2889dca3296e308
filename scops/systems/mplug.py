"""mPLUG (arXiv 2205.12005; alibaba/AliceMind, mPLUG): CLIP tower and text encoder -> skip-connected fusion -> decoder."""

# B rows, T tokens, S slots of pictures, D width
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from scops.checkpoints.hub_bert import (
    EMBEDDINGS, HUB_BERT, HUB_BERT_HEAD, bert_attention, bert_feed_forward, bert_layer,
)  # fmt: skip
from scops.checkpoints.hub_clip import OPENAI_CLIP
from scops.checkpoints.keymap import KeyMap, Rule, dropped, same
from scops.core.layout import Always, Layout, MediaLayout, Pixels, Role, Slot, Special, Template
from scops.core.stage import Stage
from scops.encoders.vit import Vit, VitSpec
from scops.language.bert import (
    Bert, BertSpec, Embeddings, bert, bert_decoder, cross_attention, cross_block, feed_forward, self_attention,
)  # fmt: skip
from scops.models.encoder_decoder import READ, EncoderDecoder, MediaFeatures
from scops.nn.block import Block
from scops.nn.context import Context, Memory
from scops.systems import Origins

TITLE = "mPLUG: Effective and Efficient Vision-Language Learning by Cross-modal Skip-connections"
PAPER = "arXiv 2205.12005"


@dataclass(frozen=True)
class FusionSpec:
    """Args:
    layers: owned; only the last `live` of them run.
    stride: every live layer whose number is a multiple of it, but the first, is joint.
    """

    layers: int = 12
    live: int = 6
    stride: int = 6

    def is_joint(self, number: int) -> bool:
        """number: of a live layer, from 0."""
        return number > 0 and number % self.stride == 0


@dataclass(frozen=True)
class Spec:
    """Args:
    text: of all three text stacks; its layers are the decoder's.
    reading: layers of the text encoder.
    """

    vision: VitSpec
    fusion: FusionSpec = field(default_factory=FusionSpec)
    text: BertSpec = field(default_factory=BertSpec)
    reading: int = 6


CLIP_B16 = VitSpec(dim=768, hidden=3072, layers=12, heads=12, image=256, patch=16)
CLIP_L14 = VitSpec(image=224)
SIZES = {"mplug-base": Spec(CLIP_B16, FusionSpec(stride=3)), "mplug-large": Spec(CLIP_L14)}


def build(spec: Spec) -> EncoderDecoder:
    text = bert(replace(spec.text, layers=spec.reading))
    narrow = nn.Identity() if spec.vision.dim == spec.text.dim else Narrowed(spec.vision.dim, spec.text)
    return EncoderDecoder(
        Encoder(text, Fusion(spec.fusion, spec.text)),
        bert_decoder(spec.text, READ),
        image=MediaFeatures(Vit(spec.vision), narrow),
    )


class Narrowed(nn.Module):
    """norm(project(x)), where the tower is wider than the text."""

    def __init__(self, dim: int, text: BertSpec):
        super().__init__()
        self.project, self.norm = nn.Linear(dim, text.dim), nn.LayerNorm(text.dim, 1e-12)

    def forward(self, x_MPD: Tensor) -> Tensor:
        return self.norm(self.project(x_MPD))


class Encoder(nn.Module):
    """Text alone, then text and pictures: what the decoder asks is [pictures ; text]."""

    def __init__(self, text: Bert, fusion: "Fusion"):
        super().__init__()
        self.text, self.fusion = text, fusion

    def read(self, ids_BT: Tensor, real_BT: Tensor) -> Tensor:
        """Text alone (B, T, D)."""
        positions_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device).expand_as(ids_BT)
        return self.text.hidden(self.text.embed(ids_BT), Context(positions_BT, real_BT[:, None, None]))

    def forward(self, ids_BT: Tensor, real_BT: Tensor, memories: Mapping[str, Memory]) -> Memory:
        text_BTD = self.read(ids_BT, real_BT)
        pictures = memories.get("image") or Memory(text_BTD[:, :0], ids_BT[:, :0])
        pictures, text_BTD = self.fusion(text_BTD, real_BT, pictures)
        features_BSD = torch.cat([pictures.features_BSD, text_BTD], 1)
        return Memory(features_BSD, torch.cat([pictures.item_BS, real_BT.long()], 1))


class Fusion(nn.Module):
    """Text asks the pictures in most layers; a joint layer reads [pictures ; text] and its pictures are added to the stream.

    The published stack owns layers and embeddings that never run; they are kept as `unused`, so that its files come back
    whole (section 3.2 and Figure 2 of the paper; mPLUG/models/modeling_mplug.py, FusionEncoder).
    """

    def __init__(self, spec: FusionSpec, text: BertSpec):
        super().__init__()
        joint = [spec.is_joint(number) for number in range(min(spec.live, spec.layers))]
        self.blocks = nn.ModuleList(
            Block(attn=self_attention(text), mlp=feed_forward(text)) if is_joint else cross_block(text, "image")
            for is_joint in joint
        )
        self.joint = tuple(joint)
        self.unused = nn.Module()
        self.unused.embeddings = Embeddings(text)
        self.unused.blocks = nn.ModuleList(cross_block(text, "image") for _ in range(spec.layers - len(joint)))
        self.unused.cross = nn.ModuleDict(
            {str(n): cross_attention(text, "image") for n, is_ in enumerate(joint) if is_}
        )

    def forward(self, text_BTD: Tensor, real_BT: Tensor, pictures: Memory) -> tuple[Memory, Tensor]:
        seen_BS = torch.cat([pictures.item_BS > 0, real_BT], 1)
        for block, is_joint in zip(self.blocks, self.joint, strict=True):
            if is_joint:
                both_BSD = torch.cat([pictures.features_BSD, text_BTD], 1)
                both_BSD = block(both_BSD, Context(visible=seen_BS[:, None, None]))
                added_BSD, text_BTD = both_BSD.split([both_BSD.shape[1] - real_BT.shape[1], real_BT.shape[1]], 1)
                pictures = replace(pictures, features_BSD=pictures.features_BSD + added_BSD)
            else:
                text_BTD = block(text_BTD, Context(visible=real_BT[:, None, None], memories={"image": pictures}))
        return pictures, text_BTD


# How published --------------------------------------------------------------------------------------------------------

CLIP_REST = "CLIP's text side, which mPLUG owns and never reads; a file of CLIP has it"
CLIP_UNREAD = KeyMap(
    dropped("visual.proj", "the projection that `skip_last_layer` skips"),
    *(dropped(name, CLIP_REST) for name in ("positional_embedding", "text_projection", "logit_scale")),
    *(dropped(name, CLIP_REST) for name in ("token_embedding.weight", "ln_final.{w}")),
    *(dropped("transformer.resblocks.{i}." + n, CLIP_REST) for n in ("{part}.{w}", "attn.{w}", "{part}.{layer}.{w}")),
)


def authors(spec: Spec) -> KeyMap:
    """MPLUG of mPLUG/models/model_vqa_mplug.py."""
    return KeyMap(
        OPENAI_CLIP.under("visual_encoder.visual.", "image.encoder."),
        CLIP_UNREAD.under("visual_encoder."),
        same("visn_fc.{w}", "image.connector.project.{w}"),
        same("visn_layer_norm.{w}", "image.connector.norm.{w}"),
        HUB_BERT.under("text_encoder.", "encoder.text."),
        KeyMap(*_fusion(spec.fusion)).under("fusion_encoder.", "encoder.fusion."),
        HUB_BERT_HEAD.under("text_decoder.", "decoder."),
    )


def _fusion(spec: FusionSpec) -> Sequence[Rule | KeyMap]:
    """Layer by layer: those before the live ones, and of a joint one the cross-attention, are not used."""
    dead = spec.layers - min(spec.live, spec.layers)
    rules: list[Rule | KeyMap] = [EMBEDDINGS.under(ours="unused.")]
    for number in range(spec.layers):
        theirs, ours = f"encoder.layer.{number}.", f"blocks.{number - dead}."
        if number < dead:
            rules.append(KeyMap(bert_layer(theirs, f"unused.blocks.{number}.")))
        elif spec.is_joint(number - dead):
            cross = bert_attention(theirs + "crossattention.", f"unused.cross.{number - dead}.")
            rules.append(
                KeyMap(bert_attention(theirs + "attention.", ours + "attn."), cross, bert_feed_forward(theirs, ours))
            )
        else:
            rules.append(KeyMap(bert_layer(theirs, ours)))
    return rules


KEYS = {"authors": authors}
