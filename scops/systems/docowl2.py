"""DocOwl 2 (arXiv 2409.03420; remote code of mPLUG/DocOwl2): DocOwl 1.5 whose pages are compressed to 325 tokens each.

The tiles of a page are asked by its whole view and then let go, so that many pages fit into a conversation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from scops.checkpoints.hub_modality_adaptive import MODALITY_ADAPTIVE
from scops.checkpoints.keymap import KeyMap, same
from scops.connectors.doc_compressor import CompressorSpec, DocCompressor
from scops.connectors.h_reducer import HReducer, HReducerSpec, grid_for, tokens_for
from scops.core.batch import Tiles
from scops.core.layout import Arranged, Cut, Layout, MediaLayout, Numbered, Slot
from scops.core.stage import Stage
from scops.data.grids import grids
from scops.data.tiling import AnchorFit
from scops.encoders.vit import Vit, VitSpec
from scops.language.llama import LlamaSpec
from scops.language.modality_adaptive import modality_adaptive
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.nn.tiled import Tiled
from scops.systems import Origins
from scops.systems.docowl15 import H_REDUCER, parts_config, parts_of
from scops.systems.mplug_owl import QUERY_LAYER, squares, tower
from scops.systems.mplug_owl2 import MEDIA_EXPERTS, TEMPLATE

# I pictures of all pages, P features per picture

TITLE = "mPLUG-DocOwl2: High-resolution Compressing for OCR-free Multi-page Document Understanding"
PAPER = "arXiv 2409.03420"


@dataclass(frozen=True)
class Spec:
    """Args:
    grids: a name of scops.data.grids.
    """

    vision: VitSpec = field(default_factory=lambda: VitSpec(image=504, eps=1e-6))
    reducer: HReducerSpec = field(default_factory=HReducerSpec)
    compressor: CompressorSpec = field(default_factory=CompressorSpec)
    language: LlamaSpec = field(default_factory=lambda: LlamaSpec(eps=1e-5, context=4096))
    grids: str = "grid_12"

    @property
    def side(self) -> int:
        """Patches along a picture's side."""
        return self.vision.image // self.vision.patch


SIZES = {"docowl2": Spec()}


class PageReader(Tiled):
    """compressor(reducer(features)): one row of tokens per page. forward: (I, P, D) -> (M, Q + 1, out)"""

    def __init__(self, reducer: HReducer, compressor: DocCompressor):
        super().__init__()
        self.reducer, self.compressor = reducer, compressor

    def forward(self, features_IPD: Tensor, tiles: Tiles) -> Tensor:
        return self.compressor(self.reducer(features_IPD), tiles)


def build(spec: Spec) -> MultimodalDecoder:
    if spec.compressor.dim != spec.language.dim:
        raise ValueError(
            f"the compressor is {spec.compressor.dim} wide and the language model {spec.language.dim}; its pages stand among words"
        )
    _, columns = grid_for(spec.reducer, spec.side)
    connector = PageReader(
        HReducer(spec.reducer, out=spec.language.dim), DocCompressor(spec.compressor, columns=columns)
    )
    return MultimodalDecoder(modality_adaptive(spec.language), image=MediaInput(Vit(spec.vision), connector, Inline()))


# How published --------------------------------------------------------------------------------------------------------

COMPRESSOR = KeyMap(
    QUERY_LAYER.under("compressor_crossatt.layers.{i}.", "layers.{i}."),
    same("compressor_fc.{w}", "project.{w}"),
    same("compressor_eos", "end"),
)


def authors(spec: Spec) -> KeyMap:
    """MPLUGDocOwl2."""
    return KeyMap(
        tower(spec.vision.heads).under("model.vision_model.", "image.encoder."),
        H_REDUCER.under("model.vision2text.", "image.connector.reducer."),
        COMPRESSOR.under("model.hr_compressor.", "image.connector.compressor."),
        MODALITY_ADAPTIVE.under("", "language."),
    )


KEYS = {"authors": authors}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that a config.json of the remote code means; None when it is another system's."""
    if config.get("model_type") != "mplug_docowl" or "visual_hrcompressor" not in config["visual_config"]:
        return None
    vision, reducer, language = parts_of(config)
    found = config["visual_config"]["visual_hrcompressor"]
    compressor = CompressorSpec(
        dim=found.get("high_reso_cross_hid_size", 4096), layers=found.get("layer", 2),
        heads=found.get("high_reso_cross_num_att_heads", 16), eps=found.get("layer_norm_eps", 1e-6),
    )  # fmt: skip
    return Spec(vision, reducer, compressor, language)


def config_of(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`."""
    config, compressor = parts_config(spec.vision, spec.reducer, spec.language), spec.compressor
    visual = config["visual_config"] | {
        "visual_hrcompressor": {
            "high_reso_cross_hid_size": compressor.dim, "layer": compressor.layers,
            "high_reso_cross_num_att_heads": compressor.heads, "layer_norm_eps": compressor.eps,
        }
    }  # fmt: skip
    return config | {"architectures": ["mPLUGDocOwl2"], "visual_config": visual}


CONFIGS = {"authors": config_of}


# How read -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """The page's number, then one slot for its whole view and all its tiles."""

    tokens: int

    def __call__(self, cut: Cut) -> tuple[Arranged, ...]:
        return Numbered("<img {}>"), Slot("image", self.tokens, cut.places)


def layout(spec: Spec) -> Layout:
    slot = Page(tokens_for(spec.reducer, spec.side))
    pages = MediaLayout(squares(spec.vision.image), slot, AnchorFit(spec.vision.image, grids(spec.grids), "first"))
    return Layout(TEMPLATE, {"image": pages}, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

PAGES = Stage(
    "single", train=("image.encoder", "image.connector", *MEDIA_EXPERTS), data=("structure",), steps=12_000, batch=1024,
    lr=1e-4, warmup=360, source="arXiv 2409.03420 section 4.1: DocStruct4M, up to 12 tiles of 504 pixels; warm-up as DocOwl 1.5",
)  # fmt: skip
DOCUMENTS = replace(
    PAGES, name="multi", train=("image.connector", *MEDIA_EXPERTS), data=("documents", "structure"), steps=2_400, lr=2e-5,
    warmup=72, source="arXiv 2409.03420 section 4.1: 1.11 million of MP-DocStruct and 0.5 million of DocStruct4M, 504 pixels",
)  # fmt: skip
TASKS = replace(
    DOCUMENTS, name="tasks", train=("image.connector", "language"), data=("tasks",), steps=9_000, batch=256, warmup=270,
    source="arXiv 2409.03420 section 4.1: questions about one page and about several, 504 pixels",
)  # fmt: skip
STAGES = {"docowl2": (PAGES, DOCUMENTS, TASKS)}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "language"))
