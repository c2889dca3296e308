"""A run: one YAML file, checked word by word, that says what is trained, from what and where it is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scops.core.names import nearest
from scops.core.stage import Lora, Stage
from scops.objectives import OBJECTIVES
from scops.train.changes import changed

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = str | dict[str, Any] | None


PARTS = ("encoder", "connector", "fusion", "language")


class _Words(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class Source(_Words):
    """One data set.

    Args:
        path: a file, folder or package name, as `scops data check` takes it; "" when the caller brings the rows.
        columns, images: as open_dataset takes them: our field -> their column; where relative paths begin.
        weight: share of the mixture relative to the others; by default the number of rows.
    """

    path: str = ""
    columns: dict[str, str] | None = None
    images: str | None = None
    weight: Annotated[float, Field(gt=0)] | None = None


class LoraRun(_Words):
    """Changes to a stage's adapters; what is left out stays as published."""

    targets: list[str] | None = None
    rank: Count | None = None
    alpha: Annotated[float, Field(gt=0)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None


class StageRun(_Words):
    """A stage of the system by name, and what is changed of it.

    Args:
        batch: examples per optimiser step, over all devices and micro-batches.
        data: names of the run's data sets, or data sets of this stage alone.
        lora: changes to the adapters; false leaves them out.
        packing: tokens per row when conversations are packed together; by default each has its own row.
        system_overrides: changes to the system's sizes from this stage on, which weights outlive, such as the side of pictures;
            by default those of the recipe, where the system has the published part that they are of.
    """

    name: str
    max_steps: Count | None = None
    batch: Count | None = None
    gradient_accumulation_steps: Count | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    min_lr: Annotated[float, Field(ge=0)] | None = None
    lr_of: dict[str, Annotated[float, Field(gt=0)]] | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    lr_scheduler_type: Literal["cosine", "linear", "constant"] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    objective: str | None = None
    train: list[str] | None = None
    data: list[str] | dict[str, Source] | None = None
    lora: LoraRun | Literal[False] | None = None
    packing: Count | None = None
    system_overrides: dict[str, Any] | None = None


class Run(_Words):
    """The whole of it. Names that the Hugging Face trainer has mean here what they mean there.

    Args:
        system: a system and size, such as "owl-tiny" or "mplug-owl-llama-7b".
        init: a folder whose weights are taken first; by default the system's own sources.
        system_overrides: changes to the system's sizes; to those of `init`, where weights outlive them, as of a stage.
        encoder, connector, fusion, language: parts of a composed system: a name that is offered, or {kind: name} with numbers; a
            connector also package.module:Class.
        trust: packages outside scops whose connectors the folder `init` may name.
        pretrained: false makes every part fresh, also those that the system's sources would fill; by part, the file or folder
            of its published weights, or false.
        tokenizer: a folder with one, instead of the system's own, or of the language model's folder.
        recipe: which of the system's lists of stages; by default its size's own, or its first.
        data: the data sets by name, for the stages that name them; eval_data: held out, for the loss every `eval_steps`.
        learning_rate: for all stages; by default each stage's published one.
        max_length: tokens of the longest row; overflow: what happens to longer ones ("error", "drop" and count, "shorten").
        max_bad_share: the share of a data set's rows that may be unusable.
        resize: what makes pictures smaller, "pillow" or "torch" (faster, 2 levels of 255 off at most); kept with the
            weights. By default as `init` says, else "pillow".
        bf16: parameters are kept and used in bfloat16; what trains is also kept, and moved, in float32.
        gradient_checkpointing: blocks keep their input alone and are run again on the way back: less memory, about a third
            more time, the same numbers. A number n takes every n-th block.
        torch_compile: blocks that learn are compiled by torch; the same numbers up to rounding, other dropout.
        profile: write to output_dir/profile where the time of each stage's first steps goes.
        feature_cache: keep what a frozen encoder makes of each picture ("memory", "disk"), at most feature_cache_gb in
            memory; on disk it stands under output_dir/features or feature_cache_dir.
    """

    system: str
    init: str | None = None
    system_overrides: dict[str, Any] = Field(default_factory=dict)
    encoder: Part = None
    connector: Part = None
    fusion: Part = None
    language: Part = None
    trust: list[str] = Field(default_factory=list)
    pretrained: bool | dict[str, str | bool] = True
    tokenizer: str | None = None
    recipe: str | None = None
    stages: Annotated[list[StageRun | str], Field(min_length=1)]
    data: dict[str, Source] = Field(default_factory=dict)
    eval_data: dict[str, Source] = Field(default_factory=dict)
    output_dir: str = "runs/scops"
    seed: Annotated[int, Field(ge=0)] = 0
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    gradient_accumulation_steps: Count = 1
    device: str = "auto"
    bf16: bool = False
    gradient_checkpointing: bool | Count = False
    torch_compile: bool = False
    profile: bool = False
    save_steps: Count = 500
    save_total_limit: Count = 2
    logging_steps: Count = 10
    eval_steps: Count | None = None
    eval_samples: Count = 256
    dataloader_num_workers: Annotated[int, Field(ge=0)] = 0
    max_length: Count | None = None
    overflow: Literal["error", "drop", "shorten"] = "error"
    max_bad_share: Share = 0.01
    resize: Literal["pillow", "torch"] | None = None
    feature_cache: Literal["off", "memory", "disk"] = "memory"
    feature_cache_dir: str | None = None
    feature_cache_gb: Annotated[float, Field(gt=0)] = 2.0

    @classmethod
    def load(cls, path: Path | str, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file; then `key=value` changes, dots lead inwards, stages by name or number.

        Raises:
            ValueError: naming every wrong key and value, with the nearest known one.
        """
        words = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(words, dict):
            raise ValueError(f"{path}: a run is a mapping of names to values, not {type(words).__name__}")
        return cls.check(changed(words, overrides), str(path))

    @classmethod
    def check(cls, words: Mapping[str, Any], where: str = "run") -> Self:
        try:
            return cls.model_validate(words)
        except ValidationError as error:
            lines = [_explain(cls, item) for item in error.errors()]
            raise ValueError(f"{where}:\n  " + "\n  ".join(dict.fromkeys(lines))) from None

    def words(self) -> str:
        """As YAML that reads back as the same run."""
        return yaml.safe_dump(self.model_dump(exclude_none=True), sort_keys=False, allow_unicode=True)

    def save(self, path: Path) -> None:
        path.write_text(self.words(), encoding="utf-8")

    def parts(self) -> dict[str, str | dict[str, Any]]:
        """Those that the run names."""
        return {name: part for name in PARTS if (part := getattr(self, name)) is not None}

    def staged(self) -> list[StageRun]:
        return [StageRun(name=stage) if isinstance(stage, str) else stage for stage in self.stages]

    def sources(self) -> dict[str, Source]:
        """Every training set that any stage may use, by name."""
        found = dict(self.data)
        for stage in self.staged():
            for name, source in (stage.data if isinstance(stage.data, dict) else {}).items():
                if found.setdefault(name, source).path != source.path:
                    raise ValueError(f"data set {name!r} has two paths: {found[name].path!r} and {source.path!r}")
        return found


@dataclass(frozen=True)
class Plan:
    """One stage of a run, settled.

    Args:
        weights: of the mixture, by data set; None means the number of rows.
        accumulation: forward passes per step; packing: tokens per packed row.
    """

    stage: Stage
    weights: Mapping[str, float | None]
    accumulation: int
    packing: int | None


def settle(run: Run, stages: Mapping[str, Stage]) -> list[Plan]:
    """The run's stages with its changes made.

    Raises:
        ValueError: a stage, data set or objective that does not exist.
    """
    known = run.sources()
    plans = []
    for change in run.staged():
        if change.name not in stages:
            raise ValueError(f"{run.system} has no stage {change.name!r}{nearest(change.name, stages)}")
        stage = _settled(stages[change.name], change, run)
        own = change.data if isinstance(change.data, dict) else {}
        for name in stage.data:
            if name not in known:
                raise ValueError(f"stage {stage.name!r} learns from {name!r}, but the run has no such data set"
                                 f"{nearest(name, known)}")  # fmt: skip
        if stage.objective not in OBJECTIVES:
            raise ValueError(f"stage {stage.name!r} has no objective {stage.objective!r}"
                             f"{nearest(stage.objective, OBJECTIVES)}")  # fmt: skip
        weights = {name: own.get(name, known[name]).weight for name in stage.data}
        accumulation = change.gradient_accumulation_steps or run.gradient_accumulation_steps
        plans.append(Plan(stage, weights, accumulation, change.packing))
    return plans


def _settled(stage: Stage, change: StageRun, run: Run) -> Stage:
    new: dict[str, Any] = {
        "steps": change.max_steps, "batch": change.batch, "lr": change.learning_rate or run.learning_rate,
        "min_lr": change.min_lr, "lr_of": change.lr_of, "warmup": change.warmup_steps, "clip": change.max_grad_norm,
        "schedule": change.lr_scheduler_type, "weight_decay": change.weight_decay, "objective": change.objective,
        "train": None if change.train is None else tuple(change.train), "data": None if change.data is None else tuple(change.data),
        "overrides": change.system_overrides,
    }  # fmt: skip
    stage = replace(stage, **{name: value for name, value in new.items() if value is not None})
    if change.lora is False:
        return replace(stage, lora=None)
    if change.lora is None:
        return stage
    words = change.lora.model_dump(exclude_none=True)
    if stage.lora is None and "targets" not in words:
        raise ValueError(f"stage {stage.name!r} has no LoRA of its own, so that `lora` needs `targets`")
    words |= {"targets": tuple(words["targets"])} if "targets" in words else {}
    return replace(stage, lora=replace(stage.lora, **words) if stage.lora else Lora(**words))


def _explain(model: type[BaseModel], item: Any) -> str:
    """One sentence for one mistake that pydantic found."""
    path = [str(p) for p in item["loc"]]
    if item["type"] == "extra_forbidden":
        known = _known_beside(model, item["loc"])
        return f"{'.'.join(_plain(path))}: there is no such key{nearest(path[-1], known)}"
    if item["type"] == "missing":
        return f"{'.'.join(_plain(path))}: is missing"
    return f"{'.'.join(_plain(path))}: {item['input']!r} does not fit: {item['msg']}"


_MODELS: dict[str, type[BaseModel]] = {m.__name__: m for m in (Run, StageRun, LoraRun, Source)}
_INSIDE: dict[str, type[BaseModel]] = {"stages": StageRun, "data": Source, "eval_data": Source, "lora": LoraRun}


def _known_beside(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    for piece in place[:-1]:
        model = _INSIDE.get(str(piece), _MODELS.get(str(piece), model))
    return list(model.model_fields)


def _plain(path: list[str]) -> list[str]:
    """Without pydantic's own words for the members of a union."""
    return [p for p in path if p not in _MODELS and not p.startswith(("dict[", "list[", "literal[")) and p != "str"]


assert {f.name for f in fields(Stage)} >= {"steps", "batch", "lr", "min_lr", "lr_of", "warmup", "clip", "schedule"}
