"""A run becomes a trained system: its parts are opened, its data sets too, and the loop is started."""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scops.core.names import nearest
from scops.core.stage import Stage
from scops.data.processor import Processor
from scops.data.readers import open_dataset
from scops.data.tokenizer import Tokenizer
from scops.model.model import Model
from scops.model.opening import create, load
from scops.model.parts import spec_in
from scops.systems import find, module_of, spec_for
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
    processor = Processor(model.layout, model.tokenizer, overflow=run.overflow, capacity=run.max_length)

    def save(module: nn.Module, folder: Path) -> None:
        assert module is model.module
        model.save(folder, run=run.words())

    return train_module(run, model.module, stages, processor, datasets, save=save, held_out=held_out)


def build(run: Run) -> Model:
    """The system before its first step: `init` if there is one, else the system's own parts."""
    system, size = find(run.system)
    overrides = overrides_of(run)
    if run.init is None:
        tokenizer = Tokenizer.from_folder(run.tokenizer) if run.tokenizer else None
        return create(run.system, overrides, tokenizer=tokenizer, pretrained=run.pretrained)
    brought = ["tokenizer"] * bool(run.tokenizer) + [*run.parts()]
    if brought:
        raise ValueError(f"init {run.init} brings its own parts and tokenizer; leave out {' and '.join(brought)}")
    model = load(run.init, dtype=torch.float32, trust=run.trust, overrides=run.system_overrides)
    if model.system != system:
        raise ValueError(f"init {run.init} is a {model.system}, but the run's system {run.system!r} is a {system}")
    if run.system == size:
        _check_parts(run, model.spec, module_of(system).SIZES[size])
    return model


def _check_parts(run: Run, spec: Any, named: Any) -> None:
    """What a run begins with has the kinds of parts of the size that it names, whose recipe it follows."""
    for field, expected in vars(named).items():
        kinds = [type(x).__name__ for x in (getattr(spec, field), expected) if is_dataclass(x)]
        if len(set(kinds)) > 1:
            raise ValueError(
                f"init {run.init} has a {field} of {kinds[0]}, but the run's system {run.system!r} one of {kinds[1]}; "
                "name the size that it is of"
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
