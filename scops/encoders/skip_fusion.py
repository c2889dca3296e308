"""Text and pictures fused with skip connections (mPLUG, arXiv 2205.12005, section 3.2; AliceMind mPLUG/models/modeling_mplug.py)."""

# B rows, N pairs, T tokens, P features per picture, S slots of pictures (and text), D width, V vocabulary
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from scops.core.pairs import Texts
from scops.language.bert import (
    Bert,
    BertSpec,
    Embeddings,
    cross_attention,
    cross_block,
    feed_forward,
    self_attention,
)  # fmt: skip
from scops.nn.block import Block
from scops.nn.context import Context, Memory


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


class SkipFusionEncoder(nn.Module):
    """Text alone, then text and pictures: what the decoder asks is [pictures ; text]."""

    def __init__(self, text: Bert, fusion: "Fusion"):
        super().__init__()
        self.text, self.fusion = text, fusion

    def embed(self, ids: Tensor) -> Tensor:
        return self.text.embed(ids)

    def read(self, ids_BT: Tensor, real_BT: Tensor) -> Tensor:
        """Text alone (B, T, D)."""
        return self._states(self.embed(ids_BT), real_BT)

    def _states(self, words_BTD: Tensor, real_BT: Tensor) -> Tensor:
        positions_BT = torch.arange(real_BT.shape[1], device=real_BT.device).expand_as(real_BT)
        return self.text.hidden(words_BTD, Context(positions_BT, real_BT[:, None, None]))

    def fused(self, texts: Texts, pictures_NPD: Tensor) -> Tensor:
        """(N, T, D): each text with its picture."""
        item_NP = torch.ones(pictures_NPD.shape[:2], dtype=torch.long, device=pictures_NPD.device)
        return self.fusion(texts.states_NTD, texts.real_NT, Memory(pictures_NPD, item_NP))[1]

    @property
    def words(self) -> Tensor:
        """(V, D): what masked words are told by; the head of FusionForMaskedLM is tied to them."""
        return self.fusion.embeddings.words.weight

    def forward(self, words_BTD: Tensor, real_BT: Tensor, memories: Mapping[str, Memory]) -> Memory:
        text_BTD = self._states(words_BTD, real_BT)
        pictures = memories.get("image") or Memory(text_BTD[:, :0], real_BT[:, :0].long())
        pictures, text_BTD = self.fusion(text_BTD, real_BT, pictures)
        features_BSD = torch.cat([pictures.features_BSD, text_BTD], 1)
        return Memory(features_BSD, torch.cat([pictures.item_BS, real_BT.long()], 1))


class Fusion(nn.Module):
    """Text asks the pictures in most layers; a joint layer reads [pictures ; text] and its pictures are added to the stream.

    The published stack owns layers that never run; they are kept as `unused`, so that its files come back whole. Of its
    embeddings only the words are ever used, by the head that fills in masks (FusionEncoder, FusionForMaskedLM).
    """

    def __init__(self, spec: FusionSpec, text: BertSpec):
        super().__init__()
        joint = [spec.is_joint(number) for number in range(min(spec.live, spec.layers))]
        self.blocks = nn.ModuleList(
            Block(attn=self_attention(text), mlp=feed_forward(text)) if is_joint else cross_block(text, "image")
            for is_joint in joint
        )
        self.joint = tuple(joint)
        self.embeddings, self.unused = Embeddings(text), nn.Module()
        self.unused.blocks = nn.ModuleList(cross_block(text, "image") for _ in range(spec.layers - len(joint)))
        self.unused.cross = nn.ModuleDict(
            {str(n): cross_attention(text, "image") for n, is_ in enumerate(joint) if is_}
        )

    def forward(self, text_BTD: Tensor, real_BT: Tensor, pictures: Memory) -> tuple[Memory, Tensor]:
        assert pictures.features_BSD is not None, "the fusion reads features, not kept keys"
        seen_BS = torch.cat([pictures.item_BS > 0, real_BT], 1)
        picture_BSD = pictures.features_BSD
        for block, is_joint in zip(self.blocks, self.joint, strict=True):
            if is_joint:
                both_BSD = torch.cat([picture_BSD, text_BTD], 1)
                both_BSD = block(both_BSD, Context(visible=seen_BS[:, None, None]))
                added_BSD, text_BTD = both_BSD.split([both_BSD.shape[1] - real_BT.shape[1], real_BT.shape[1]], 1)
                picture_BSD = picture_BSD + added_BSD
                pictures = replace(pictures, features_BSD=picture_BSD)
            else:
                text_BTD = block(text_BTD, Context(visible=real_BT[:, None, None], memories={"image": pictures}))
        return pictures, text_BTD
