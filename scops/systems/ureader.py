"""UReader (arXiv 2310.05126; LukeForeverYoung/UReader), also published as DocOwl 1.0 and PaperOwl: mPLUG-Owl that reads pieces.

A large picture is a whole view and tiles; each is a picture of mPLUG-Owl, told apart by learned rows and columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from scops.checkpoints.hub_llama import HUB_LLAMA
from scops.checkpoints.keymap import KeyMap, same
from scops.connectors.abstractor import AbstractorSpec, VisualAbstractor, tokens_for
from scops.core.batch import Tiles
from scops.core.layout import Each, Layout, MediaLayout, Slot
from scops.core.stage import Stage
from scops.core.template import Role, Special, Template, Written
from scops.data.grids import grids, longest_side
from scops.data.tiling import AnchorFit
from scops.encoders.vit import Vit, VitSpec
from scops.language.llama import LlamaSpec, llama
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.nn.tiled import Tiled
from scops.systems import Origins, mplug_owl
from scops.systems.llama import language_config, language_spec
from scops.systems.mplug_owl import ABSTRACTOR, LORA, sight_config, sight_of, squares, tower

# I pieces of all pictures, P features per piece, Q queries, D width

TITLE = "UReader: Universal OCR-free Visually-situated Language Understanding with Multimodal Large Language Model"
PAPER = "arXiv 2310.05126"


@dataclass(frozen=True)
class Spec:
    """Args:
    grids: a name of scops.data.grids; PaperOwl has "grid_2x2".
    places: rows and columns that can be told apart; the whole view takes the longest side of the grids.
    """

    vision: VitSpec = field(default_factory=lambda: VitSpec(eps=1e-6))
    abstractor: AbstractorSpec = field(default_factory=AbstractorSpec)
    language: LlamaSpec = field(default_factory=LlamaSpec)
    grids: str = "grid_20"
    places: int = 15


SIZES = {"ureader-7b": Spec()}


class PlacedAbstractor(Tiled):
    """told(asked(features) + (rows[r] + columns[c]) / 2): the place is added to the queries after the last layer.

    The paper adds it after the projection and whole; all code as here. forward: (I, P, D) -> (I, Q + 1, out)

    Args:
        whole: the row and the column that the whole view has.
    """

    def __init__(self, abstractor: VisualAbstractor, *, dim: int, places: int, whole: int):
        super().__init__()
        if whole >= places:
            raise ValueError(f"the whole view has row and column {whole}, but there are {places} places, from 0")
        self.abstractor, self.whole = abstractor, whole
        self.rows, self.columns = nn.Embedding(places, dim), nn.Embedding(places, dim)

    def forward(self, features_IPD: Tensor, tiles: Tiles) -> Tensor:
        row_I, column_I = torch.where(tiles.place_I2 < 0, self.whole, tiles.place_I2).unbind(1)
        place_ID = (self.rows(row_I) + self.columns(column_I)) * 0.5
        return self.abstractor.told(self.abstractor.asked(features_IPD) + place_ID[:, None])


def build(spec: Spec) -> MultimodalDecoder:
    connector = PlacedAbstractor(
        VisualAbstractor(spec.abstractor, out=spec.language.dim),
        dim=spec.abstractor.dim, places=spec.places, whole=longest_side(spec.grids),
    )  # fmt: skip
    return MultimodalDecoder(llama(spec.language), image=MediaInput(Vit(spec.vision), connector, Inline()))


# How published --------------------------------------------------------------------------------------------------------


def authors(spec: Spec) -> KeyMap:
    """mPLUG-Owl's names and two tables."""
    ours = "image.connector."
    return KeyMap(
        tower(spec.vision.heads).under("vision_model.", "image.encoder."),
        same("query_tokens", ours + "abstractor.queries"),
        same("abstractor.cut_patch_embedding_h.weight", ours + "rows.weight"),
        same("abstractor.cut_patch_embedding_w.weight", ours + "columns.weight"),
        ABSTRACTOR.under("abstractor.", ours + "abstractor."),
        HUB_LLAMA.under("language_model.", "language."),
    )


KEYS = {"authors": authors}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that a config.json means; None when it is another system's.

    The authors' own file is mPLUG-Owl's to the letter, so that the names of the weights decide between the two; what makes it
    UReader's stands in the code's arguments. Ours says it in the arguments' own word.
    """
    kind = config.get("patch_pos_embed_type", "post")
    if config.get("model_type") != "mplug-owl" or "visual_abstractor_config" not in config:
        return None
    if kind != "post":
        raise ValueError(f"this UReader has the patch_pos_embed_type {kind!r}; the released one has 'post'")
    text = config["text_config"]
    if text.get("model_type", "llama") != "llama":
        if "patch_pos_embed_type" not in config:
            return None  # mPLUG-Owl's
        raise ValueError(f"this UReader has a {text['model_type']!r} language model; the published one has 'llama'")
    return Spec(*sight_of(config), language_spec(text))


def settled(spec: Spec, shapes: Mapping[str, tuple[int, ...]]) -> Spec:
    """As mPLUG-Owl's."""
    return mplug_owl.settled(spec, shapes)


def config_of(spec: Spec) -> dict[str, Any]:
    text = {"text_config": language_config(spec.language), "patch_pos_embed_type": "post"}
    return sight_config(spec.vision, spec.abstractor) | text


CONFIGS = {"authors": config_of}


# How read -------------------------------------------------------------------------------------------------------------

TEMPLATE = Template(
    {
        "system": Role(after=(Written("\n"),)),
        "user": Role(before=(Written("Human: "),), between=(Written("\nHuman: "),)),
        "assistant": Role(before=(Written("\nAI: "),), after=(Special("</s>"),), rest=(Written("\n"),)),
    },
    start=(Special("<s>"),),
    stops=("</s>",),
)


def layout(spec: Spec) -> Layout:
    side = spec.vision.image
    pieces = MediaLayout(
        squares(side), Each(Slot("image", tokens_for(spec.abstractor))), AnchorFit(side, grids(spec.grids), "first")
    )
    return Layout(TEMPLATE, {"image": pieces}, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

INSTRUCT = Stage(
    "instruct", train=("image.connector",), data=("documents",), lora=LORA, steps=20_000, batch=256,
    lr=1e-4, warmup=36, schedule="cosine", weight_decay=1e-4,
    source="arXiv 2310.05126 section 4.1: 10 epochs of 514,764 samples at up to 20 pieces of 224 pixels; decay from the code, "
    "whose script has 25,579 steps and 50 of warm-up",
)  # fmt: skip
STAGES = {"ureader-7b": (INSTRUCT,)}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "language"))
