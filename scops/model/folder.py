"""A model's folder, Hugging Face shaped: what stands in it, how it is recognised, how it is written."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import scops
from scops.checkpoints.keymap import KeyMismatch
from scops.checkpoints.read import open_weights
from scops.checkpoints.write import save_json, save_text, save_weights
from scops.core.layout import Layout
from scops.core.names import nearest
from scops.core.stage import Lora
from scops.data.resize import RESIZERS
from scops.data.template import jinja
from scops.data.tokenizer import Tokenizer
from scops.model.bridge import adapter_group
from scops.model.trust import check_trust
from scops.native.quantise import roles_of
from scops.systems import SYSTEMS, module_of, spec_from_json, spec_to_json

CONFIG, PROCESSOR, GENERATION, TEMPLATE = (
    "config.json", "processor_config.json", "generation_config.json", "chat_template.jinja"
)  # fmt: skip
OWN, FINAL = "scops", "final"


@dataclass(frozen=True)
class Config:
    """What a config.json says.

    Args:
        size: a known size's name when the spec is exactly that; else None.
        layout: how the weights are named: "scops" or a layout of the system's KEYS.
        lora: adapters that are kept beside the weights, with the exact paths they are on.
        quantised: by role, "int8" or "int4".
    """

    system: str
    size: str | None
    spec: Any
    layout: str = OWN
    lora: tuple[Lora, ...] = ()
    quantised: Mapping[str, str] = field(default_factory=dict)


def read_config(folder: Path, trust: Sequence[str] = ()) -> Config:
    """Ours by its section, the authors' by what the systems recognise.

    Args:
        trust: packages whose code it may name, as in `check_trust`.
    Raises:
        ValueError: no config.json, or of a system that is not known, or it needs code that is not trusted.
    """
    path = folder / CONFIG
    if not path.is_file():
        if (folder / "parts.json").is_file():
            raise ValueError(
                f"{folder} names parts that lie elsewhere; make it whole first: scops convert {folder} OUT"
            )
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
        raise ValueError(
            f"{folder} has no {CONFIG}, so it is no model's folder; it holds {there}; where these are weights of a part, a "
            "parts.json says so and names the others (docs/checkpoints.md)"
        )
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if OWN in content:
        config = _own(content[OWN], path)
        check_trust(config.spec, trust, str(path))
        return config
    specs = {system: module_of(system).spec_of(content) for system in SYSTEMS}
    found = {system: spec for system, spec in specs.items() if spec is not None}
    if found:
        modules = {system: module_of(system) for system in found}
        settles = any(hasattr(module, "settled") or len(module.KEYS) > 1 for module in modules.values())
        shapes = _shapes(folder) if len(found) > 1 or settles else {}
        system, layout = _by_weights(found, shapes)
        module = modules[system]
        spec = module.settled(found[system], shapes) if shapes and hasattr(module, "settled") else found[system]
        return Config(system, size_of(module, spec), spec, layout)
    kind = content.get("model_type")
    raise ValueError(f"{path} is of model_type {kind!r}, which no system here reads{nearest(str(kind), SYSTEMS)}")


def _by_weights(found: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str]:
    """The first system and layout, of those that the config.json may mean, that know all names of the folder's weights."""
    known = [(system, layout) for system in found for layout in module_of(system).KEYS]
    for system, layout in known:
        with suppress(KeyMismatch):
            module_of(system).KEYS[layout](found[system]).load_names(shapes)
            return system, layout
    return known[0]  # which will say what it does not know


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of the folder's weights by name, which settle what a config.json leaves open; nothing for a config.json alone."""
    try:
        reader = open_weights(folder)
    except FileNotFoundError:
        return {}
    return {name: tuple(reader.shape(name)) for name in reader.names()}


