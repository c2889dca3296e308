"""The names under which parts are offered: each is a part with its published numbers, to start from."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from scops.connectors.abstractor import AbstractorSpec
from scops.connectors.h_reducer import HReducerSpec
from scops.connectors.own import OwnSpec
from scops.connectors.perceiver import PerceiverSpec
from scops.connectors.qformer import QFormerSpec
from scops.core.names import nearest
from scops.encoders.eva import EvaSpec
from scops.encoders.siglip import SiglipSpec
from scops.encoders.vit import VitSpec
from scops.language.bloom import BloomSpec
from scops.language.gated import GatedSpec
from scops.language.gpt_neox import GptNeoxSpec
from scops.language.mpt import MptSpec
from scops.language.opt import OptSpec
from scops.systems import KIND, changed, llama, spec_to_json
from scops.systems.composing.connectors import MlpSpec
from scops.systems.composing.encoders import GridVitSpec, LiteSpec
from scops.systems.composing.fusions import BesideTheText, ByModality, InTheText

ENCODERS = {
    "efficientnet-lite0": LiteSpec(), "efficientnet-lite2": LiteSpec("lite2", side=260), "clip": VitSpec(),
    "siglip": SiglipSpec(), "eva": EvaSpec(), "grid-vit": GridVitSpec(),
}  # fmt: skip
CONNECTORS = {
    "linear": MlpSpec(), "mlp": MlpSpec(hidden=None), "abstractor": AbstractorSpec(), "h_reducer": HReducerSpec(),
    "qformer": QFormerSpec(), "perceiver": PerceiverSpec(),
}  # fmt: skip
FUSIONS = {
    "inline": InTheText(), "modality_adaptive": ByModality(), "hyper_attention": BesideTheText(),
    "gated_cross_attention": GatedSpec(),
}  # fmt: skip
TONGUES = {
    "smollm2-135m": (llama.SMOLLM2_135M, "chatml"),
    **{name: (size.language, size.template) for name, size in llama.SIZES.items()},
    "bloomz-7b": (BloomSpec(), "plain"),
    "opt-2.7b": (OptSpec(), "opt"),
    "opt-6.7b": (OptSpec(dim=4096, hidden=16384), "opt"),
    "redpajama-3b": (GptNeoxSpec(), "endoftext"),
    "mpt-7b": (MptSpec(), "endoftext"),
}
"""With how its tokenizer lets turns be written."""
OFFERED: Mapping[str, Mapping[str, Any]] = {
    "encoder": ENCODERS,
    "connector": CONNECTORS,
    "fusion": FUSIONS,
    "language": {name: spec for name, (spec, _) in TONGUES.items()},
}


def in_full(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of a Spec with offered names in place of kinds: a name, or {"kind": name} with numbers, or a part's own spec.

    A language model that is named brings its template, unless another is given.

    Raises:
        ValueError: a name that is not offered.
    """
    full = {name: _in_full(name, word) if name in OFFERED else word for name, word in overrides.items()}
    language = _name(overrides.get("language"))
    return full if language not in TONGUES else {"template": TONGUES[language][1]} | full


def _name(word: Any) -> str | None:
    return word.get(KIND) if isinstance(word, Mapping) else word if isinstance(word, str) else None


def _in_full(part: str, word: Any) -> Any:
    if is_dataclass(word) and not isinstance(word, type):
        return {KIND: type(word).__name__, **spec_to_json(word)}
    if not isinstance(word, str | Mapping):
        raise ValueError(f"{part} is a name, or a name with numbers ({{kind: ..., ...}}), not {word!r}")
    name, offered = _name(word), OFFERED[part]
    if not isinstance(name, str | None):
        raise ValueError(f"the {KIND} of {part} is a name, not {name!r}")
    numbers = {key: value for key, value in word.items() if key != KIND} if isinstance(word, Mapping) else {}
    if name is None:
        return numbers
    if part == "connector" and ":" in name:
        return {KIND: OwnSpec.__name__, "path": name, "numbers": numbers}
    if name in offered:
        return {KIND: type(offered[name]).__name__, **spec_to_json(changed(offered[name], numbers))}
    if name in {type(spec).__name__ for spec in (*offered.values(), OwnSpec)}:
        return word  # as a saved folder says it
    more = " (one of your own is named package.module:Class)" if part == "connector" else ""
    raise ValueError(f"there is no {part} {name!r}{more}{nearest(name, offered)}")
