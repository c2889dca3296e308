"""Language models that OpenFlamingo was built on: how each is assembled around gated layers, named and configured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scops.checkpoints.hub_gpt_neox import gpt_neox_config, gpt_neox_files, gpt_neox_spec, hub_gpt_neox
from scops.checkpoints.hub_llama import llama_keys
from scops.checkpoints.hub_mpt import FOUNDRY, MOSAIC_GPT, hub_mpt, mpt_config, mpt_files, mpt_spec
from scops.checkpoints.keymap import KeyMap
from scops.language import gpt_neox, mpt
from scops.language.gated import GatedSpec, gated_blocks, gated_llama
from scops.language.gpt_neox import GptNeoxSpec
from scops.language.llama import LlamaSpec
from scops.language.model import LanguageModel
from scops.language.mpt import MptSpec
from scops.systems.llama import language_config, language_spec


@dataclass(frozen=True)
class Family:
    """Args:
    kinds: model_type of their config.json.
    layer: the template of a decoder layer's name.
    keys: as transformers names the parameters in memory; layouts: and as published files do.
    read, write: its config.json.
    """

    kinds: tuple[str, ...]
    layer: str
    build: Callable[..., LanguageModel]
    keys: Callable[[Any], KeyMap]
    layouts: Callable[[Any], tuple[KeyMap, ...]]
    read: Callable[[Mapping[str, Any]], Any]
    write: Callable[[Any], dict[str, Any]]


def gated_mpt(spec: MptSpec, gates: GatedSpec, *, memory: str, width: int) -> LanguageModel:
    return mpt.assembled(spec, gated_blocks(mpt.blocks(spec), gates, spec.dim, memory=memory, width=width))


def gated_gpt_neox(spec: GptNeoxSpec, gates: GatedSpec, *, memory: str, width: int) -> LanguageModel:
    return gpt_neox.assembled(spec, gated_blocks(gpt_neox.blocks(spec), gates, spec.dim, memory=memory, width=width))


def mpt_in_memory(spec: MptSpec) -> KeyMap:
    """Norms of queries and keys are MosaicGPT's alone, which has other names."""
    return hub_mpt(spec, MOSAIC_GPT if spec.norms else FOUNDRY)


def hub_llama(spec: LlamaSpec) -> KeyMap:
    return llama_keys(tied=spec.tied)


FAMILIES: Mapping[type, Family] = {
    MptSpec: Family(
        ("mpt", "mosaic_gpt"), "transformer.blocks.{i}.", gated_mpt, mpt_in_memory, mpt_files, mpt_spec, mpt_config
    ),
    GptNeoxSpec: Family(
        ("gpt_neox",), "gpt_neox.layers.{i}.", gated_gpt_neox, hub_gpt_neox, gpt_neox_files, gpt_neox_spec, gpt_neox_config
    ),
    LlamaSpec: Family(
        ("llama",), "model.layers.{i}.", gated_llama, hub_llama, lambda spec: (hub_llama(spec),),
        language_spec, language_config,
    ),
}  # fmt: skip
