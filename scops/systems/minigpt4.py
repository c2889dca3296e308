"""MiniGPT-4 (arXiv 2304.10592) and MiniGPT-v2 (arXiv 2310.09478; Vision-CAIR/MiniGPT-4): one linear layer between what is frozen.

With Vicuna the layer follows BLIP-2's Q-Former; with LLaMA-2 it takes four neighbouring tokens of the tower as one.
"""

# M pictures, P features per picture (class token first), Q tokens per picture, D width
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from scops.checkpoints.hub_eva import HUB_EVA, LAVIS_EVA, eva_config, eva_spec, running
from scops.checkpoints.hub_llama import HUB_LLAMA
from scops.checkpoints.hub_peft import PEFT_LLAMA
from scops.checkpoints.hub_qformer import HUB_QFORMER, LAVIS_QFORMER, qformer_config, qformer_spec
from scops.checkpoints.keymap import KeyMap, same
from scops.checkpoints.op import ForTokens
from scops.connectors.qformer import QFormerConnector, QFormerSpec
from scops.connectors.qformer import tokens_for as qformer_tokens
from scops.core.layout import Always, Layout, MediaLayout, Slot
from scops.core.names import nearest
from scops.core.stage import Lora, Stage
from scops.core.template import Written
from scops.encoders.eva import EvaSpec, EvaVit
from scops.language.llama import LlamaSpec, llama
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.nn.initialise import IntoWords
from scops.systems import Origins, Published
from scops.systems.lavis import first_stage
from scops.systems.llama import language_config, language_spec
from scops.systems.minigpt4_wording import TEMPLATES
from scops.systems.mplug_owl import squares

TITLE = "MiniGPT-4 and MiniGPT-v2: one linear layer from a frozen tower to a language model"
PAPER = "arXiv 2304.10592, 2310.09478"


@dataclass(frozen=True)
class StripSpec:
    """Args:
    tokens: of the tower, one behind the other in a row of patches, that become one.
    """

    tokens: int = 4


VICUNA_7B = LlamaSpec(vocab=32001)  # version 0 has a [PAD]
VICUNA_13B = replace(VICUNA_7B, dim=5120, hidden=13824, layers=40, heads=40, kv_heads=40)
LLAMA2_CHAT_7B = LlamaSpec(eps=1e-5, context=4096)


@dataclass(frozen=True)
class Spec:
    """Args:
    template: how turns are written, a key of TEMPLATES.
    """

    vision: EvaSpec = field(default_factory=EvaSpec)
    connector: QFormerSpec | StripSpec = field(default_factory=QFormerSpec)
    language: LlamaSpec = VICUNA_7B
    template: str = "vicuna0"


SIZES = {
    "minigpt4-7b": Spec(),
    "minigpt4-13b": Spec(language=VICUNA_13B),
    "minigpt4-llama2-7b": Spec(connector=StripSpec(), language=LLAMA2_CHAT_7B, template="llama2"),
    "minigpt-v2-7b": Spec(EvaSpec(image=448), StripSpec(), LLAMA2_CHAT_7B, "v2"),
}


def build(spec: Spec) -> MultimodalDecoder:
    out = spec.language.dim
    connector = (
        Strips(spec.vision, spec.connector.tokens, out)
        if isinstance(spec.connector, StripSpec)
        else QFormerConnector(spec.connector, out)
    )
    return MultimodalDecoder(llama(spec.language), image=MediaInput(EvaVit(spec.vision), connector, Inline()))


class Strips(nn.Module):
    """project(normed patches, several neighbours in reading order as one wide token); the class token is left out.

    forward: (M, P, D) -> (M, Q, out)
    """

    def __init__(self, vision: EvaSpec, tokens: int, out: int, *, eps: float = 1e-5):
        """Args:
        tokens: patches that become one.
        """
        super().__init__()
        strips_of(vision, tokens)
        self.tokens = tokens
        self.norm, self.project = nn.LayerNorm(vision.dim, eps), IntoWords(tokens * vision.dim, out)

    def forward(self, features_MPD: Tensor) -> Tensor:
        return self.project(self.norm(features_MPD)[:, 1:].unflatten(1, (-1, self.tokens)).flatten(2))


