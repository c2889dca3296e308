"""LLaVA-NeXT, or 1.6 (llava-vl.github.io/blog/2024-01-30-llava-next; haotian-liu/LLaVA): LLaVA that sees a picture whole and in tiles.

Tiles keep the picture's shape; of their features only those that show it are kept, with a learned token behind each row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scops.checkpoints.hub_llava import authors_llava, authors_projector, hub_llava, hub_projector
from scops.checkpoints.keymap import KeyMap, same
from scops.connectors.mlp import Projector, ProjectorSpec
from scops.connectors.views import MERGES, Views
from scops.core.layout import Arranged, Cut, Layout, MediaLayout, Slot
from scops.data.tiling import BestFit
from scops.encoders.selected import Selected, Selection
from scops.encoders.vit import Vit, VitSpec
from scops.language.llama import LlamaSpec, llama
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.systems import Origins, llava
from scops.systems.llava import FINETUNE, LLAMA_13B, PRETRAIN, VICUNA_7B, is_next, marks, squared
from scops.systems.llava_config import FITS, Read, authors_config, hub_config, read
from scops.systems.llava_wording import PLAIN, TEMPLATES

TITLE = "LLaVA-NeXT (LLaVA-1.6): Improved reasoning, OCR, and world knowledge"
PAPER = "llava-vl.github.io/blog/2024-01-30-llava-next"

GRIDS = ((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))
"""In the authors' order; of equally good ones the first is taken. transformers reads the same list of sizes turned."""


@dataclass(frozen=True)
class Spec:
    """Args:
    grids: (rows, columns) of tiles that a picture may be cut into; () for never.
    merge: how views become one run of tokens, of scops.connectors.views.MERGES.
    unpad: which features are kept, of UNPAD: as the authors' code counts, or as transformers does.
    fit: of a picture that is never cut, as in LLaVA.
    """

    vision: VitSpec = field(default_factory=lambda: VitSpec(image=336))
    features: Selection = field(default_factory=Selection)
    projector: ProjectorSpec = field(default_factory=ProjectorSpec)
    language: LlamaSpec = VICUNA_7B
    grids: tuple[tuple[int, int], ...] = GRIDS
    merge: str = "spatial_unpad"
    unpad: str = "truncated"
    fit: str = "stretch"
    marked: bool = False
    template: str = "v1"

    @property
    def side(self) -> int:
        """Features along a view's side."""
        return self.vision.image // self.vision.patch


MISTRAL = LlamaSpec(hidden=14336, kv_heads=8, eps=1e-5, rope_base=1e6, context=32768)
YI_34B = LlamaSpec(
    dim=7168, hidden=20480, layers=60, heads=56, kv_heads=8, vocab=64_000, eps=1e-5, rope_base=5e6, context=4096
)
LLAMA_3 = LlamaSpec(hidden=14336, kv_heads=8, vocab=128_256, eps=1e-5, rope_base=5e5, context=8192)
SIZES = {
    "llava-v1.6-vicuna-7b": Spec(),
    "llava-v1.6-vicuna-13b": Spec(language=LLAMA_13B),
    "llava-v1.6-mistral-7b": Spec(language=MISTRAL, template="mistral_instruct"),
    "llava-v1.6-34b": Spec(language=YI_34B, template="chatml_direct"),
    "llama3-llava-next-8b": Spec(language=LLAMA_3, template="llava_llama_3"),
}


def build(spec: Spec) -> MultimodalDecoder:
    if spec.features.cls and spec.merge != "flat":
        raise ValueError(
            f"views that keep their class token are no map, so that they cannot be merged by {spec.merge!r}"
        )
    encoder = Selected(Vit(spec.vision), spec.features)
    project = Projector(spec.projector, encoder.width, spec.language.dim)
    connector = Views(project, MERGES[spec.merge](spec.language.dim))
    return MultimodalDecoder(llama(spec.language), image=MediaInput(encoder, connector, Inline()))


# How published --------------------------------------------------------------------------------------------------------


def newline(spec: Spec) -> KeyMap:
    return KeyMap(*[same("image_newline", "image.connector.merge.newline")] * (spec.merge == "spatial_unpad"))


def authors(spec: Spec) -> KeyMap:
    """LlavaLlamaForCausalLM, LlavaMistralForCausalLM."""
    projector = authors_projector(spec.projector.depth, "image.connector.project.")
    return authors_llava(KeyMap(projector, newline(spec)), tied=spec.language.tied)


def transformers(spec: Spec) -> KeyMap:
    """LlavaNextForConditionalGeneration."""
    projector = hub_projector(spec.projector.depth, "image.connector.project.")
    return hub_llava(KeyMap(projector, newline(spec)), tied=spec.language.tied)


