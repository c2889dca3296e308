"""IDEFICS (arXiv 2306.16527, Flamingo with open parts; transformers models/idefics): CLIP H/14 -> Perceiver Resampler -> beside
the text of a LLaMA, which asks the latest picture before every fourth layer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from scops.checkpoints.hub_clip import HUB_CLIP_BARE
from scops.checkpoints.hub_flamingo import IDEFICS_RESAMPLER
from scops.checkpoints.hub_llama import llama_layer
from scops.checkpoints.keymap import Concat, Inverse, KeyMap, LeadingAxes, Rule, dropped, rule, same
from scops.connectors.perceiver import PerceiverResampler, PerceiverSpec
from scops.core.layout import Always, Layout, MediaLayout, Slot
from scops.core.stage import Stage
from scops.core.template import Role, Special, Template, Written
from scops.encoders.vit import Vit, VitSpec
from scops.language.gated import with_gates
from scops.language.llama import LlamaSpec, assembled, block, rope_of
from scops.language.model import LanguageModel
from scops.models.beside import Beside
from scops.models.decoder import MediaInput, MultimodalDecoder
from scops.nn.attention import CrossAttention
from scops.nn.block import Contextual, PreNorm
from scops.nn.feed_forward import SwiGlu
from scops.nn.gate import TanhGate
from scops.nn.idle import Idle
from scops.nn.norm import RMSNorm
from scops.ops.masks import latest
from scops.systems import Origins
from scops.systems.llama import language_config, language_spec
from scops.systems.mplug_owl import squares, tower_config, tower_spec

TITLE = "IDEFICS: an open reproduction of Flamingo (OBELICS: An Open Web-Scale Filtered Dataset of Interleaved Image-Text Documents)"
PAPER = "arXiv 2306.16527"

CLIP_H = VitSpec(dim=1280, hidden=5120, layers=32, heads=16, activation="gelu")
RESAMPLER = PerceiverSpec(dim=1280, hidden=5120, heads=16, head_dim=96, activation="relu", norms="qk")


@dataclass(frozen=True)
class Spec:
    """Args:
    perceiver: None where the language model asks the tower's features themselves.
    more: rows of the vocabulary that are published as a table of their own (additional_vocab_size).
    every: gated layers stand before the first layer and every so many behind it.
    norms: of gated cross-attention, as in LlamaSpec: "qk" in every published size.
    per_channel: a gate is a number per channel, not one for all (alpha_type "vector").
    template: a key of TEMPLATES.
    """

    vision: VitSpec = CLIP_H
    perceiver: PerceiverSpec | None = RESAMPLER
    language: LlamaSpec = field(default_factory=lambda: LlamaSpec(vocab=32002))
    more: int = 2
    every: int = 4
    norms: str = "qk"
    per_channel: bool = False
    template: str = "plain"


_65B = {"dim": 8192, "hidden": 22016, "layers": 80, "heads": 64, "kv_heads": 64, "eps": 1e-5}
SIZES = {
    "idefics-9b": Spec(),
    "idefics-9b-instruct": Spec(language=LlamaSpec(vocab=32003), more=3, template="instruct"),
    "idefics-80b": Spec(language=LlamaSpec(vocab=32002, **_65B)),
    "idefics-80b-instruct": Spec(language=LlamaSpec(vocab=32003, **_65B), more=3, template="instruct"),
}


def build(spec: Spec) -> MultimodalDecoder:
    encoder = Vit(spec.vision, post_norm=Idle(nn.LayerNorm(spec.vision.dim, spec.vision.eps)))
    if spec.perceiver is not None and spec.perceiver.dim != spec.vision.dim:
        raise ValueError(f"the resampler is {spec.perceiver.dim} wide and the tower {spec.vision.dim}")
    connector = nn.Identity() if spec.perceiver is None else PerceiverResampler(spec.perceiver)
    return MultimodalDecoder(language(spec), image=MediaInput(encoder, connector, Beside("image")))


def language(spec: Spec) -> LanguageModel:
    rope = rope_of(spec.language)
    blocks = [block(spec.language, rope) for _ in range(spec.language.layers)]
    return assembled(spec.language, with_gates(blocks, layers(spec), lambda: gated_sublayers(spec, memory="image")))


def layers(spec: Spec) -> range:
    """With gates, counted from 1."""
    if spec.language.layers % spec.every:
        raise ValueError(f"{spec.language.layers} layers are no multiple of {spec.every}, as transformers needs")
    return range(1, spec.language.layers + 1, spec.every)


def gated_sublayers(spec: Spec, *, memory: str) -> dict[str, Contextual]:
    """A LLaMA layer's parts, asking: RMSNorms, as many heads, SwiGLU, no rope."""
    sizes, width = spec.language, spec.vision.dim
    q, o = (nn.Linear(sizes.dim, sizes.dim, bias=False) for _ in range(2))
    k, v = (nn.Linear(width, sizes.dim, bias=False) for _ in range(2))
    norms: dict[str, Any] = {f"{name}_norm": RMSNorm(sizes.head_width, sizes.eps) for name in spec.norms}
    attention = CrossAttention(memory, sees=latest, q=q, k=k, v=v, o=o, head_dim=sizes.head_width, **norms)
    gates = [TanhGate(sizes.dim if spec.per_channel else 1) for _ in range(2)]
    return {
        "gated_attn": PreNorm(RMSNorm(sizes.dim, sizes.eps), attention, scale=gates[0]),
        "gated_mlp": PreNorm(RMSNorm(sizes.dim, sizes.eps), SwiGlu(sizes.dim, sizes.hidden), scale=gates[1]),
    }


