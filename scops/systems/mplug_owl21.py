"""mPLUG-Owl2.1 (X-PLUG/mPLUG-Owl, mPLUG-Owl2, class MPLUGOwl2QWenForCausalLM): mPLUG-Owl2 with Qwen-VL's ViT-bigG and a Qwen-7B."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scops.checkpoints.hub_qwen import qwen_keys
from scops.checkpoints.keymap import KeyMap
from scops.connectors.abstractor import AbstractorSpec
from scops.core.layout import Layout
from scops.core.stage import Lora
from scops.core.template import Template
from scops.encoders.vit import VitSpec
from scops.language.qwen import QwenSpec, qwen
from scops.models.decoder import MultimodalDecoder
from scops.systems import Origins
from scops.systems.mplug_owl2 import FINETUNE, LORA, Eyes, eyes_of, pictures, roles, sight, sight_keys, visual_config

TITLE = "mPLUG-Owl2.1: mPLUG-Owl2 on Qwen-7B and ViT-bigG"
PAPER = "arXiv 2311.04257, 2309.16609"

# Recalled, not read: no configuration of the release was at hand. A folder's own config.json decides.
BIGG = VitSpec(dim=1664, hidden=8192, layers=48, heads=16, image=448, eps=1e-6, activation="gelu")
ABSTRACTOR = AbstractorSpec(dim=1664, hidden=4608)


@dataclass(frozen=True)
class Spec:
    eyes: Eyes = field(default_factory=lambda: Eyes(BIGG, ABSTRACTOR, cls=0, post_norm=False))
    language: QwenSpec = field(default_factory=QwenSpec)


SIZES = {"mplug-owl2.1": Spec()}


def build(spec: Spec) -> MultimodalDecoder:
    return MultimodalDecoder(qwen(spec.language), image=sight(spec.eyes, spec.language.dim))


# How published --------------------------------------------------------------------------------------------------------


def authors(spec: Spec) -> KeyMap:
    """MPLUGOwl2QWenForCausalLM."""
    query = "q.body" if spec.language.sharpened else "q"
    return KeyMap(sight_keys(spec.eyes).under("transformer."), qwen_keys(query).under("", "language."))


KEYS = {"authors": authors}


def spec_of(config: Mapping[str, Any]) -> Spec | None:
    """The Spec that an authors' config.json means; None when it is another system's."""
    if config.get("model_type") != "mplug_owl2_1":
        return None
    return Spec(eyes_of(config.get("visual_config") or {}), language_of(config))


def language_of(config: Mapping[str, Any]) -> QwenSpec:
    """Raises:
    ValueError: a Qwen that no mPLUG-Owl2.1 has.
    """
    dim, heads = config.get("hidden_size", 4096), config.get("num_attention_heads", 32)
    wanted = {
        "multiway": (config.get("multiway", False), True),
        "kv_channels": (config.get("kv_channels", 128), dim // heads),
        "rotary_pct": (config.get("rotary_pct", 1.0), 1.0),
        "tie_word_embeddings": (config.get("tie_word_embeddings", False), False),
        "scale_attn_weights": (config.get("scale_attn_weights", True), True),
    }
    for name, (found, expected) in wanted.items():
        if found != expected:
            raise ValueError(f"this mPLUG-Owl2.1 has {name} {found!r}; only {expected!r} is built")
    context = config.get("max_position_embeddings", 8192)
    return QwenSpec(
        dim=dim, hidden=config.get("intermediate_size", 22016) // 2, layers=config.get("num_hidden_layers", 32),
        heads=heads, vocab=config.get("vocab_size", 151_936), eps=config.get("layer_norm_epsilon", 1e-6),
        rope_base=config.get("rotary_emb_base", 10000), context=context, trained=config.get("seq_length", context),
        stretched=config.get("use_dynamic_ntk", True), sharpened=config.get("use_logn_attn", True),
        bias=not config.get("no_bias", True),
    )  # fmt: skip


def config_of(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_of`: the authors' config.json."""
    language = spec.language
    return {
        "architectures": ["MPLUGOwl2QWenForCausalLM"], "model_type": "mplug_owl2_1", "multiway": True,
        "hidden_size": language.dim, "intermediate_size": 2 * language.hidden, "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads, "kv_channels": language.dim // language.heads,
        "vocab_size": language.vocab, "layer_norm_epsilon": language.eps, "rotary_emb_base": language.rope_base,
        "rotary_pct": 1.0, "max_position_embeddings": language.context, "seq_length": language.trained,
        "use_dynamic_ntk": language.stretched, "use_logn_attn": language.sharpened, "no_bias": not language.bias,
        "tie_word_embeddings": False, "scale_attn_weights": True, "visual_config": visual_config(spec.eyes),
    }  # fmt: skip


CONFIGS = {"authors": config_of}


# How read -------------------------------------------------------------------------------------------------------------

# mPLUG-Owl2's words, the only ones of the repository; Qwen opens nothing and ends with a token of its own.
TEMPLATE = Template(roles("<|endoftext|>"), stops=("<|endoftext|>",))


def layout(spec: Spec) -> Layout:
    return Layout(TEMPLATE, pictures(spec.eyes), spec.language.context)


# How trained ----------------------------------------------------------------------------------------------------------

ALIKE = "nothing was published of mPLUG-Owl2.1's training: the numbers are of mPLUG-Owl2's script, "
PROJECTIONS = ("attn.body.q.body.experts.*", "attn.body.[kv].experts.*", "attn.body.o", "mlp.body.*")
STAGES = {
    "finetune": (replace(FINETUNE, source=ALIKE + FINETUNE.source),),
    "lora": (
        replace(
            LORA, source=ALIKE + LORA.source,
            lora=Lora(tuple(f"language.blocks.*.{path}" for path in PROJECTIONS), rank=128, alpha=256.0, dropout=0.05),
        ),
    ),
}  # fmt: skip


# Where default weights come from --------------------------------------------------------------------------------------


def origins(size: str) -> Origins:
    """No registry carries these weights: load a folder of the authors' instead."""
    return Origins(fresh=("image", "language"))
