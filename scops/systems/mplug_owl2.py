"""mPLUG-Owl2 (arXiv 2311.04257; X-PLUG/mPLUG-Owl, mPLUG-Owl2): CLIP tower, abstractor with places, modality-adaptive LLaMA-2."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from scops.checkpoints.hub_modality_adaptive import MODALITY_ADAPTIVE
from scops.checkpoints.keymap import KeyMap, same
from scops.checkpoints.owl_places import places_beside
from scops.connectors.abstractor import AbstractorSpec, FixedPlaces, VisualAbstractor, tokens_for
from scops.core.layout import Cut, Each, Layout, MediaLayout, Slot
from scops.core.stage import Lora, Stage
from scops.core.template import Role, Special, Template, Written
from scops.data.image import PIXEL_LIMIT
from scops.encoders.grid_vit import GridVit
from scops.encoders.vit import ACTIVATIONS, Vit, VitSpec
from scops.language.llama import LlamaSpec
from scops.language.modality_adaptive import modality_adaptive
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.systems import Origins
from scops.systems.llama import language_config, language_spec
from scops.systems.mplug_owl import ABSTRACTOR, squares, tower, tower_config, tower_spec

TITLE = "mPLUG-Owl2: Revolutionizing Multi-modal Large Language Model with Modality Collaboration"
PAPER = "arXiv 2311.04257"
TABLE = 16
"""Rows and columns of the learned positions of a tower without class token, whatever the size of its pictures."""


@dataclass(frozen=True)
class Eyes:
    """Tower and abstractor of mPLUG-Owl2 and 2.1.

    Args:
        cls: class tokens of the tower, 1 or 0.
        post_norm: whether a norm follows the tower's last block.
    """

    vision: VitSpec = field(default_factory=lambda: VitSpec(image=448, eps=1e-6))
    abstractor: AbstractorSpec = field(default_factory=AbstractorSpec)
    cls: int = 1
    post_norm: bool = True

    @property
    def side(self) -> int:
        return self.vision.image // self.vision.patch


@dataclass(frozen=True)
class Spec:
    eyes: Eyes = field(default_factory=Eyes)
    language: LlamaSpec = field(default_factory=lambda: LlamaSpec(eps=1e-5, context=4096))


SIZES = {"mplug-owl2-llama2-7b": Spec()}


def build(spec: Spec) -> MultimodalDecoder:
    return MultimodalDecoder(modality_adaptive(spec.language), image=sight(spec.eyes, spec.language.dim))


def sight(eyes: Eyes, out: int) -> MediaInput:
    post_norm = None if eyes.post_norm else nn.Identity()
    grid = partial(GridVit, table=TABLE)
    encoder = (Vit if eyes.cls else grid)(eyes.vision, post_norm=post_norm)
    place = FixedPlaces(eyes.abstractor.queries, eyes.side, before=eyes.cls)
    return MediaInput(encoder, VisualAbstractor(eyes.abstractor, out=out, place=place), Inline())


# How published --------------------------------------------------------------------------------------------------------


def authors(spec: Spec) -> KeyMap:
    """MPLUGOwl2LlamaForCausalLM."""
    return KeyMap(sight_keys(spec.eyes).under("model."), MODALITY_ADAPTIVE.under("", "language."))


def sight_keys(eyes: Eyes) -> KeyMap:
    abstractor = KeyMap(
        same("query_embeds", "queries"), places_beside(eyes.abstractor.queries, eyes.side, eyes.cls), ABSTRACTOR
    )
    return KeyMap(
        tower(eyes.vision.heads).under("vision_model.", "image.encoder."),
        abstractor.under("visual_abstractor.", "image.connector."),
    )


KEYS = {"authors": authors}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that an authors' config.json means; None when it is another system's."""
    visual = config.get("visual_config") or {}
    if config.get("model_type") != "mplug_owl2" or (visual and "visual_abstractor" not in visual):
        return None
    return Spec(eyes_of(visual), language_spec({**config, "model_type": "llama"}))