# How published --------------------------------------------------------------------------------------------------------


def transformers(spec: Spec) -> KeyMap:
    """IdeficsForVisionText2Text."""
    gates = (
        _gated(spec, f"model.gated_cross_attn_layers.{number}.", f"language.blocks.{at - 1}.")
        for number, at in enumerate(layers(spec))
    )
    return KeyMap(
        same("model.vision_model.post_layernorm.{w}", "image.encoder.post_norm.body.{w}"),
        HUB_CLIP_BARE.under("model.vision_model.", "image.encoder."),
        IDEFICS_RESAMPLER.under("model.perceiver_resampler.", "image.connector."),
        *gates,
        llama_layer("model.layers.{i}.", "language.blocks.{i}."),
        same("model.norm.weight", "language.norm.weight"),
        _words(
            spec, "model.embed_tokens.weight", "model.embed_tokens.additional_embedding.weight", "language.embed.weight"
        ),
        *_head(spec),
    )


def _gated(spec: Spec, theirs: str, ours: str) -> list[Rule]:
    attn, mlp, axes = ours + "gated_attn.", ours + "gated_mlp.", Inverse(LeadingAxes(2)) if spec.per_channel else None
    return [
        same(theirs + "alpha_cross_attn", attn + "scale.weight", axes),
        same(theirs + "input_layernorm.weight", attn + "norm.weight"),
        *(same(f"{theirs}cross_attn.{name}_proj.weight", f"{attn}body.{name}.weight") for name in "qkvo"),
        *(same(f"{theirs}cross_attn.{n}_layer_norm.weight", f"{attn}body.{n}_norm.weight") for n in spec.norms),
        dropped(theirs + "cross_attn.rotary_emb.inv_freq", "of no use where nothing is turned"),
        same(theirs + "alpha_dense", mlp + "scale.weight", axes),
        same(theirs + "post_attention_layernorm.weight", mlp + "norm.weight"),
        *(same(f"{theirs}mlp.{name}_proj.weight", f"{mlp}body.{name}.weight") for name in ("gate", "up", "down")),
    ]


def _words(spec: Spec, first: str, more: str, ours: str) -> Rule:
    if not spec.more:
        return same(first, ours)
    return rule((first, more), (ours,), Concat((spec.language.vocab - spec.more, spec.more)))


def _head(spec: Spec) -> tuple[Rule, ...]:
    names = "lm_head.weight", "lm_head.additional_fc.weight"
    if spec.language.tied:
        return tuple(dropped(name, "the head is the embedding") for name in names)
    return (_words(spec, *names, "language.head.weight"),)


KEYS = {"transformers": transformers}
RESAMPLER_NAMES = {
    "depth": "resampler_depth", "heads": "resampler_n_heads", "head_dim": "resampler_head_dim", "queries": "resampler_n_latents",
}  # fmt: skip
OLDER = {
    "vision_config": {
        "embed_dim": "vision_embed_dim", "image_size": "vision_image_size", "patch_size": "vision_patch_size",
        "intermediate_size": "vision_intermediate_size", "num_hidden_layers": "vision_num_hidden_layers",
        "num_attention_heads": "vision_num_attention_heads",
    },
    "perceiver_config": {name: name for name in ("use_resampler", "qk_layer_norms_perceiver", *RESAMPLER_NAMES.values())},
}  # fmt: skip
"""Files of 2023 say in one table what newer ones say in tables of their own."""


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that a published config.json means; None when it is another system's."""
    if config.get("model_type") != "idefics":
        return None
    vision, perceiver = (
        {ours: config[theirs] for ours, theirs in names.items() if theirs in config} | (config.get(part) or {})
        for part, names in OLDER.items()
    )
    resampled = config.get("use_resampler", perceiver.get("use_resampler", False))
    named = {"hidden_size": vision.get("embed_dim", 768), "intermediate_size": 5120, "num_hidden_layers": 32,
             "hidden_act": "gelu", "layer_norm_eps": 1e-5}  # fmt: skip
    tower, more = tower_spec(named | vision, image=224), config.get("additional_vocab_size", 0)
    text = language_spec({**config, "model_type": "llama", "num_key_value_heads": None})
    return Spec(
        tower, resampler_spec(tower, perceiver) if resampled else None,
        LlamaSpec(**vars(text) | {"vocab": text.vocab + more}), more, config.get("cross_layer_interval", 1),
        "qk" if config.get("qk_layer_norms") else "", config.get("alpha_type", "float") == "vector",
        "instruct" if more > 2 else "plain",
    )  # fmt: skip


