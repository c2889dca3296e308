"""What BLIP-2 and InstructBLIP share (salesforce/LAVIS, lavis/models/blip2_models): EVA-CLIP-g -> Q-Former -> one linear layer ->
a prefix of a language model; and how LAVIS and transformers name all that. Configurations stand in lavis_config.py."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from scops.checkpoints.hub_eva import HUB_EVA, LAVIS_EVA, running
from scops.checkpoints.hub_llama import HUB_LLAMA, llama_keys
from scops.checkpoints.hub_opt import hub_opt, opt_files
from scops.checkpoints.hub_qformer import HUB_QFORMER, HUB_QFORMER_READING, LAVIS_QFORMER
from scops.checkpoints.hub_t5 import hub_t5, t5_decoder, t5_encoder
from scops.checkpoints.keymap import KeyMap, dropped, same
from scops.connectors.qformer import QFormerConnector, QFormerSpec
from scops.encoders.eva import EvaSpec, EvaVit
from scops.language.llama import LlamaSpec, llama
from scops.language.opt import OptSpec, opt
from scops.language.t5 import T5Decoder, T5Encoder, T5Spec
from scops.models.decoder import Inline, MediaInput, MultimodalDecoder
from scops.models.encoder_decoder import READ, EncoderDecoder
from scops.systems import Origins, Published

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


def origins(spec: Numbers) -> Origins:
    """No registry carries these weights: load a folder, or one with a parts.json."""
    return Origins(fresh=("image", *(("encoder", "decoder") if isinstance(spec.language, T5Spec) else ("language",))))