def eyes_of(visual: Mapping[str, Any]) -> Eyes:
    """What a `visual_config` means.

    Raises:
        ValueError: parts that do not fit each other, or that no published model has.
    """
    vision, abstractor = visual.get("visual_model", {}), visual.get("visual_abstractor", {})
    connector = AbstractorSpec(
        dim=abstractor.get("hidden_size", 1024), hidden=abstractor.get("intermediate_size", 2816),
        layers=abstractor.get("num_hidden_layers", 6), heads=abstractor.get("num_attention_heads", 16),
        queries=abstractor.get("num_learnable_queries", 64), eps=abstractor.get("layer_norm_eps", 1e-6),
    )  # fmt: skip
    made = Eyes(
        tower_spec(vision, image=448),
        connector,
        int(vision.get("use_cls_token", True)),
        vision.get("use_post_layernorm", True),
    )
    _fit(made, abstractor)
    return made


def _fit(eyes: Eyes, abstractor: Mapping[str, Any]) -> None:
    """What a config.json says twice must agree."""
    wanted = {
        "encoder_hidden_size": (abstractor.get("encoder_hidden_size", 1024), eyes.vision.dim),
        "hidden_size": (eyes.abstractor.dim, eyes.vision.dim),
        "grid_size": (abstractor.get("grid_size") or 32, eyes.side),
        "use_cls_token": (bool(abstractor.get("use_cls_token", True)), bool(eyes.cls)),
        "add_v2t_pos_emb": (abstractor.get("add_v2t_pos_emb", False), False),
    }
    for name, (found, expected) in wanted.items():
        if found != expected:
            raise ValueError(
                f"visual_config: visual_abstractor has {name} {found}, but with its visual_model of width "
                f"{eyes.vision.dim} and {eyes.side} x {eyes.side} patches it must be {expected}"
            )
    if eyes.vision.activation not in ACTIVATIONS:
        raise ValueError(
            f"visual_config: visual_model has hidden_act {eyes.vision.activation!r}; known are {', '.join(ACTIVATIONS)}"
        )


