"""Floor 3: one file per published system, and one literal table of them.

A system's file holds: TITLE and PAPER; `Spec` (how big) and SIZES; `build(spec)`; KEYS (how published); `spec_of(config)` (which
published config.json is meant); `layout(spec)` (how read); STAGES (how trained); `origins(spec)` (where default weights come from).
One whose parts are chosen also holds `in_full(overrides)` (offered names in place of kinds), `origins_of(spec)` and `recipe_of(spec)`.
One that publishes only what it trained also holds `parts(spec)`: by path of a part, how others name that part's weights; and ADDED,
special tokens that it adds to the language model's tokenizer. One whose release brings learned positions to another grid by
another filter than "bicubic" names it in SPREAD.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from numbers import Integral, Real
from types import ModuleType, NoneType, UnionType
from typing import Any, get_args, get_type_hints

from scops.core.names import nearest


@dataclass(frozen=True)
class System:
    """Where a system is written, and the names of its sizes, first the default."""

    module: str
    sizes: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Published weights of one part.

    Args:
        package: a name in scops.checkpoints.packages.
        keys: the KeyMap from its layout to the part's.
        under: where the part stands in the system, "" or ending in a dot.
    """

    package: str
    keys: Any
    under: str = ""


@dataclass(frozen=True)
class Published:
    """How a file or folder of one part may name its weights.

    Args:
        keys: the KeyMap from its layout to the part's.
        select: globs of the published names that belong to the part; () where all do.
    """

    keys: Any
    select: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origins:
    """Where a size's default weights come from; what no weight covers is fresh.

    Args:
        tokenizer: a package that carries it; None when the run must bring one.
        bridge: a folder in scops/bridges with what was trained between those parts.
        elsewhere: parts whose published weights no package carries; the caller must say where they are.
    """

    weights: tuple[Origin, ...] = ()
    tokenizer: str | None = None
    bridge: str | None = None
    fresh: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


KIND = "kind"
"""Under this name the JSON of a field that takes several kinds of spec says which it holds."""

SYSTEMS = {
    "mplug-owl": System("scops.systems.mplug_owl", ("mplug-owl-llama-7b", "mplug-owl-bloomz-7b-multilingual")),
    "mplug-owl-video": System("scops.systems.mplug_owl_video", ("mplug-owl-llama-7b-video",)),
    "mplug-owl2": System("scops.systems.mplug_owl2", ("mplug-owl2-llama2-7b",)),
    "mplug-owl2.1": System("scops.systems.mplug_owl21", ("mplug-owl2.1",)),
    "mplug-owl3": System("scops.systems.mplug_owl3", ("mplug-owl3-7b-240728", "mplug-owl3-7b-241101")),
    "ureader": System("scops.systems.ureader", ("ureader-7b",)),
    "docowl1.5": System("scops.systems.docowl15", ("docowl1.5-chat", "docowl1.5-stage1")),
    "docowl2": System("scops.systems.docowl2", ("docowl2",)),
    "mplug": System("scops.systems.mplug", ("mplug-base", "mplug-large")),
    "flamingo": System("scops.systems.flamingo", ("flamingo-3b", "flamingo-9b", "flamingo-80b")),
    "open-flamingo": System(
        "scops.systems.open_flamingo",
        (
            "openflamingo-3b-vitl-mpt1b",
            "openflamingo-3b-vitl-mpt1b-langinstruct",
            "openflamingo-4b-vitl-rpj3b",
            "openflamingo-4b-vitl-rpj3b-langinstruct",
            "openflamingo-9b-vitl-mpt7b",
        ),
    ),
    "blip2-qformer": System(
        "scops.systems.blip2_qformer", ("blip2-qformer", "blip2-qformer-vitl", "blip2-qformer-coco")
    ),
    "blip2": System(
        "scops.systems.blip2", ("blip2-opt-2.7b", "blip2-opt-6.7b", "blip2-flan-t5-xl", "blip2-flan-t5-xxl")
    ),
    "instructblip": System(
        "scops.systems.instructblip",
        ("instructblip-vicuna-7b", "instructblip-vicuna-13b", "instructblip-flan-t5-xl", "instructblip-flan-t5-xxl"),
    ),
    "idefics": System(
        "scops.systems.idefics", ("idefics-9b", "idefics-9b-instruct", "idefics-80b", "idefics-80b-instruct")
    ),
    "llava": System(
        "scops.systems.llava",
        ("llava-v1.5-7b", "llava-v1.5-13b", "llava-7b-v0", "llava-7b-v1", "llava-llama-2-13b"),
    ),
    "llava-next": System(
        "scops.systems.llava_next",
        (
            "llava-v1.6-vicuna-7b",
            "llava-v1.6-vicuna-13b",
            "llava-v1.6-mistral-7b",
            "llava-v1.6-34b",
            "llama3-llava-next-8b",
        ),
    ),
    "minigpt4": System(
        "scops.systems.minigpt4", ("minigpt4-7b", "minigpt4-13b", "minigpt4-llama2-7b", "minigpt-v2-7b")
    ),
    "timechat": System("scops.systems.timechat", ("timechat-7b",)),
    "composed": System(
        "scops.systems.composed",
        (
            "owl1-smol",
            "owl2-smol",
            "owl3-smol",
            "owl3-fused-smol",
            "ureader-smol",
            "docowl-smol",
            "llava-smol",
            "blip2-smol",
            "flamingo-smol",
        ),
    ),
    "owl-small": System("scops.systems.owl_small", ("owl-tiny", "owl-nano")),
    "llama": System(
        "scops.systems.llama",
        ("smollm2-135m-instruct", "llama-7b", "vicuna-7b-v1.5", "mistral-7b-v0.1", "qwen2-7b-instruct", "qwen3-8b"),
    ),
}