def _own(section: Mapping[str, Any], path: Path) -> Config:
    missing = sorted({"system", "spec"} - set(section))
    if missing:
        raise ValueError(f"{path}: the {OWN!r} section has no {missing[0]!r}")
    if section["system"] not in SYSTEMS:
        raise ValueError(f"{path}: there is no system {section['system']!r}{nearest(section['system'], SYSTEMS)}")
    module = module_of(section["system"])
    try:
        spec = spec_from_json(module.Spec, section["spec"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} (written by scops {section.get('version', '?')}): {error}") from error
    lora = tuple(adapter_group(group) for group in section.get("lora", ()))
    quantised = roles_of(section.get("quantised"))
    return Config(section["system"], size_of(module, spec), spec, section.get("layout", OWN), lora, quantised)


def finished(folder: Path) -> Path:
    """A run's folder stands for the system that it ended with."""
    if (folder / CONFIG).is_file() or not (folder / "run.yaml").is_file():
        return folder
    if (folder / FINAL / CONFIG).is_file():
        return folder / FINAL
    raise ValueError(f"{folder} is a run that has not ended yet; go on with it: scops train {folder}")


def size_of(module: Any, spec: Any) -> str | None:
    """The name of a size that is exactly this."""
    return next((name for name, known in module.SIZES.items() if known == spec), None)


def write_folder(
    folder: Path,
    config: Config,
    weights: Mapping[str, Any],
    *,
    layout: Layout,
    tokenizer: Tokenizer,
    published: Mapping[str, Any],
    run: str | None,
) -> None:
    """Every file whole or not there, the weights last.

    Args:
        weights: under the names of config.layout.
        published: the authors' own config.json for their layout; empty for ours.
        run: the YAML of the run that made it.
    """
    section: dict[str, Any] = {
        "version": scops.__version__,
        "system": config.system,
        "size": config.size,
        "layout": config.layout,
        "spec": spec_to_json(config.spec),
    }
    if config.lora:
        section["lora"] = [asdict(group) for group in config.lora]
    if config.quantised:
        section["quantised"] = dict(config.quantised)
    save_json(folder / CONFIG, {"model_type": OWN, **published, OWN: section})
    tokenizer.save(folder)
    save_text(folder / TEMPLATE, jinja(layout.template))
    save_json(folder / PROCESSOR, processor_config(layout))
    save_json(folder / GENERATION, generation_config(layout, tokenizer))
    if run is not None:
        save_text(folder / "run.yaml", run)
    save_weights(folder, weights)


def published_config(system: str, spec: Any, layout: str) -> dict[str, Any]:
    """The authors' config.json for this spec, as the system's CONFIGS writes it."""
    return module_of(system).CONFIGS[layout](spec)


def processor_config(layout: Layout) -> dict[str, Any]:
    """How pictures are prepared and how many tokens one takes."""
    kinds = {}
    for kind, media in layout.media.items():
        kinds[kind] = {**asdict(media.pixels), "tokens": media.tokens, **media.choices}
    return json.loads(json.dumps({"processor_class": OWN, "context": layout.context, "media": kinds}))


def generation_config(layout: Layout, tokenizer: Tokenizer) -> dict[str, Any]:
    stops = [tokenizer.stop_id(token) for token in layout.template.stops]
    found = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": stops,
        "pad_token_id": tokenizer.pad_id,
        "do_sample": False,
    }
    return {name: value for name, value in found.items() if value is not None}


def recorded_layout(folder: Path, layout: Layout) -> Layout:
    """The layout with what a folder of ours says of resizing; all else must be as when the weights were made.

    A folder that says nothing of it resizes as the system does.

    Raises:
        ValueError: naming what differs.
    """
    path = folder / PROCESSOR
    if not path.is_file():
        return layout
    kept = json.loads(path.read_text("utf-8"))
    if kept.get("processor_class") != OWN:
        return layout  # the authors' own, in their own words
    media, choice = kept.get("media", {}), {}
    for kind in media.keys() & layout.media.keys():
        choice[kind] = media[kind].setdefault("resize", layout.media[kind].pixels.resize)
        if choice[kind] not in RESIZERS:
            raise ValueError(f"{path}: media.{kind}.resize is {choice[kind]!r}{nearest(choice[kind], RESIZERS)}")
    chosen = layout.resized_by(choice)
    differ = list(_differences(kept, processor_config(chosen)))
    if differ:
        raise ValueError(f"{path} and the system prepare pictures differently: {'; '.join(differ[:5])}")
    return chosen


def _differences(kept: Any, made: Any, at: str = "") -> Sequence[str]:
    if isinstance(kept, Mapping) and isinstance(made, Mapping):
        names = sorted(set(kept) | set(made))
        return [
            line for name in names for line in _differences(kept.get(name), made.get(name), f"{at}.{name}".lstrip("."))
        ]
    return [] if kept == made else [f"{at} is {kept} in the folder and {made} in the system"]


def told(config: Config, tokenizer: Tokenizer) -> Any:
    """The spec of a folder, with what its tokenizer says of a published one; ours says all itself."""
    return config.spec if config.layout == OWN else written_for(config.system, config.spec, tokenizer)


def written_for(system: str, spec: Any, tokenizer: Tokenizer) -> Any:
    """A published language model's config does not say how turns are written: its size or its special tokens do.

    What else a system asks of the tokenizer, its `told_by` says.
    """
    told_by = getattr(module_of(system), "told_by", None)
    if told_by:
        return told_by(spec, tokenizer)
    if system != "llama":
        return spec
    for known in module_of(system).SIZES.values():
        if known.language == spec.language:
            return known
    form = "chatml" if {"<|im_start|>", "<|im_end|>"} <= set(tokenizer.added) else spec.template
    return replace(spec, template=form)
