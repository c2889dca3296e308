"""A run becomes a trained system: its parts are opened, its data sets too, and the loop is started."""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scops.core.names import nearest
from scops.core.stage import Stage
from scops.data.processor import Processor
from scops.data.readers import open_dataset
from scops.data.tokenizer import Tokenizer
from scops.model.changing import with_changes
from scops.model.model import Model
from scops.model.opening import create, load
from scops.model.parts import spec_in
from scops.systems import find, merged, module_of, spec_for
from scops.train.loop import Result
from scops.train.loop import train as train_module
from scops.train.run import Run, Source


def start(run: Run) -> Result:
    """Build what a run names and train it; goes on from the run's latest checkpoint.

    Raises:
        ValueError, OSError: a system, stage, data set or file that does not exist.
        scops.train.interrupt.Interrupted: stopped by a signal; all is saved.
    """
    stages = stages_of(run)
    datasets, held_out = ({n: _rows(n, s) for n, s in found.items()} for found in (run.sources(), run.eval_data))
    torch.manual_seed(run.seed)  # what is fresh depends on it
    model = build(run)
    if run.resize:
        model.resize_by(run.resize)
    stages = {name: for_spec(stage, run, model.spec) for name, stage in stages.items()}

    def maker() -> Processor:
        return Processor(model.layout, model.tokenizer, overflow=run.overflow, capacity=run.max_length)

    def change(overrides: Mapping[str, Any]) -> tuple[nn.Module, Processor]:
        nonlocal model
        model = with_changes(model, overrides)
        return model.module, maker()

    def save(module: nn.Module, folder: Path) -> None:
        assert module is model.module
        model.save(folder, run=run.words())

    return train_module(run, model.module, stages, maker(), datasets, save=save, held_out=held_out, change=change)


def build(run: Run) -> Model:
    """The system before its first step: `init` if there is one, else the system's own parts, for the first stage's pictures."""
    system, _ = find(run.system)
    overrides = overrides_of(run)
    if run.init is None:
        tokenizer = Tokenizer.from_folder(run.tokenizer) if run.tokenizer else None
        spec = spec_for(run.system, overrides)[2]
        _check_parts(run, spec, f"the run's {run.system}")
        overrides = merged(overrides, _first_changes(run, spec))
        return create(run.system, overrides, tokenizer=tokenizer, pretrained=run.pretrained)
    brought = ["tokenizer"] * bool(run.tokenizer) + [*run.parts()]
    if brought:
        raise ValueError(f"init {run.init} brings its own parts and tokenizer; leave out {' and '.join(brought)}")
    model = load(run.init, dtype=torch.float32, trust=run.trust, overrides=run.system_overrides)
    if model.system != system:
        raise ValueError(f"init {run.init} is a {model.system}, but the run's system {run.system!r} is a {system}")
    _check_parts(run, model.spec, f"init {run.init}")
    return model


def _first_changes(run: Run, spec: Any) -> Mapping[str, Any]:
    first, stages = run.staged()[0], stages_of(run)
    if first.system_overrides is not None or first.name not in stages:
        return first.system_overrides or {}
    return for_spec(stages[first.name], run, spec).overrides


def for_spec(stage: Stage, run: Run, spec: Any) -> Stage:
    """A recipe's `overrides` are of the published sizes: another system keeps its own numbers, as what the run itself says does."""
    sizes = list(module_of(find(run.system)[0]).SIZES.values())
    return stage if _meant(stage.overrides, spec, sizes, run.system_overrides) else replace(stage, overrides={})


def _meant(overrides: Mapping[str, Any], spec: Any, sizes: Sequence[Any], said: Any) -> bool:
    """Whether the parts of `spec` that these changes are of are those of a size, and `said` has none of their numbers."""
    said = said if isinstance(said, Mapping) else {}
    inner = {name: value for name, value in overrides.items() if isinstance(value, Mapping)}
    numbers = {name: value for name, value in overrides.items() if name not in inner}
    alike = [size for size in sizes if type(size) is type(spec)]
    if numbers and not any(replace(size, **numbers) == replace(spec, **numbers) for size in alike):
        return False
    return not numbers.keys() & said.keys() and all(
        _meant(value, getattr(spec, name), [getattr(size, name) for size in alike], said.get(name))
        for name, value in inner.items()
    )


def _check_parts(run: Run, spec: Any, where: str) -> None:
    """What a run begins with has the kinds of parts of the size that it names, and of the size whose recipe it follows.

    Recipes of a composed system go with any parts.
    """
    module = module_of(find(run.system)[0])
    named = {"system": run.system} | ({} if hasattr(module, "in_full") else {"recipe": run.recipe})
    for word, size in named.items():
        for field, expected in vars(module.SIZES[size]).items() if size in module.SIZES else ():
            kinds = [type(x).__name__ for x in (getattr(spec, field), expected) if is_dataclass(x)]
            if len(set(kinds)) > 1:
                raise ValueError(
                    f"{where} has a {field} of {kinds[0]}, but the run's {word} {size!r} is of one of {kinds[1]}; "
                    f"name the {word} that it is of"
                )


def stages_of(run: Run) -> Mapping[str, Stage]:
    """The stages of the run's recipe; by default the one of the size, else the system's first.

    Of a composed system whose parts the run or its `init` names, that of the fusion.
    """
    system, size = find(run.system)
    module = module_of(system)
    recipes = module.STAGES
    name = run.recipe or (size if size in recipes else next(iter(recipes)))
    if not run.recipe and hasattr(module, "recipe_of"):
        if run.system == system and run.init and Path(run.init).is_dir():
            name = module.recipe_of(spec_in(Path(run.init), run.trust)[2])
        elif run.parts():
            name = module.recipe_of(spec_for(run.system, overrides_of(run))[2])
    if name not in recipes:
        raise ValueError(f"{system} has no recipe {name!r}{nearest(name, recipes)}")
    return {stage.name: stage for stage in recipes[name]}


def overrides_of(run: Run) -> dict[str, Any]:
    """Changes to the size's spec, the parts that the run names among them.

    Raises:
        ValueError: parts of a system whose parts are not chosen, or a part that is named twice.
    """
    system, _ = find(run.system)
    parts = run.parts()
    if parts and not hasattr(module_of(system), "in_full"):
        raise ValueError(
            f"{run.system} is made of parts of its own; choose {' and '.join(parts)} with system: composed"
        )
    if twice := sorted(parts.keys() & run.system_overrides.keys()):
        raise ValueError(f"{twice[0]} stands in the run and in its system_overrides; say it once")
    return {**parts, **run.system_overrides}


def _rows(name: str, source: Source) -> Sequence:
    if not source.path:
        raise ValueError(f"data set {name!r} has no path; give data.{name}.path")
    return open_dataset(source.path, name=name, columns=source.columns, images=source.images)