def config_of(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`: the authors' config.json."""
    return {
        **text_config(spec.language),
        "architectures": ["MPLUGOwl2LlamaForCausalLM"],
        "model_type": "mplug_owl2",
        "visual_config": visual_config(spec.eyes),
    }


def text_config(language: LlamaSpec) -> dict[str, Any]:
    """Of the language model; the authors' class knows no width of heads."""
    config = language_config(language)
    if language.head_dim is None:
        del config["head_dim"]
    return config


def visual_config(eyes: Eyes) -> dict[str, Any]:
    """The inverse of `eyes_of`."""
    vision, abstractor = eyes.vision, eyes.abstractor
    return {
        "visual_model": tower_config(vision)
        | {"use_cls_token": bool(eyes.cls), "use_post_layernorm": eyes.post_norm},
        "visual_abstractor": {
            "hidden_size": abstractor.dim, "intermediate_size": abstractor.hidden, "layer_norm_eps": abstractor.eps,
            "num_hidden_layers": abstractor.layers, "num_attention_heads": abstractor.heads,
            "num_learnable_queries": abstractor.queries, "encoder_hidden_size": vision.dim, "grid_size": eyes.side,
            "use_cls_token": bool(eyes.cls), "add_v2t_pos_emb": False, "model_type": "mplug_owl_visual_abstract",
        },
    }  # fmt: skip


CONFIGS = {"authors": config_of}


# How read -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Squared:
    """A picture is stretched twice: to a square of its longer side, then to the tower's size.

    X-PLUG/mPLUG-Owl, mPLUG-Owl2/mplug_owl2/mm_utils.py and README.md; all bicubic. One so thin that its square would be larger
    than any picture that is read goes straight to the tower's size.
    """

    side: int

    def __call__(self, height: int, width: int) -> Cut:
        longer = max(height, width)
        square = ((longer, longer),) if longer**2 <= PIXEL_LIMIT else ()
        return Cut((1, 1), (*square, (self.side, self.side)))


def pictures(eyes: Eyes) -> dict[str, MediaLayout]:
    side = eyes.vision.image
    return {"image": MediaLayout(squares(side), Each(Slot("image", tokens_for(eyes.abstractor))), cut=Squared(side))}


def roles(end: str) -> dict[str, Role]:
    """USER: ... ASSISTANT: ...end; the reply's first word brings its own blank, and nobody but users and assistants speaks."""
    return {
        "system": Role(rest=(Written(" "),)),
        "user": Role(before=(Written("USER: "),), rest=(Written(" "),)),
        "assistant": Role(before=(Written("ASSISTANT:"),), after=(Special(end),)),
    }


TEMPLATE = Template(roles("</s>"), start=(Special("<s>"),), stops=("</s>",))


def layout(spec: Spec) -> Layout:
    return Layout(TEMPLATE, pictures(spec.eyes), spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

MEDIA_EXPERTS = tuple(
    f"language.blocks.*.{module}.experts.1" for module in ("attn.norm", "attn.body.k", "attn.body.v", "mlp.norm")
)
"""What stage 1 adds to the language model; its values begin as those of the text experts (LLAMA_INTO_BOTH)."""
LAYERS, DECAY = 24, 0.9


def decayed(lr: float) -> dict[str, float]:
    """The tower's learning rates: each block 0.9 of the one above it, the embeddings 0.9 of the first block."""
    stem = {f"image.encoder.{name}": lr * DECAY ** (LAYERS + 1) for name in ("patch", "cls", "positions", "pre_norm")}
    return stem | {f"image.encoder.blocks.{i}": lr * DECAY ** (LAYERS - i) for i in range(LAYERS)}


COARSE = {"eyes": {"vision": {"image": 224}}}
FINE = {"eyes": {"vision": {"image": 448}}}
ALIGN = Stage(
    "align", train=("image.encoder", "image.connector", *MEDIA_EXPERTS), data=("pairs",), steps=42_500, batch=8192,
    lr=1e-4, lr_of=decayed(1e-4), warmup=1_000, schedule="cosine", betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05,
    overrides=COARSE,
    source="arXiv 2311.04257 sections 3.2 and 4.1 (weight decay recalled); "
    "pairs: 400M of CC3M, CC12M, COCO, LAION-en, COYO, DataComp",
)  # fmt: skip
INSTRUCT = Stage(
    "instruct", train=("image", "language"), data=("instructions",), steps=4_800, batch=256,
    lr=2e-5, lr_of=decayed(2e-5), warmup=250, schedule="cosine", betas=(0.9, 0.98), eps=1e-6, overrides=FINE,
    source="arXiv 2311.04257 sections 3.2 and 4.1, one epoch (steps and warm-up recalled); "
    "instructions: captions, VQA, region and text dialogues",
)  # fmt: skip
FINETUNE = Stage(
    "finetune", train=("image.connector", "language"), data=("instructions",), steps=5_197, batch=128,
    lr=2e-5, warmup=156, schedule="cosine", overrides=FINE,
    source="X-PLUG/mPLUG-Owl mPLUG-Owl2/scripts/finetune.sh: one epoch of llava_v1_5_mix665k, "
    "2 rows x 8 accumulations; the script names no number of devices, 8 are taken",
)  # fmt: skip
LORA = Stage(
    "lora", train=("image.connector",), data=("instructions",), steps=5_197, batch=128,
    lora=Lora(
        ("language.blocks.*.attn.body.[qo]", "language.blocks.*.attn.body.[kv].experts.*", "language.blocks.*.mlp.body.*"),
        rank=128, alpha=256.0, dropout=0.05,
    ),
    lr=1e-4, lr_of={"image.connector": 2e-5}, warmup=156, schedule="cosine", overrides=FINE,
    source="X-PLUG/mPLUG-Owl mPLUG-Owl2/scripts/finetune_lora.sh; a later line of the trainer makes every parameter "
    "learn again, which is not repeated here",
)  # fmt: skip
STAGES = {"paper": (ALIGN, INSTRUCT), "finetune": (FINETUNE,), "lora": (LORA,)}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "language"))