def resampler_spec(tower: VitSpec, config: Mapping[str, Any]) -> PerceiverSpec:
    told = {ours: config[theirs] for ours, theirs in RESAMPLER_NAMES.items() if theirs in config}
    norms = "qk" if config.get("qk_layer_norms_perceiver") else ""
    return replace(RESAMPLER, dim=tower.dim, hidden=4 * tower.dim, norms=norms, **told)


def config_of(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`."""
    text, tower, resampler = language_config(spec.language), tower_config(spec.vision), spec.perceiver
    kept = {name: value for name, value in text.items() if name not in LLAMA_ALONE}
    vision = {name: value for name, value in tower.items() if name != "hidden_size"}
    perceiver: dict[str, Any] = {"use_resampler": resampler is not None, "model_type": "idefics_perciever"}
    if resampler is not None:
        perceiver |= {theirs: getattr(resampler, ours) for ours, theirs in RESAMPLER_NAMES.items()}
        perceiver["qk_layer_norms_perceiver"] = bool(resampler.norms)
    return kept | {
        "architectures": ["IdeficsForVisionText2Text"], "model_type": "idefics",
        "vocab_size": spec.language.vocab - spec.more, "additional_vocab_size": spec.more,
        "cross_layer_interval": spec.every, "qk_layer_norms": bool(spec.norms),
        "alpha_type": "vector" if spec.per_channel else "float", "use_resampler": resampler is not None,
        "vision_config": vision | {"embed_dim": spec.vision.dim, "model_type": "idefics_vision"},
        "perceiver_config": perceiver,
    }  # fmt: skip


LLAMA_ALONE = ("num_key_value_heads", "head_dim", "attention_bias", "sliding_window")
CONFIGS = {"transformers": config_of}


# How read -------------------------------------------------------------------------------------------------------------

FENCE, END = Special("<fake_token_around_image>"), Special("<end_of_utterance>")
_BARE = Role(around=(FENCE,))


def _said(name: str) -> Role:
    return Role((Written(f"{name}:"),), (), (END,), (Written("\n"),), lead=" ", around=(FENCE,))


TEMPLATES = {
    "plain": Template({role: _BARE for role in ("system", "user", "assistant")}, start=(Special("<s>"),), stops=("</s>",)),
    "instruct": Template(
        {"system": _said("System"), "user": _said("User"), "assistant": _said("Assistant")}, start=(Special("<s>"),),
        stops=("<end_of_utterance>", "</s>"),
    ),
}  # fmt: skip
"""As IdeficsProcessor writes the prompts of the model cards."""


def layout(spec: Spec) -> Layout:
    picture = Always((Slot("image", 0), Special("<image>")))  # beside the text, from this token on
    media = {"image": MediaLayout(squares(spec.vision.image), picture)}
    return Layout(TEMPLATES[spec.template], media, spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

NEW = ("image.connector", "language.blocks.*.gated_attn", "language.blocks.*.gated_mlp")
_CARD = "model card of HuggingFaceM4/idefics-80b, recalled; z-loss 1e-3 is left out"
PRETRAIN = Stage(
    "pretrain", train=(*NEW, "language.embed", "language.head"), data=("interleaved", "pairs"), steps=200_000, batch=1_280,
    rows={"language.embed": (-2, -1), "language.head": (-2, -1)}, lr=1e-5, min_lr=6e-6, warmup=2_000, schedule="linear",
    weight_decay=0.1,
    source=f"{_CARD}: 1.31M tokens a step in sequences of 1,024; OBELICS 73.85%, LAION 17.18, Wikipedia 6.15, PMD 2.82; "
    "pictures of 224",
)  # fmt: skip
INSTRUCT = Stage(
    "instruct", train=("image", "language"), data=("instructions",), steps=22_000, batch=100, lr=1e-5, schedule="constant",
    weight_decay=0.1,
    source=f"{_CARD}: 205K tokens a step in sequences of 2,048, all parameters; M3IT, LRV-Instruction, LLaVA-Instruct, LLaVAR, "
    "SVIT and more",
)  # fmt: skip
_AS_9B = "all else as of the 9B"
PRETRAIN_80B = replace(PRETRAIN, batch=3_584, lr=5e-5, min_lr=3e-5, source=f"{_CARD}: 3.67M tokens a step; {_AS_9B}")
INSTRUCT_80B = replace(INSTRUCT, batch=300, lr=4e-6, source=f"{_CARD}: 613K tokens a step; {_AS_9B}")
STAGES = {
    "idefics-9b": (PRETRAIN,),
    "idefics-9b-instruct": (PRETRAIN, INSTRUCT),
    "idefics-80b": (PRETRAIN_80B,),
    "idefics-80b-instruct": (PRETRAIN_80B, INSTRUCT_80B),
}


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "language"))