def strips_of(vision: EvaSpec, tokens: int) -> int:
    """How many strips a picture's patches make.

    Raises:
        ValueError: some patches would be left over.
    """
    patches = vision.tokens - 1
    if patches % tokens:
        raise ValueError(f"{patches} patches of a picture of {vision.image} pixels make no strips of {tokens}")
    return patches // tokens


def tokens_for(spec: Spec) -> int:
    """Of one picture, whatever its size."""
    if isinstance(spec.connector, StripSpec):
        return strips_of(spec.vision, spec.connector.tokens)
    return qformer_tokens(spec.connector)


# How published --------------------------------------------------------------------------------------------------------

BRIDGE = KeyMap(
    same("ln_vision.{w}", "image.connector.norm.{w}"), same("llama_proj.{w}", "image.connector.project.{w}")
)


def authors(spec: Spec) -> KeyMap:
    """The state of a MiniGPT4 or MiniGPTv2, whose language model has adapters or none."""
    return KeyMap(
        LAVIS_EVA.under("visual_encoder.", "image.encoder."),
        BRIDGE,
        same("query_tokens", "image.connector.qformer.queries"),
        LAVIS_QFORMER.under("Qformer.bert.", "image.connector.qformer."),
        PEFT_LLAMA.under("llama_model.", "language."),
    )


KEYS = {"authors": authors}


def parts(spec: Spec) -> dict[str, tuple[Published, ...]]:
    """A release is one linear layer, with adapters in v2; tower and Q-Former come from BLIP-2's files, EVA-CLIP's first."""
    made = {"image.encoder": towers(spec.vision), "language": (Published(HUB_LLAMA),)}
    if isinstance(spec.connector, QFormerSpec):
        hub = KeyMap(
            same("vision_model.post_layernorm.{w}", "norm.{w}"), same("query_tokens", "qformer.queries"),
            HUB_QFORMER.under("qformer.", "qformer."),
        )  # fmt: skip
        given = Published(hub, ("vision_model.post_layernorm", "query_tokens", "qformer"))
        made["image.connector"] = (first_stage(spec.connector), given)
    return made


def towers(spec: EvaSpec) -> tuple[Published, ...]:
    """EVA-CLIP's own file, of whose blocks one more than run; LAVIS's; transformers'. Positions are spread over larger pictures."""
    first, hub = (KeyMap(same(name, "positions", ForTokens(spec.tokens))) for name in ("pos_embed", POSITIONS))
    lavis = KeyMap(first, LAVIS_EVA)
    return (
        Published(lavis, running(spec)),
        Published(lavis.under("visual_encoder."), ("visual_encoder",)),
        Published(KeyMap(hub, HUB_EVA).under("vision_model."), ("vision_model.embeddings", "vision_model.encoder")),
    )


POSITIONS = "embeddings.position_embedding"
ARCHITECTURES = {
    "vicuna0": ("minigpt4", "pretrain_vicuna0"),
    "llama2": ("minigpt4", "pretrain_llama2"),
    "v2": ("minigpt_v2", "pretrain"),
}
"""By template: `arch` and `model_type` of the authors' configurations."""


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that a config.json in the words of the authors' YAML files means; None when it is another system's.

    Numbers that the YAML files leave to the code stand in `vision_config`, `qformer_config` and `text_config`.
    """
    found = config.get("arch"), config.get("model_type")
    if found[0] not in {arch for arch, _ in ARCHITECTURES.values()}:
        return None
    template = next((name for name, known in ARCHITECTURES.items() if known == found), None)
    if template is None:
        raise ValueError(
            f"there is no {found[0]} of model_type {found[1]!r}; known: {', '.join(map(str, ARCHITECTURES.values()))}"
        )
    vision = eva_spec(dict(config.get("vision_config", {})) | {"image_size": config.get("image_size", 224)})
    joined = StripSpec(config.get("joined_tokens", 4))
    with_queries = config.get("has_qformer", True) and found[0] == "minigpt4"
    asked = {"encoder_hidden_size": vision.dim, **config.get("qformer_config", {})}
    former = qformer_spec(asked, queries=config.get("num_query_token", 32), words=0)
    return Spec(vision, former if with_queries else joined, language_spec(config["text_config"]), template)


def config_of(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`."""
    arch, kind = ARCHITECTURES[spec.template]
    made = {
        "arch": arch, "model_type": kind, "vit_model": "eva_clip_g", "image_size": spec.vision.image,
        "vision_config": eva_config(spec.vision), "text_config": language_config(spec.language),
    }  # fmt: skip
    if isinstance(spec.connector, StripSpec):
        return made | {"has_qformer": False, "joined_tokens": spec.connector.tokens}
    queries = {"num_query_token": spec.connector.queries, "qformer_config": qformer_config(spec.connector)}
    return made | {"has_qformer": True, **queries}


