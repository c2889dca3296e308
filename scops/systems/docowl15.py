"""DocOwl 1.5 (arXiv 2403.12895; X-PLUG/mPLUG-DocOwl, DocOwl1.5): pieces of a page -> H-Reducer -> a LLaMA with modality-adaptive parts.

Each piece is announced in plain words: `<global_img>`, `<crop_img_row0_col1>`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scops.checkpoints.hub_modality_adaptive import MODALITY_ADAPTIVE
from scops.checkpoints.keymap import KeyMap, same
from scops.connectors.h_reducer import HReducer, HReducerSpec, tokens_for
from scops.core.layout import WHOLE, Arranged, Cut, Layout, MediaLayout, Slot
from scops.core.stage import Stage
from scops.core.template import Written
from scops.data.grids import grids
from scops.data.tiling import AnchorFit
from scops.encoders.vit import Vit, VitSpec
from scops.language.llama import LlamaSpec
from scops.language.modality_adaptive import modality_adaptive
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.systems import Origins
from scops.systems.llama import language_spec
from scops.systems.mplug_owl import squares, tower, tower_config, tower_spec
from scops.systems.mplug_owl2 import LORA as OWL2_LORA
from scops.systems.mplug_owl2 import MEDIA_EXPERTS, TEMPLATE, text_config

TITLE = "mPLUG-DocOwl 1.5: Unified Structure Learning for OCR-free Document Understanding"
PAPER = "arXiv 2403.12895"


@dataclass(frozen=True)
class Spec:
    """Args:
    grids: a name of scops.data.grids.
    whole: where the whole view stands, "first", or "" for nowhere (the model after the first stage).
    announced: the words in front of each piece, whole view first, with {row} and {column} of a tile; "" for none.
    """

    vision: VitSpec = field(default_factory=lambda: VitSpec(image=448, eps=1e-6))
    reducer: HReducerSpec = field(default_factory=HReducerSpec)
    language: LlamaSpec = field(default_factory=lambda: LlamaSpec(eps=1e-5, context=4096))
    grids: str = "grid_9"
    whole: str = "first"
    announced: tuple[str, str] = ("<global_img>", "<crop_img_row{row}_col{column}>")


SIZES = {"docowl1.5-chat": Spec(), "docowl1.5-stage1": Spec(whole="")}


def build(spec: Spec) -> MultimodalDecoder:
    connector = HReducer(spec.reducer, out=spec.language.dim)
    return MultimodalDecoder(modality_adaptive(spec.language), image=MediaInput(Vit(spec.vision), connector, Inline()))


# How published --------------------------------------------------------------------------------------------------------

H_REDUCER = KeyMap(
    same("reducer_before.0.{w}", "expand.{w}"),
    same("reducer.{w}", "reduce.{w}"),
    same("visual_fc.{w}", "project.{w}"),
    same("vit_eos", "end"),
    same("ln_q.{w}", "norm.{w}"),
)


def authors(spec: Spec) -> KeyMap:
    """MPLUGDocOwlLlamaForCausalLM."""
    return KeyMap(
        tower(spec.vision.heads).under("model.vision_model.", "image.encoder."),
        H_REDUCER.under("model.vision2text.", "image.connector."),
        MODALITY_ADAPTIVE.under("", "language."),
    )


KEYS = {"authors": authors}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that an authors' config.json means; None when it is another system's."""
    if config.get("model_type") != "mplug_docowl" or "visual_hrcompressor" in config["visual_config"]:
        return None
    return Spec(*parts_of(config))


def parts_of(config: Mapping[str, Any]) -> tuple[VitSpec, HReducerSpec, LlamaSpec]:
    visual = config["visual_config"]
    vision, reducer = tower_spec(visual["visual_model"], image=448), visual["visual_hreducer"]
    if reducer.get("hidden_size", 1024) != vision.dim:
        raise ValueError(
            f"visual_hreducer.hidden_size is {reducer['hidden_size']}, but visual_model.hidden_size is {vision.dim}"
        )
    high, wide = reducer.get("conv_shape", "1x4").split("x")
    connector = HReducerSpec(vision.dim, (int(high), int(wide)), reducer.get("layer_norm_eps", 1e-6))
    return vision, connector, language_spec({**config, "model_type": "llama"})