COMPARING = ("mplug", "blip2-qformer")
"""Those whose modules are scops.core.pairs.Comparing: they say which pictures and texts belong together."""


def find(name: str) -> tuple[str, str]:
    """(system, size) of a system's or a size's name.

    Raises:
        ValueError: neither; the nearest names are suggested.
    """
    if name in SYSTEMS:
        return name, SYSTEMS[name].sizes[0]
    for system, entry in SYSTEMS.items():
        if name in entry.sizes:
            return system, name
    known = [*SYSTEMS, *(size for entry in SYSTEMS.values() for size in entry.sizes)]
    raise ValueError(f"no system or size is called {name!r}{nearest(name, known)}")


def module_of(system: str) -> ModuleType:
    if system not in SYSTEMS:
        raise ValueError(f"no system is called {system!r}{nearest(system, SYSTEMS)}")
    return import_module(SYSTEMS[system].module)


def spec_to_json(spec: Any) -> dict[str, Any]:
    """Nested dictionaries; a field that takes several kinds of spec says under "kind" which it holds."""
    hints, made = get_type_hints(type(spec)), {}
    for name, value in vars(spec).items():
        kinds = _kinds(hints[name])
        made[name] = spec_to_json(value) if is_dataclass(value) else deepcopy(value)
        if len(kinds) > 1 and is_dataclass(value):
            made[name] = {KIND: type(value).__name__, **made[name]}
    return made


def spec_from_json(kind: type, data: Mapping[str, Any]) -> Any:
    """A Spec from what `spec_to_json` and JSON made of it.

    Where a field takes several kinds and the data names none (folders of before there were several), it is the first.

    Raises:
        ValueError: a field that the Spec does not have, or a kind or value that the field does not take.
    """
    hints = get_type_hints(kind)
    unknown = set(data) - {f.name for f in fields(kind)}
    if unknown:
        name = min(unknown)
        raise ValueError(f"{kind.__module__}.{kind.__name__} has no field {name!r}{nearest(name, hints)}")
    for name, value in data.items():
        if not _fits(hints[name], value):
            raise ValueError(f"{kind.__module__}.{kind.__name__}: {name} is {value!r}, expected {_says(hints[name])}")
    return kind(**{name: _value(hints[name], value) for name, value in data.items()})


def spec_for(name: str, overrides: Mapping[str, Any]) -> tuple[str, str, Any]:
    """(system, size, spec) of a system's or a size's name, with changes to its numbers, or other parts where it offers them."""
    system, size = find(name)
    return system, size, rechosen(system, module_of(system).SIZES[size], overrides)


def rechosen(system: str, spec: Any, overrides: Mapping[str, Any]) -> Any:
    """As `changed`, with the names of parts that the system offers."""
    module = module_of(system)
    return changed(spec, module.in_full(overrides) if hasattr(module, "in_full") else overrides)


def changed(spec: Any, overrides: Mapping[str, Any]) -> Any:
    """The spec with some numbers changed; unknown fields are answered with the nearest."""
    return spec_from_json(type(spec), merged(spec_to_json(spec), overrides))


def merged(old: Any, new: Any) -> Any:
    """Nested changes laid over nested numbers; of another kind of part (`kind`) nothing of the old one is kept."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and new.get(KIND, old.get(KIND)) == old.get(KIND):
        return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}
    return new


PLAIN = {bool: bool, int: Integral, float: Real, str: str, NoneType: NoneType}


def _fits(hint: Any, value: Any) -> bool:
    """What is no plain value fits here; its own fields are looked at in their turn."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if not set(options) <= set(PLAIN):
        return True
    return bool in options if isinstance(value, bool) else any(isinstance(value, PLAIN[option]) for option in options)


def _says(hint: Any) -> str:
    return str(hint) if isinstance(hint, UnionType) else hint.__name__


def _kinds(hint: Any) -> dict[str, type]:
    """The dataclasses that a field may hold, by name."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return {option.__name__: option for option in options if is_dataclass(option)}


def _value(hint: Any, value: Any) -> Any:
    kinds = _kinds(hint)
    if isinstance(value, Mapping) and kinds:
        several = len(kinds) > 1
        name = value.get(KIND, next(iter(kinds))) if several else next(iter(kinds))
        if name not in kinds:
            raise ValueError(f"there is no {KIND} {name!r}{nearest(str(name), kinds)}")
        return spec_from_json(kinds[name], {key: one for key, one in value.items() if not (several and key == KIND)})
    return _tuples(value)


def _tuples(value: Any) -> Any:
    """JSON's lists, also those in lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
