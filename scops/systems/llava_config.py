"""LLaVA's config.json, the authors' (a language model's with `mm_...` beside) and transformers' (a part each), both ways."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scops.connectors.mlp import ProjectorSpec
from scops.core.names import nearest
from scops.encoders.selected import Selection
from scops.encoders.vit import ACTIVATIONS, VitSpec
from scops.language.llama import LlamaSpec
from scops.systems.llama import language_config, language_spec
from scops.systems.llava_wording import TEMPLATES

TOWERS = {"clip-vit-large-patch14": VitSpec(), "clip-vit-large-patch14-336": VitSpec(image=336)}
"""By the last piece of `mm_vision_tower`; the authors' config.json names a tower and no numbers."""
LANGUAGES = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2"}
CLASSES = {"llama": "LlavaLlamaForCausalLM", "mistral": "LlavaMistralForCausalLM", "qwen2": "LlavaQwenForCausalLM"}
FITS = {"square": "crop", "pad": "pad"}
MISTRAL = {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}
"""What transformers takes where a Mistral's text_config is silent."""


@dataclass(frozen=True)
class Read:
    """What both systems take from a config.json.

    Args:
        parts: vision, features, projector, language, template of a Spec.
        aspect, merge: as the authors name them.
        pinpoints: sizes in pixels that pictures are brought to, (height, width).
        layout: whose it is, "authors" or "transformers".
    """

    parts: Mapping[str, Any]
    aspect: str
    merge: str
    pinpoints: tuple[tuple[int, int], ...]
    layout: str
    marked: bool = False


def read(config: Mapping[str, Any]) -> Read | None:
    """None when it is no LLaVA's.

    Raises:
        ValueError: a part that is not built.
    """
    kind = config.get("model_type")
    if kind == "llava_mpt":
        raise ValueError("this LLaVA has an MPT language model; built are LLaMA (Vicuna, Yi), Mistral and Qwen2")
    if (
        kind in LANGUAGES
        and "text_config" not in config
        and ("mm_vision_tower" in config or "mm_hidden_size" in config)
    ):
        return _authors(config)
    if kind in ("llava", "llava_next") and "vision_config" in config:
        return _transformers(config)
    return None


def _authors(config: Mapping[str, Any]) -> Read:
    for name, why in (("mm_resampler_type", "a resampler"), ("s2", "a tower at several scales")):
        if config.get(name):
            raise ValueError(f"this LLaVA has {why} ({name} {config[name]!r}), which is not built")
    selected = config.get("mm_vision_select_feature", "patch")
    if selected not in ("patch", "cls_patch"):
        raise ValueError(f"mm_vision_select_feature is {selected!r}{nearest(selected, ('patch', 'cls_patch'))}")
    vision = _tower_of(config)
    if config.get("mm_hidden_size", vision.dim) != vision.dim:
        raise ValueError(f"mm_hidden_size is {config['mm_hidden_size']}, but the tower is {vision.dim} wide")
    kind = LANGUAGES[config["model_type"]]
    language = _plain_heads(language_spec({**config, "model_type": kind}))
    parts = {
        "vision": vision,
        "features": Selection((config.get("mm_vision_select_layer", -2),), selected == "cls_patch"),
        "projector": ProjectorSpec(_depth_of(config.get("mm_projector_type", "linear"))),
        "language": language,
        "template": _template(config, kind, language, str(config.get("_name_or_path", ""))),
    }
    points = config.get("image_grid_pinpoints") or []
    return Read(
        parts, config.get("image_aspect_ratio") or "square", config.get("mm_patch_merge_type", "flat"),
        tuple((high, wide) for wide, high in (_listed(points) if isinstance(points, str) else points)), "authors",
        bool(config.get("mm_use_im_start_end")),
    )  # fmt: skip