def config_of(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`: the authors' config.json."""
    return parts_config(spec.vision, spec.reducer, spec.language)


def parts_config(vision: VitSpec, reducer: HReducerSpec, language: LlamaSpec) -> dict[str, Any]:
    """The inverse of `parts_of`."""
    visual = {
        "visual_model": tower_config(vision),
        "visual_hreducer": {
            "hidden_size": reducer.dim, "conv_shape": "{}x{}".format(*reducer.kernel), "layer_norm_eps": reducer.eps,
            "model_type": "mplug_docowl_hreducer",
        },
    }  # fmt: skip
    named = {"architectures": ["MPLUGDocOwlLlamaForCausalLM"], "model_type": "mplug_docowl", "visual_config": visual}
    return text_config(language) | named


CONFIGS = {"authors": config_of}


# How read -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Announced:
    """Words in front of each piece, then a slot of its own; they are as in Spec."""

    tokens: int
    words: tuple[str, str]

    def __call__(self, cut: Cut) -> tuple[Arranged, ...]:
        arranged: list[Arranged] = []
        for place in cut.places:
            words = self.words[0] if place == WHOLE else self.words[1].format(row=place[0], column=place[1])
            arranged += [Written(words), Slot("image", self.tokens, (place,))]
        return tuple(arranged)


def layout(spec: Spec) -> Layout:
    side = spec.vision.image
    slots = Announced(tokens_for(spec.reducer, side // spec.vision.patch), spec.announced)
    pieces = MediaLayout(squares(side), slots, AnchorFit(side, grids(spec.grids), spec.whole))
    return Layout(TEMPLATE, {"image": pieces}, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

STRUCTURE = Stage(
    "structure", train=("image.encoder", "image.connector", *MEDIA_EXPERTS), data=("structure",), steps=12_000, batch=1024,
    lr=1e-4, warmup=360, overrides={"whole": ""},
    source="arXiv 2403.12895 section 5.1: from mPLUG-Owl2, DocStruct4M, tiles of 448 pixels; warm-up (3%) as in the scripts",
)  # fmt: skip
TASKS = Stage(
    "tasks", train=("image.connector", "language"), data=("tasks",), steps=6_500, batch=256, lr=2e-5, warmup=195,
    overrides={"whole": "first"},
    source="arXiv 2403.12895 section 5.1: DocDownstream (about 570,000), up to 9 tiles of 448 pixels; warm-up as in the scripts",
)  # fmt: skip
CHAT = replace(
    TASKS, name="chat", data=("tasks", "reasons"), source="arXiv 2403.12895 section 5.1: the tasks and DocReason25K (25,877)"
)  # fmt: skip
OMNI = replace(
    TASKS, name="omni", data=("tasks", "reasons", "structure"), steps=10_000, warmup=300,
    source="X-PLUG/mPLUG-DocOwl issue 70: the chat's data and 200,000 of DocStruct4M, about 10,000 steps",
)  # fmt: skip
FINETUNE = replace(
    TASKS, name="finetune", steps=26_700, batch=64, warmup=800,
    source="X-PLUG/mPLUG-DocOwl scripts/finetune_docowl.sh with 8 processes: 3 epochs, warm-up 3%, 3,600 tokens, 448 pixels",
)  # fmt: skip
ADAPT = replace(
    FINETUNE, name="adapt", train=("image.connector",), lr=1e-4, lr_of={"image.connector": 2e-5},
    lora=OWL2_LORA.lora,
    source="X-PLUG/mPLUG-DocOwl scripts/finetune_docowl_lora.sh with 8 processes",
)  # fmt: skip
STAGES = {
    "docowl1.5": (STRUCTURE, TASKS),
    "docowl1.5-chat": (STRUCTURE, CHAT),
    "docowl1.5-stage1": (STRUCTURE,),
    "docowl1.5-omni": (STRUCTURE, OMNI),
    "finetune": (FINETUNE,),
    "lora": (ADAPT,),
}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "language"))