CONFIGS = {"authors": config_of}


# How read -------------------------------------------------------------------------------------------------------------


def layout(spec: Spec) -> Layout:
    if spec.template not in TEMPLATES:
        raise ValueError(f"there is no template {spec.template!r}{nearest(spec.template, TEMPLATES)}")
    shown = Always((Written("<Img>"), Slot("image", tokens_for(spec)), Written("</Img>")))
    return Layout(
        TEMPLATES[spec.template], {"image": MediaLayout(squares(spec.vision.image), shown)}, spec.language.context
    )


# How trained ----------------------------------------------------------------------------------------------------------

PROJECTION = ("image.connector.project",)
PRETRAIN = Stage(
    "pretrain", train=PROJECTION, data=("pairs",), steps=20_000, batch=256,
    lr=1e-4, min_lr=8e-5, warmup=5_000, weight_decay=0.05, clip=None,
    source="Vision-CAIR/MiniGPT-4 train_configs/minigpt4_stage1_pretrain.yaml: 4 x 5,000 steps of 4 x 64 at 224 pixels; "
    "pairs: LAION and CC, SBU at 115 to 14",
)  # fmt: skip
FINETUNE = Stage(
    "finetune", train=PROJECTION, data=("descriptions",), steps=1_000, batch=12,
    lr=3e-5, min_lr=1e-5, warmup=200, weight_decay=0.05, clip=None,
    source="Vision-CAIR/MiniGPT-4 train_configs/minigpt4_stage2_finetune.yaml: 5 x 200 steps; cc_sbu_align, 3,439 rows; "
    "the paper says 400 steps",
)  # fmt: skip
LORA = Lora(tuple(f"language.blocks.*.attn.body.{name}" for name in "qv"), rank=64, alpha=16.0, dropout=0.05)
RECALLED = (
    "arXiv 2310.09478, section 4, as recalled (no copy at hand); AdamW, cosine; decay as in the published fine-tuning; "
)
WEAK = Stage(
    "pretrain", train=PROJECTION, data=("pairs", "tasks"), lora=LORA, steps=400_000, batch=96,
    lr=1e-4, weight_decay=0.05, clip=None,
    source=RECALLED + "weakly labelled (LAION, CC3M, SBU, GRIT-20M) and task data at 448 pixels",
)  # fmt: skip
TASK = replace(
    WEAK, name="multitask", data=("tasks",), steps=50_000, batch=64, lr=1e-5,
    source=RECALLED + "fine-grained task data only",
)  # fmt: skip
INSTRUCT = replace(
    TASK, name="instruct", data=("tasks", "instructions", "text"), steps=35_000, batch=24,
    source=RECALLED + "tasks, LLaVA's and multi-task conversations, grounded captions, unnatural instructions",
)  # fmt: skip
TUNE = replace(
    INSTRUCT, name="finetune", steps=50_000, min_lr=1e-6, warmup=1_000,
    source="Vision-CAIR/MiniGPT-4 train_configs/minigptv2_finetune.yaml: 50 x 1,000 steps; each of one data set, at 1 to 6 "
    "rows per device and published shares",
)  # fmt: skip
STAGES = {"minigpt4": (PRETRAIN, FINETUNE), "minigpt-v2-7b": (WEAK, TASK, INSTRUCT), "minigpt-v2-finetune": (TUNE,)}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: put the published files together in a parts.json."""
    return Origins(fresh=("image", "language"))
