"""A run becomes a trained system: its parts are opened, its data sets too, and the loop is started."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from scops.core.names import nearest
from scops.core.stage import Stage
from scops.data.processor import Processor
from scops.data.readers import open_dataset
from scops.data.tokenizer import Tokenizer
from scops.model.model import Model
from scops.model.opening import create, load
from scops.systems import find, module_of
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
    if run.init is None:
        tokenizer = Tokenizer.from_folder(run.tokenizer) if run.tokenizer else None
        return create(size, run.system_overrides, tokenizer=tokenizer, pretrained=run.pretrained)
    if run.tokenizer:
        raise ValueError(f"init {run.init} brings its own tokenizer; leave out tokenizer")
    model = load(run.init, dtype=torch.float32, overrides=run.system_overrides)
    if model.system != system:
        raise ValueError(f"init {run.init} is a {model.system}, but the run's system {run.system!r} is a {system}")
    return model


def stages_of(run: Run) -> Mapping[str, Stage]:
    """The stages of the run's recipe; by default the one of the size, else the system's first."""
    system, size = find(run.system)
    recipes = module_of(system).STAGES
    name = run.recipe or (size if size in recipes else next(iter(recipes)))
    if name not in recipes:
        raise ValueError(f"{system} has no recipe {name!r}{nearest(name, recipes)}")
    return {stage.name: stage for stage in recipes[name]}


def _rows(name: str, source: Source) -> Sequence:
    if not source.path:
        raise ValueError(f"data set {name!r} has no path; give data.{name}.path")
    return open_dataset(source.path, name=name, columns=source.columns, images=source.images)
