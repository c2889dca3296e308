"""What LAVIS's YAML files and transformers' config.json say of BLIP-2 and InstructBLIP, and the same written again.

salesforce/LAVIS, lavis/configs/models/blip2; transformers, models/blip_2 and models/instructblip.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from scops.checkpoints.hub_eva import eva_config, eva_spec
from scops.checkpoints.hub_opt import opt_config, opt_spec
from scops.checkpoints.hub_qformer import qformer_config, qformer_spec
from scops.checkpoints.hub_t5 import t5_config, t5_spec
from scops.connectors.qformer import QFormerSpec
from scops.encoders.eva import EvaSpec
from scops.language.opt import OptSpec
from scops.language.t5 import T5Spec
from scops.systems.lavis import NAMES, Language, Numbers
from scops.systems.llama import language_config, language_spec


def hub_numbers(config: Mapping[str, Any], *, reads: bool) -> dict[str, Any]:
    """What transformers' config.json says of the parts.

    Args:
        reads: whether the Q-Former reads text.
    Raises:
        ValueError: a part that is not built.
    """
    vision, qformer = config.get("vision_config") or {}, config.get("qformer_config") or {}
    if not vision.get("qkv_bias", True):
        raise ValueError("this tower has no biases of queries and values (qkv_bias), which EVA-CLIP-g has")
    if qformer.get("use_qformer_text_input"):
        raise ValueError("this BLIP-2's Q-Former reads text (use_qformer_text_input); only InstructBLIP's does")
    for name, section in (("vision_config", vision), ("qformer_config", qformer)):
        if section.get("hidden_act", "gelu") != "gelu":
            raise ValueError(f"{name} has the activation {section['hidden_act']!r}; tower and Q-Former have 'gelu'")
    tower = eva_spec(vision)
    asked = {**qformer, "encoder_hidden_size": tower.dim}
    asking = qformer_spec(asked, queries=config.get("num_query_tokens", 32), words=30522 if reads else 0)
    return {
        "vision": tower,
        "qformer": asking,
        "language": hub_language(config.get("text_config") or {}),
        "eps": tower.eps,
    }


def hub_language(config: Mapping[str, Any]) -> Language:
    kind = config.get("model_type", "opt")
    readers = {"opt": opt_spec, "t5": t5_spec, "llama": language_spec}
    if kind not in readers:
        raise ValueError(f"the language model is a {kind!r}; published ones are {', '.join(readers)}")
    return readers[kind](config)


def language_numbers(spec: Language) -> dict[str, Any]:
    """The inverse of `hub_language`."""
    if isinstance(spec, T5Spec):
        return t5_config(spec)
    return opt_config(spec) if isinstance(spec, OptSpec) else language_config(spec)


def hub_config(spec: Numbers) -> dict[str, Any]:
    """The inverse of `hub_numbers`; transformers gives the norm between tower and Q-Former the tower's eps."""
    return {
        "num_query_tokens": spec.qformer.queries,
        "vision_config": eva_config(spec.vision),
        "qformer_config": qformer_config(spec.qformer),
        "text_config": language_numbers(spec.language),
        "use_decoder_only_language_model": not isinstance(spec.language, T5Spec),
        "is_encoder_decoder": isinstance(spec.language, T5Spec),
    }  # fmt: skip


Archs = Mapping[str, type]
"""LAVIS's `arch`, and the kind of its language model."""


def lavis_numbers(
    config: Mapping[str, Any], archs: Archs, known: Mapping[str, Language], qformer: QFormerSpec
) -> dict[str, Any]:
    """What the `model` section of LAVIS's two YAML files says, read as one. `vision`, `qformer` and `language`, in place of names,
    are ours, for parts that have none.

    Args:
        known: language models by their last name ("opt-2.7b").
        qformer: as published.
    Raises:
        ValueError: a part that is not built, or another language model than the arch's.
    """
    field = config["arch"].split("_")[1].replace("vicuna", "llm") + "_model"
    name = str(config.get(field, "")).rpartition("/")[2]
    if name not in known and "language" not in config:
        raise ValueError(f"{field} is {config.get(field)!r}; {config['arch']} has {', '.join(known)}")
    if config.get("vit_model", "eva_clip_g") != "eva_clip_g":
        raise ValueError(f"vit_model is {config['vit_model']!r}; only 'eva_clip_g' is built")
    vision = EvaSpec(**config["vision"]) if "vision" in config else EvaSpec()
    asking = QFormerSpec(**config["qformer"]) if "qformer" in config else qformer
    if not config.get("qformer_text_input", True):
        asking = replace(asking, vocab=0)
    language = hub_language(config["language"]) if "language" in config else known[name]
    if not isinstance(language, archs[config["arch"]]):
        raise ValueError(f"arch is {config['arch']!r}, but its language model is another's: {language}")
    return {
        "vision": replace(vision, image=config.get("image_size", vision.image)),
        "qformer": replace(asking, queries=config.get("num_query_token", asking.queries)),
        "language": language,
        "eps": config.get("ln_vision_eps", 1e-5),
    }


def lavis_config(spec: Numbers, archs: Archs, known: Mapping[str, Language], qformer: QFormerSpec) -> dict[str, Any]:
    """The inverse of `lavis_numbers`."""
    arch = next(arch for arch, kind in archs.items() if isinstance(spec.language, kind))
    name = next((name for name, language in known.items() if language == spec.language), None)
    made: dict[str, Any] = {
        "arch": arch, "vit_model": "eva_clip_g", "image_size": spec.vision.image, "num_query_token": spec.qformer.queries,
        f"{NAMES[type(spec.language)]}_model": name, "ln_vision_eps": spec.eps,
    }  # fmt: skip
    if replace(spec.vision, image=224) != EvaSpec():
        made["vision"] = asdict(spec.vision)
    if spec.qformer != qformer:
        made["qformer"] = asdict(spec.qformer)
    if name is None:
        made["language"] = language_numbers(spec.language)
    return made
