"""Language models, and fusions: how pictures come into them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from scops.checkpoints.hub_bloom import hub_bloom
from scops.checkpoints.hub_gpt_neox import gpt_neox_files
from scops.checkpoints.hub_hyper import llama_into_hyper
from scops.checkpoints.hub_llama import llama_keys
from scops.checkpoints.hub_modality_adaptive import LLAMA_INTO_BOTH, LLAMA_INTO_BOTH_TIED
from scops.checkpoints.hub_mpt import mpt_files
from scops.checkpoints.hub_opt import opt_files
from scops.checkpoints.keymap import KeyMap
from scops.core.names import nearest
from scops.language.bloom import BloomSpec, bloom
from scops.language.gated import GatedSpec, gated_blocks
from scops.language.gpt_neox import GptNeoxSpec, gpt_neox
from scops.language.hyper import ARRANGEMENTS, hyper_llama
from scops.language.llama import LlamaSpec, llama
from scops.language.modality_adaptive import modality_adaptive
from scops.language.model import LanguageModel
from scops.language.mpt import MptSpec, mpt
from scops.language.opt import OptSpec, opt
from scops.models.beside import Beside
from scops.models.decoder import Inline, Placement
from scops.nn.block import Block

MARK = "<|image|>"
"""What stands in the text for a picture beside it."""


@dataclass(frozen=True)
class InTheText:
    """Tokens of pictures stand in the sequence, and the language model does not tell them from words (LLaVA, mPLUG-Owl)."""


@dataclass(frozen=True)
class ByModality:
    """In the sequence, with norms, keys and values of their own (mPLUG-Owl2)."""


@dataclass(frozen=True)
class BesideTheText:
    """Asked by a few layers (mPLUG-Owl3).

    Args:
        layers: counted from 1.
        arrangement: "adaptive", "static" or "fused", of scops.language.hyper.
    """

    layers: tuple[int, ...] = (1, 9, 17, 25)
    arrangement: str = "adaptive"


# Language models ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speech:
    """A language model alone.

    Args:
        width: of what stands in its sequence.
        keys: of its published weights, in each of their layouts.
    """

    build: Callable[[], LanguageModel]
    width: int
    keys: tuple[KeyMap, ...]


def of_llama(spec: LlamaSpec) -> Speech:
    return Speech(lambda: llama(spec), spec.dim, (llama_keys(tied=spec.tied),))


def of_bloom(spec: BloomSpec) -> Speech:
    return Speech(lambda: bloom(spec), spec.dim, (hub_bloom(spec),))


def of_opt(spec: OptSpec) -> Speech:
    return Speech(lambda: opt(spec), spec.width, opt_files(spec))


def of_gpt_neox(spec: GptNeoxSpec) -> Speech:
    return Speech(lambda: gpt_neox(spec), spec.dim, gpt_neox_files(spec))


def of_mpt(spec: MptSpec) -> Speech:
    return Speech(lambda: mpt(spec), spec.dim, mpt_files(spec))


SPEECH: Mapping[type, Callable[[Any], Speech]] = {
    LlamaSpec: of_llama, BloomSpec: of_bloom, OptSpec: of_opt, GptNeoxSpec: of_gpt_neox, MptSpec: of_mpt,
}  # fmt: skip


# Fusions --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Body:
    """A language model, and how pictures come into it.

    Args:
        keys: from a plain language model's published weights; fresh: paths that these do not cover.
        recipe: of composed.STAGES.
        mark: what stands in the text for a picture beside it; "" where its tokens do.
    """

    build: Callable[[], LanguageModel]
    placement: Placement
    keys: tuple[KeyMap, ...]
    recipe: str
    mark: str = ""
    fresh: tuple[str, ...] = ()


def in_the_text(spec: InTheText, language: Any, speech: Speech) -> Body:
    return Body(speech.build, Inline(), speech.keys, "inline")


def by_modality(spec: ByModality, language: Any, speech: Speech) -> Body:
    language = _llama(language, "modality_adaptive doubles the norms, keys and values of LLaMA's layers")
    keys = LLAMA_INTO_BOTH_TIED if language.tied else LLAMA_INTO_BOTH
    return Body(lambda: modality_adaptive(language), Inline(), (keys,), "modality_adaptive")


def beside_the_text(spec: BesideTheText, language: Any, speech: Speech) -> Body:
    language = _llama(language, "hyper_attention asks pictures with LLaMA's turned queries, keys and shared norms")
    if spec.arrangement not in ARRANGEMENTS:
        raise ValueError(f"there is no arrangement {spec.arrangement!r}{nearest(spec.arrangement, ARRANGEMENTS)}")
    gates = tuple(f"language.blocks.{number - 1}.attn.gate" for number in spec.layers)
    recipe, fresh = ("hyper_attention_fused", ()) if spec.arrangement == "fused" else ("hyper_attention", gates)
    return Body(
        lambda: hyper_llama(language, spec.layers, spec.arrangement, "image"), Beside("image"),
        (llama_into_hyper(spec.layers, *speech.keys),), recipe, MARK, fresh,
    )  # fmt: skip


def gated(spec: GatedSpec, language: Any, speech: Speech) -> Body:
    def build() -> LanguageModel:
        model = speech.build()
        plain = [cast(Block, block) for block in model.blocks]
        model.blocks = nn.ModuleList(gated_blocks(plain, spec, language.dim, memory="image", width=speech.width))
        return model

    before = range(spec.every - 1, language.layers, spec.every)
    fresh = tuple(f"language.blocks.{at}.{name}" for at in before for name in ("gated_attn", "gated_mlp"))
    return Body(build, Beside("image"), speech.keys, "gated_cross_attention", MARK, fresh)


def _llama(language: Any, reason: str) -> LlamaSpec:
    if type(language) is not LlamaSpec:
        other = type(language).__name__.removesuffix("Spec")
        raise ValueError(
            f"{reason}, so it goes with models of the LLaMA family and not with {other}; inline and gated_cross_attention go "
            "with every language model"
        )
    return language


BODIES: Mapping[type, Callable[..., Body]] = {
    InTheText: in_the_text, ByModality: by_modality, BesideTheText: beside_the_text, GatedSpec: gated,
}  # fmt: skip
