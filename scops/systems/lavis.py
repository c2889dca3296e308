"""What BLIP-2 and InstructBLIP share (salesforce/LAVIS, lavis/models/blip2_models): EVA-CLIP-g -> Q-Former -> one linear layer ->
a prefix of a language model; and how LAVIS and transformers name all that."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Protocol

from scops.checkpoints.hub_eva import HUB_EVA, LAVIS_EVA, eva_config, eva_spec, running
from scops.checkpoints.hub_llama import HUB_LLAMA, llama_keys
from scops.checkpoints.hub_opt import hub_opt, opt_config, opt_files, opt_spec
from scops.checkpoints.hub_qformer import (
    HUB_QFORMER,
    HUB_QFORMER_READING,
    LAVIS_QFORMER,
    qformer_config,
    qformer_spec,
)  # fmt: skip
from scops.checkpoints.hub_t5 import hub_t5, t5_config, t5_decoder, t5_encoder, t5_spec
from scops.checkpoints.keymap import KeyMap, dropped, same
from scops.connectors.qformer import QFormerConnector, QFormerSpec
from scops.encoders.eva import EvaSpec, EvaVit
from scops.language.llama import LlamaSpec, llama
from scops.language.opt import OptSpec, opt
from scops.language.t5 import T5Decoder, T5Encoder, T5Spec
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.models.encoder_decoder import READ, EncoderDecoder
from scops.systems import Origins, Published
from scops.systems.llama import language_config, language_spec

Language = OptSpec | T5Spec | LlamaSpec


class Numbers(Protocol):
    """Args:
    eps: of the norm between tower and Q-Former: 1e-5 in LAVIS, the tower's in transformers.
    """

    @property
    def vision(self) -> EvaSpec: ...

    @property
    def qformer(self) -> QFormerSpec: ...

    @property
    def language(self) -> Language: ...

    @property
    def eps(self) -> float: ...


def assembled(spec: Numbers) -> MultimodalDecoder | EncoderDecoder:
    language = spec.language
    width = language.dim if isinstance(language, LlamaSpec) else language.width
    image = MediaInput(EvaVit(spec.vision), QFormerConnector(spec.qformer, width, eps=spec.eps), Inline())
    if isinstance(language, T5Spec):
        decoder = T5Decoder(language, READ)
        return EncoderDecoder(T5Encoder(language, decoder.embed), decoder, image=image)
    return MultimodalDecoder(opt(language) if isinstance(language, OptSpec) else llama(language), image=image)


# Names ----------------------------------------------------------------------------------------------------------------

NAMES: dict[type, str] = {OptSpec: "opt", T5Spec: "t5", LlamaSpec: "llm"}
"""LAVIS: what stands before `_proj` and `_model`."""


def lavis_keys(spec: Numbers) -> KeyMap:
    """Blip2OPT, Blip2T5, Blip2VicunaInstruct, Blip2T5Instruct. Released files hold what was trained alone: see `parts`."""
    name = NAMES[type(spec.language)]
    return KeyMap(
        LAVIS_EVA.under("visual_encoder.", "image.encoder."),
        same("ln_vision.{w}", "image.connector.norm.{w}"),
        same("query_tokens", "image.connector.qformer.queries"),
        LAVIS_QFORMER.under("Qformer.bert.", "image.connector.qformer."),
        same(name + "_proj.{w}", "image.connector.project.{w}"),
        language_keys(spec.language).under(name + "_model."),
    )


def hub_keys(spec: Numbers) -> KeyMap:
    """Blip2ForConditionalGeneration, InstructBlipForConditionalGeneration."""
    qformer = HUB_QFORMER_READING if spec.qformer.vocab else HUB_QFORMER
    return KeyMap(
        HUB_EVA.under("vision_model.", "image.encoder."),
        same("vision_model.post_layernorm.{w}", "image.connector.norm.{w}"),
        same("query_tokens", "image.connector.qformer.queries"),
        qformer.under("qformer.", "image.connector.qformer."),
        dropped("qformer.embeddings.position_ids", "counted anew"),
        same("language_projection.{w}", "image.connector.project.{w}"),
        language_keys(spec.language).under("language_model."),
    )


def language_keys(spec: Language) -> KeyMap:
    """transformers' own, to `language.`, or to `encoder.` and `decoder.`"""
    if isinstance(spec, T5Spec):
        return hub_t5(spec)
    if isinstance(spec, OptSpec):
        return hub_opt(spec).under(ours="language.")
    return llama_keys(tied=spec.tied).under(ours="language.")


def tower(vision: EvaSpec) -> Published:
    """eva_vit_g.pth, which has more blocks than run."""
    return Published(LAVIS_EVA, running(vision))


FIRST = KeyMap(
    same("ln_vision.{w}", "norm.{w}"),
    same("query_tokens", "qformer.queries"),
    LAVIS_QFORMER.under("Qformer.bert.", "qformer."),
)
ASKING = (
    "embeddings.LayerNorm", *(f"encoder.layer.*.{part}" for part in ("attention", "crossattention", "*_query")),
)  # fmt: skip


def first_stage(qformer: QFormerSpec) -> Published:
    """What BLIP-2's first stage trained, as LAVIS keeps it (Blip2Qformer), without its heads; where no text is read, without that."""
    read = (f"Qformer.bert.{part}" for part in ASKING) if not qformer.vocab else ("Qformer.bert",)
    return Published(FIRST, ("ln_vision", "query_tokens", *read))


def parts(spec: Numbers) -> dict[str, tuple[Published, ...]]:
    """What was frozen, and what the second stage begins with; T5's folder gives two parts."""
    given: dict[str, tuple[Published, ...]] = {
        "image.encoder": (tower(spec.vision),),
        "image.connector": (first_stage(spec.qformer),),
    }
    language = spec.language
    if isinstance(language, T5Spec):
        head = () if language.tied else ("lm_head",)
        given["encoder"] = (Published(t5_encoder(language), ("encoder",)),)
        given["decoder"] = (Published(t5_decoder(language), ("shared", "decoder", *head)),)
    elif isinstance(language, OptSpec):
        given["language"] = tuple(map(Published, opt_files(language)))
    else:
        given["language"] = (Published(HUB_LLAMA),)
    return given


def settled(spec: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """Whether T5's head is its embedding is said by the weights' names: transformers 5 writes that it is in any case.

    Raises:
        ValueError: weights of another language model than the config.json's.
    """
    kinds = {"opt_proj": OptSpec, "t5_proj": T5Spec, "llm_proj": LlamaSpec, "language_model.model.decoder": OptSpec,
             "language_model.shared": T5Spec, "language_model.model.embed_tokens": LlamaSpec}  # fmt: skip
    for begins, kind in kinds.items():
        found = next((name for name in shapes if name.startswith(begins + ".")), None)
        if found is not None and not isinstance(spec.language, kind):
            raise ValueError(
                f"config.json is of a {NAMES[type(spec.language)]!r} language model, but the weights are of {NAMES[kind]!r}: "
                f"they have {found!r}"
            )
    if isinstance(spec.language, T5Spec) and any(name.endswith("shared.weight") for name in shapes):
        tied = not any(name.endswith("lm_head.weight") for name in shapes)
        return replace(spec, language=replace(spec.language, tied=tied))
    return spec


# Configurations -------------------------------------------------------------------------------------------------------


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


def origins(spec: Numbers) -> Origins:
    """No registry carries these weights: load a folder, or one with a parts.json."""
    return Origins(fresh=("image", *(("encoder", "decoder") if isinstance(spec.language, T5Spec) else ("language",))))