KEYS = {"authors": authors, "transformers": transformers}
parts = llava.parts


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that an authors' or a transformers config.json means; None when it is another system's."""
    found = read(config)
    if found is None or not is_next(found):
        return None
    if found.merge not in MERGES or found.aspect not in (*FITS, "anyres"):
        raise ValueError(
            f"mm_patch_merge_type is {found.merge!r} and image_aspect_ratio {found.aspect!r}; built are "
            f"{', '.join(MERGES)} and {', '.join(FITS)}, anyres"
        )
    cut = found.aspect == "anyres"
    return Spec(
        **found.parts, grids=_grids(found) if cut else (), merge=found.merge, fit="stretch" if cut else FITS[found.aspect],
        unpad="truncated" if found.layout == "authors" else "rounded", marked=found.marked,
    )  # fmt: skip


def _grids(found: Read) -> tuple[tuple[int, int], ...]:
    side = found.parts["vision"].image
    odd = [(wide, high) for high, wide in found.pinpoints if not high or not wide or high % side or wide % side]
    if odd or not found.pinpoints:
        raise ValueError(
            f"image_grid_pinpoints (width, height) are whole tiles of {side} pixels, not {odd or 'none at all'}"
        )
    return tuple((high // side, wide // side) for high, wide in found.pinpoints)


def settled(spec: Spec, shapes: Mapping[str, tuple[int, ...]]) -> Spec:
    """Weights say whether they are of LLaVA-NeXT."""
    words = any("embed_tokens" in name for name in shapes)  # a whole model's
    if words and spec.merge == "spatial_unpad" and not any(name.endswith("image_newline") for name in shapes):
        raise ValueError(
            "config.json says LLaVA-NeXT (spatial_unpad), but the weights have no image_newline: they are LLaVA 1.0's or 1.5's, "
            "whose config.json says mm_patch_merge_type 'flat' and image_aspect_ratio 'pad' (transformers: model_type 'llava')"
        )
    return spec


def _points(spec: Spec) -> list[list[int]]:
    """(height, width) in pixels."""
    return [[rows * spec.vision.image, columns * spec.vision.image] for rows, columns in spec.grids]


def authors_json(spec: Spec) -> dict[str, Any]:
    aspect = "anyres" if spec.grids else next(theirs for theirs, ours in FITS.items() if ours == spec.fit)
    points = [[wide, high] for high, wide in _points(spec)]
    more = {"mm_patch_merge_type": spec.merge, "image_aspect_ratio": aspect, "image_grid_pinpoints": points}
    return authors_config(spec, more)


def hub_json(spec: Spec) -> dict[str, Any]:
    if spec.merge != "spatial_unpad" or not spec.grids:
        raise ValueError(
            f"transformers' LLaVA-NeXT cuts pictures and merges by 'spatial_unpad'; not {spec.merge!r}, {spec.grids}"
        )
    named = {"architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next"}
    return hub_config(spec, named | {"image_grid_pinpoints": _points(spec)})


CONFIGS = {"authors": authors_json, "transformers": hub_json}


# How read -------------------------------------------------------------------------------------------------------------

UNPAD: Mapping[str, Callable[[float], int]] = {"truncated": int, "rounded": lambda length: int(round(length, 7))}
"""From an exact number of rows or columns to how many are kept: haotian-liu/LLaVA's unpad_image, and transformers'."""


def extent(size: tuple[int, int], grid: tuple[int, int], whole: Callable[[float], int]) -> tuple[int, int]:
    """(rows, columns) of a map of features that show a picture of this (height, width), in the middle.

    Args:
        grid: rows and columns of the map.
    """
    (height, width), (rows, columns) = size, grid
    if width / height > columns / rows:
        return rows - (rows - whole(height * (columns / width))) // 2 * 2, columns
    return rows, columns - (columns - whole(width * (rows / height))) // 2 * 2


@dataclass(frozen=True)
class Arranges:
    """One slot for all views of a picture."""

    spec: Spec

    def __call__(self, cut: Cut) -> tuple[Arranged, ...]:
        return marks(self.spec, self.slot(cut))

    def slot(self, cut: Cut) -> Slot:
        spec, side = self.spec, self.spec.side
        whole = spec.features.tokens(spec.vision.tokens)
        if spec.merge != "spatial_unpad":
            return Slot("image", whole * len(cut), cut.places)
        if len(cut) == 1:
            return Slot("image", whole + 1)
        rows, columns = kept = extent(cut.size, (cut.grid[0] * side, cut.grid[1] * side), UNPAD[spec.unpad])
        return Slot("image", whole + rows * (columns + 1), cut.places, extent=kept)


def layout(spec: Spec) -> Layout:
    rule = BestFit(spec.vision.image, spec.grids) if spec.grids else None
    pictures = MediaLayout(squared(spec), Arranges(spec), rule)
    return Layout(TEMPLATES[spec.template], {"image": pictures}, spec.language.context, {"plain": PLAIN})


# How trained ----------------------------------------------------------------------------------------------------------

STAGES = {
    "llava-v1.6": (
        replace(PRETRAIN, train=("image.connector.project",), source="LLaVA-NeXT blog (recalled): LLaVA-1.5's first stage"),
        replace(
            FINETUNE, train=("image", "language"), steps=5_938, lr=1e-5, lr_of={"image.encoder": 2e-6}, warmup=179,
            source="LLaVA-NeXT blog (recalled): one epoch of 760,000, the tower too (mm_vision_tower_lr 2e-6 in config.json)",
        ),
    ),
}  # fmt: skip


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "language"))
