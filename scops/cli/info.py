"""`scops info NAME`: what a system or a folder is, how big, how published and how trained; no weights are needed."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scops.cli.show import as_json, pairs, short, table
from scops.systems import SYSTEMS, find, module_of, spec_to_json


def info(name: str, *, json: bool) -> None:
    found = described(name)
    if json:
        as_json(found)
        return
    print(f"{found['name']}: {found['title']}\n{found['paper']}")
    pairs(_flat(found["spec"]), title="Sizes")
    columns = ("role", "module", "parameters", "tensors", "widest")
    rows = [(r["role"], r["module"], short(r["parameters"]), r["tensors"], r["widest"]) for r in found["roles"]]
    rows.append(("total", "", f"{found['parameters']:,}", sum(r["tensors"] for r in found["roles"]), ""))
    table(columns, rows, title="\nParts", right=("parameters", "tensors"))
    for kind, media in found["media"].items():
        print(f"{kind}: {media['tokens']} tokens for one of {media['height']}x{media['width']} ({media['fit']})")
    print(f"context: {found['context']:,} tokens")
    print("\nStages")
    for stage in found["stages"]:
        print(
            f"  {stage['variant']} / {stage['stage']}: {stage['objective']}, {stage['steps']} steps of {stage['batch']}, "
            f"lr {stage['lr']:g} {stage['schedule']}"
        )
        pairs({name: stage[name] for name in ("trains", "lora", "data", "sizes", "source") if stage[name]}, indent=4)
    pairs(found["sources"], title="Weights")
    print(f"\nKey layouts: {', '.join(['scops', *found['layouts']])}")


def described(name: str) -> dict[str, Any]:
    """Everything that `scops info` says, as plain data."""
    system, size, spec = spec_of(name)
    module = module_of(system)
    layout = module.layout(spec)
    roles = _roles(system, spec)
    variants = {size: module.STAGES[size]} if size and size in module.STAGES else module.STAGES
    return {
        "name": size or name,
        "system": system,
        "sizes": list(SYSTEMS[system].sizes),
        "title": module.TITLE,
        "paper": module.PAPER,
        "spec": spec_to_json(spec),
        "roles": roles,
        "parameters": sum(role["parameters"] for role in roles),
        "media": {kind: _media(media) for kind, media in layout.media.items()},
        "context": layout.context,
        "stages": [_stage(variant, stage) for variant, stages in variants.items() for stage in stages],
        "sources": _sources(module, size),
        "layouts": sorted(module.KEYS),
    }


def spec_of(name: str) -> tuple[str, str | None, Any]:
    """A folder tells its own spec; a name stands in the table."""
    if Path(name).is_dir():
        from scops.model.parts import spec_in

        return spec_in(Path(name))
    system, size = find(name)
    return system, size, module_of(system).SIZES[size]


def _roles(system: str, spec: Any) -> list[dict[str, Any]]:
    from scops.model.empty import outline
    from scops.train.stage import role_of

    module = outline(system, spec)
    roles: dict[str, list[tuple[str, Any]]] = {}
    for path, parameter in module.named_parameters():
        roles.setdefault(role_of(path), []).append((path, parameter))
    return [
        {
            "role": role,
            "module": type(module.get_submodule(role)).__name__,
            "parameters": sum(parameter.numel() for _, parameter in found),
            "tensors": len(found),
            "widest": _widest(found),
        }
        for role, found in roles.items()
    ]


def _widest(found: list[tuple[str, Any]]) -> str:
    path, parameter = max(found, key=lambda item: item[1].numel())
    return f"{path} {'x'.join(map(str, parameter.shape))}"


def _media(media: Any) -> dict[str, Any]:
    return {"tokens": media.tokens, **asdict(media.pixels), **media.choices}


def _stage(variant: str, stage: Any) -> dict[str, Any]:
    adapters = (
        f"rank {stage.lora.rank}, alpha {stage.lora.alpha:g} on {', '.join(stage.lora.targets)}" if stage.lora else ""
    )
    return {
        "variant": variant,
        "stage": stage.name,
        "trains": ", ".join(stage.train),
        "lora": adapters,
        "data": ", ".join(stage.data),
        "sizes": ", ".join(f"{name} {value!r}" for name, value in _flat(stage.overrides).items()),
        "objective": stage.objective,
        "steps": stage.steps,
        "batch": stage.batch,
        "lr": stage.lr,
        "schedule": stage.schedule,
        "source": stage.source,
    }


def _sources(module: Any, size: str | None) -> dict[str, str]:
    if size is None:
        return {"folder": "its own weights"}
    origins = module.origins(size)
    found = {origin.under.rstrip(".") or "all": f"package {origin.package}" for origin in origins.weights}
    found |= dict.fromkeys(origins.fresh, "fresh: from a folder or from training")
    if origins.bridge:
        found["bridge"] = f"{origins.bridge}, shipped with scops"
    if origins.tokenizer:
        found["tokenizer"] = f"package {origins.tokenizer}"
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in values.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return out