def _transformers(config: Mapping[str, Any]) -> Read:
    vision, text = config["vision_config"] or {}, config.get("text_config") or {}
    if vision.get("model_type", "clip_vision_model") != "clip_vision_model":
        raise ValueError(f"this LLaVA has a {vision['model_type']!r} tower; built is 'clip_vision_model'")
    kind, activation = text.get("model_type", "llama"), config.get("projector_hidden_act", "gelu")
    if kind not in CLASSES:
        raise ValueError(f"this LLaVA has a {kind!r} language model; built are {', '.join(CLASSES)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"projector_hidden_act is {activation!r}{nearest(activation, ACTIVATIONS)}")
    layers = config.get("vision_feature_layer", -2)
    tied = text.get("tie_word_embeddings", False) or config.get("tie_word_embeddings", False)
    given = {**(MISTRAL if kind == "mistral" else {}), **text, "tie_word_embeddings": tied}
    language = _plain_heads(language_spec(given))
    parts = {
        "vision": hub_tower(vision),
        "features": Selection(
            (layers,) if isinstance(layers, int) else tuple(layers),
            config.get("vision_feature_select_strategy", "default") == "full",
        ),
        "projector": ProjectorSpec(2, activation, config.get("multimodal_projector_bias", True)),
        "language": language,
        "template": _template(config, kind, language, str(text.get("_name_or_path", ""))),
    }
    anyres = config["model_type"] == "llava_next"
    points = config.get("image_grid_pinpoints") or [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    return Read(
        parts, "anyres" if anyres else config.get("image_aspect_ratio", "square"),
        "spatial_unpad" if anyres else "flat", tuple((high, wide) for high, wide in points) if anyres else (), "transformers",
        bool(config.get("mm_use_im_start_end")),
    )  # fmt: skip


def _tower_of(config: Mapping[str, Any]) -> VitSpec:
    """As we write it with its numbers, or one that is known by name."""
    if config.get("vision_config"):
        return hub_tower(config["vision_config"])
    name = str(config.get("mm_vision_tower", ""))
    if name.rstrip("/").rpartition("/")[2] not in TOWERS:
        raise ValueError(
            f"mm_vision_tower is {name!r}; known are {', '.join(TOWERS)}, or give its numbers as vision_config"
        )
    return TOWERS[name.rstrip("/").rpartition("/")[2]]


def hub_tower(config: Mapping[str, Any]) -> VitSpec:
    """Of transformers' CLIPVisionConfig, whose defaults stand for what is not said."""
    activation = config.get("hidden_act", "quick_gelu")
    if activation not in ACTIVATIONS:
        raise ValueError(f"the tower's hidden_act is {activation!r}{nearest(activation, ACTIVATIONS)}")
    return VitSpec(
        dim=config.get("hidden_size", 768), hidden=config.get("intermediate_size", 3072),
        layers=config.get("num_hidden_layers", 12), heads=config.get("num_attention_heads", 12),
        image=config.get("image_size", 224), patch=config.get("patch_size", 32), eps=config.get("layer_norm_eps", 1e-5),
        activation=activation,
    )  # fmt: skip


def _hub_tower_config(spec: VitSpec) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model", "hidden_size": spec.dim, "intermediate_size": spec.hidden,
        "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads, "image_size": spec.image,
        "patch_size": spec.patch, "layer_norm_eps": spec.eps, "hidden_act": spec.activation, "projection_dim": 768,
    }  # fmt: skip


def _depth_of(projector: str) -> int:
    """Of a published `mm_projector_type`."""
    found = re.fullmatch(r"linear|identity|mlp(\d+)x_gelu", projector)
    if found is None:
        raise ValueError(
            f"mm_projector_type is {projector!r}; known are 'linear', 'mlp2x_gelu' (any number) and 'identity'"
        )
    return int(found[1]) if found[1] else int(projector == "linear")


def _listed(points: str) -> list[tuple[int, int]]:
    """Older config.json have a list in a string."""
    numbers = [int(number) for number in re.findall(r"\d+", points)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _plain_heads(language: LlamaSpec) -> LlamaSpec:
    return replace(language, head_dim=None) if language.head_dim == language.dim // language.heads else language


def _template(config: Mapping[str, Any], kind: str, language: LlamaSpec, name: str) -> str:
    """Said by us, or guessed as the authors' code does, from names, and from the language model."""
    said = config.get("conversation")
    if said is not None:
        if said not in TEMPLATES:
            raise ValueError(f"config.json: conversation is {said!r}{nearest(str(said), TEMPLATES)}")
        return said
    if kind == "mistral":
        return "mistral_instruct"
    if language.dim == 7168:  # Yi-34B, as Nous-Hermes-2 speaks
        return "chatml_direct"
    if language.vocab >= 128_256:
        return "llava_llama_3"
    if "llama-2" in name.lower() and "vicuna" not in name.lower():
        return "llava_llama_2"
    return "v0" if "v0" in name.lower() else "v1"


def authors_config(spec: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """Of a Spec of either system.

    Args:
        more: `image_aspect_ratio` and what else only one of them has.
    Raises:
        ValueError: what the authors' code has no words for.
    """
    language, projector, selection = language_config(spec.language), spec.projector, spec.features
    kind = language["model_type"]
    if kind not in CLASSES or len(selection.layers) > 1 or (projector.activation, projector.bias) != ("gelu", True):
        raise ValueError(
            f"the authors' LLaVA has one hidden state, a projector of gelu with biases and {', '.join(CLASSES)}; "
            f"not {selection}, {projector} and {kind}"
        )
    if spec.language.head_dim is None:
        del language["head_dim"]
    names = [name for name, known in TOWERS.items() if known == spec.vision]
    tower = {"mm_vision_tower": f"openai/{names[0]}"} if names else {"vision_config": _hub_tower_config(spec.vision)}
    return language | {
        "architectures": [CLASSES[kind]], "model_type": f"llava_{kind.removesuffix('2')}",
        **tower, "mm_hidden_size": spec.vision.dim,
        "mm_vision_select_layer": selection.layers[0], "mm_vision_select_feature": "cls_patch" if selection.cls else "patch",
        "mm_projector_type": {0: "identity", 1: "linear"}.get(projector.depth, f"mlp{projector.depth}x_gelu"),
        "use_mm_proj": True, "mm_use_im_start_end": spec.marked, "mm_use_im_patch_token": False,
        "conversation": spec.template, **more,
    }  # fmt: skip


def hub_config(spec: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """The same for transformers."""
    if spec.projector.depth != 2:
        raise ValueError(f"transformers' LLaVA has a projector of two layers, not of {spec.projector.depth}")
    language, selection = language_config(spec.language), spec.features
    return {
        "text_config": language, "vision_config": _hub_tower_config(spec.vision),
        "vision_feature_layer": selection.layers[0] if len(selection.layers) == 1 else list(selection.layers),
        "vision_feature_select_strategy": "full" if selection.cls else "default",
        "projector_hidden_act": spec.projector.activation, "multimodal_projector_bias": spec.projector.bias,
        "tie_word_embeddings": spec.language.tied, "mm_use_im_start_end": spec.marked, "conversation": spec.template, **more,
    }  # fmt: skip
