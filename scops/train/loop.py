"""The loop: stages in order, steps in the open, checkpoints that go on bit by bit."""

import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from scops.core.batch import Batch, Example
from scops.core.names import nearest
from scops.core.sample import Sample
from scops.core.stage import Stage
from scops.data.collate import pack, pad
from scops.objectives import State
from scops.train import checkpoint
from scops.train.checkpoint import Checkpoint
from scops.train.data import Feed, Maker, Mixture, Position, Unusable, bare, make, spread
from scops.train.evaluate import held_out_loss
from scops.train.features import Features, open_features
from scops.train.fingerprint import fingerprint, fingerprints
from scops.train.interrupt import Interrupted, Interrupts
from scops.train.journal import Journal
from scops.train.optimise import Optimiser
from scops.train.run import Plan, Run, settle
from scops.train.stage import enter, frozen_roles, table
from scops.train.step import gathered, gradients, place, silent_roles

Rows = Mapping[str, Sequence[Sample]]
KEPT = 500_000
"""Examples without pictures that are kept at most; a few hundred bytes each."""


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Args:
        final: the saved system; losses: the last line of metrics.jsonl of each stage.
    """

    folder: Path
    final: Path
    steps: int
    seconds: float
    losses: Mapping[str, float]


def train(
    run: Run,
    module: nn.Module,
    stages: Mapping[str, Stage],
    processor: Maker,
    datasets: Rows,
    *,
    save: Callable[[nn.Module, Path], None],
    held_out: Rows | None = None,
    resume: bool = True,
) -> Result:
    """Train a system through the run's stages; goes on from the latest checkpoint of run.output_dir.

    Args:
        module: also a scops.core.system.Decoder; its fresh parameters are as the run's seed makes them.
        stages: the system's own, by name; datasets, held_out: rows by name, as run.data and run.eval_data name them.
        save: writes the whole system into an empty folder, once, at the end.
        resume: False refuses a folder that has checkpoints.
    Raises:
        Interrupted: stopped by a signal; all is saved.
    """
    plans, folder, start = settle(run, stages), Path(run.output_dir), time.monotonic()
    for name in dict.fromkeys(name for plan in plans for name in plan.weights):
        if name not in datasets:
            raise ValueError(f"the run learns from {name!r}, but no such data set was given{nearest(name, datasets)}")
    found = checkpoint.latest(folder)
    if found and not resume:
        raise ValueError(f"{folder} has checkpoints ({found.name}); resume, or choose another output_dir")
    _settle_folder(run, folder, found)
    before = checkpoint.read(found) if found else None
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(run.seed)
    device, dtype = _device(run.device), torch.bfloat16 if run.bf16 else torch.float32
    module.to(device, dtype if run.bf16 else None)
    state = before.state if before else {"step": 0, "stage": 0, "window": {}}
    writes = place()[0] == 0
    with (
        Interrupts() as stop,
        Journal(folder, every=run.logging_steps, step=state["step"], window=state["window"], writes=writes) as journal,
    ):
        if found:
            journal.say(f"going on from {found}")
        going = _Going(run, module, processor, datasets, held_out or {}, journal, stop, device, dtype, state["step"])
        for number, plan in enumerate(plans):
            here = before if before and number == state["stage"] else None
            going.stage(number, plan, here, skip=number < state["stage"])
    final = folder / "final"
    if writes:
        checkpoint.replace_folder(final, lambda beside: (save(module, beside), run.save(beside / "run.yaml")))
    return Result(folder, final, going.step, time.monotonic() - start, journal.losses)


@dataclass
class _Going:
    """A run under way.

    Args:
        touched: paths of all that any stage so far has trained; a checkpoint keeps these.
        kept: examples whose pictures' features are known, by (data set, row).
    """

    run: Run
    module: Any
    processor: Maker
    datasets: Rows
    held_out: Rows
    journal: Journal
    stop: Interrupts
    device: torch.device
    dtype: torch.dtype
    step: int
    touched: set[str] = field(default_factory=set)
    objective_state: State = field(default_factory=dict)
    features: Features | None = None
    encoder: str = ""
    kept: dict[tuple[str, int], Example] = field(default_factory=dict)

    def stage(self, number: int, plan: Plan, before: Checkpoint | None, *, skip: bool) -> None:
        """One stage, from its first step or from where a checkpoint stopped; `skip` only builds what it had built."""
        trainables = enter(self.module, plan.stage)
        self.touched |= set(trainables) | set(_moving_buffers(self.module))
        if skip:
            return
        if before:
            self._restore(before)
        optimiser = Optimiser(trainables, self.module, stage=plan.stage)
        self.frozen = fingerprints(self.module, frozen_roles(self.module))
        done, position = 0, Position()
        rank, world = place()
        if before:
            done, position = self._continue(before, optimiser, rank)
        elif world > 1:
            torch.manual_seed(self.run.seed + 1000 * number + rank)  # dropout differs, what was built does not
        self._open_features()
        self.journal.begin(
            plan.stage.name, steps=plan.stage.steps, done=done,
            rows=table(self.module, plan.stage, optimiser.lrs, optimiser.decays),
        )  # fmt: skip
        feed = iter(self._feed(plan, position, rank, world)) if done < plan.stage.steps else None
        saved = before is not None
        while done < plan.stage.steps:
            done, saved = done + 1, False
            self._step(plan, optimiser, next(feed), done)
            if self.run.eval_steps and self.held_out and self.step % self.run.eval_steps == 0:
                self._evaluate(plan)
            if self.step % self.run.save_steps == 0 or done == plan.stage.steps or self.stop.asked:
                self._save(number, plan, optimiser, done, position)
                saved = True
            if self.stop.asked:
                break
        self.journal.end()
        if self.stop.asked:
            assert saved or done == 0
            command = f"scops train {Path(self.run.output_dir) / 'run.yaml'}"
            raise Interrupted(f"stopped after step {self.step} and saved; go on with: {command}")
        self._report(position)

    def _step(self, plan: Plan, optimiser: Optimiser, rows: Sequence[tuple[tuple[str, int], Example]], done: int) -> None:
        stage, where = plan.stage, f"stage {plan.stage.name!r}, step {done}"
        batches = self._batches(plan, [example for _, example in rows])
        self._keep(rows)
        outcome = gradients(
            self.module, stage.objective, batches, optimiser.trainables,
            state=self.objective_state, clip=stage.clip, where=where,
        )  # fmt: skip
        if done == 1:
            for role in silent_roles(optimiser.trainables):
                self.journal.say(f"warning: {where}: {role} should learn, but all of its gradient is zero")
        lr = optimiser.step(done - 1)
        self.step += 1
        self.journal.note(
            step=self.step, done=done, sums=outcome.sums, lr=lr, norm=outcome.norm,
            tokens=sum(batch.tokens for batch in batches) * place()[1], samples=stage.batch,
        )  # fmt: skip

    def _feed(self, plan: Plan, position: Position, rank: int, world: int) -> Feed:
        if plan.stage.batch % world:
            raise ValueError(f"stage {plan.stage.name!r} takes {plan.stage.batch} examples per step, which {world} "
                             "processes cannot share evenly")  # fmt: skip
        rows = {name: self.datasets[name] for name in plan.weights}
        sizes = {name: len(found) for name, found in rows.items()}
        mixture = Mixture(sizes, plan.weights, seed=self.run.seed, salt=plan.stage.name)
        return Feed(
            rows, self.processor, mixture=mixture, size=plan.stage.batch // world, position=position,
            max_bad_share=self.run.max_bad_share, workers=self.run.dataloader_num_workers, kept=self.kept,
            rank=rank, world=world, report=self.journal.say,
        )  # fmt: skip

    def _batches(self, plan: Plan, examples: Sequence[Example]) -> list[Batch]:
        """One batch per micro-batch, on the device, with features where the encoder is frozen."""
        size = -(-len(examples) * place()[1] // (plan.accumulation * place()[1]))
        return [self._batch(plan, examples[at : at + size]) for at in range(0, len(examples), size)]

    def _batch(self, plan: Plan, examples: Sequence[Example]) -> Batch:
        features = self.features
        whole = [replace(example, media={}) for example in examples] if features is not None else examples
        batch = pack(whole, capacity=plan.packing, pad_id=0) if plan.packing else pad(whole, pad_id=0)
        batch = batch.to(self.device)
        if features is not None:
            return replace(batch, features=features.of(self.module, batch, examples, dtype=self.dtype))
        return replace(batch, media={kind: media.to(self.dtype) for kind, media in batch.media.items()})

    def _keep(self, rows: Sequence[tuple[tuple[str, int], Example]]) -> None:
        """What need not be made again: all of it is known without the pictures."""
        for spot, example in rows:
            if self.features is not None and spot not in self.kept and len(self.kept) < KEPT:
                without = bare(example, self.features)
                if without is not None:
                    self.kept[spot] = without

    def _open_features(self) -> None:
        """A store for the encoders as they are now; none when one of them learns."""
        tensors = {p: t.detach() for p, t in [*self.module.named_parameters(), *self.module.named_buffers()]
                   if p.split(".")[1:2] == ["encoder"]}  # fmt: skip
        frozen = bool(tensors) and not any(p.requires_grad for n, p in self.module.named_parameters() if n in tensors)
        encoder = fingerprint(tensors) if frozen else ""
        if encoder == self.encoder:
            return
        self.encoder, self.kept, self.features = encoder, {}, None
        if encoder:
            folder = Path(self.run.feature_cache_dir or Path(self.run.output_dir) / "features")
            self.features = open_features(
                self.run.feature_cache, folder, fingerprint=encoder, gigabytes=self.run.feature_cache_gb
            )

    def _evaluate(self, plan: Plan) -> None:
        made: dict[str, list[Batch]] = {}
        for name, rows in self.held_out.items():
            found = [make(rows, i, self.processor, name=name) for i in spread(rows, self.run.eval_samples)]
            examples = [example for example in found if not isinstance(example, Unusable)]
            if not examples:
                raise ValueError(f"no row of the held-out set {name!r} can be used: {found[0] if found else 'it is empty'}")
            made[name] = self._batches(plan, examples)
        means = held_out_loss(self.module, plan.stage.objective, made, dict(self.objective_state))
        self.journal.evaluated(step=self.step, means=means)

    def _save(self, number: int, plan: Plan, optimiser: Optimiser, done: int, position: Position) -> None:
        now = fingerprints(self.module, list(self.frozen))
        changed = [role for role, word in now.items() if word != self.frozen[role]]
        if changed:
            raise ValueError(f"{', '.join(changed)} changed during stage {plan.stage.name!r}, but should be frozen; "
                             "nothing was saved")  # fmt: skip
        if self.features is not None:
            self.features.flush()
        positions, randoms = gathered(asdict(position)), gathered(checkpoint.random_state())
        if place()[0]:
            return
        tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        state = {
            "step": self.step, "stage": number, "stage_name": plan.stage.name, "stage_step": done,
            "positions": positions, "random": randoms, "frozen": now, "window": self.journal.window,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        }  # fmt: skip
        moving = optimiser.state() | {f"objective|{k}": v for k, v in self.objective_state.items()}
        found = Checkpoint({path: tensors[path] for path in sorted(self.touched)}, moving, state)
        checkpoint.write(Path(self.run.output_dir), found, run=self.run.save, limit=self.run.save_total_limit)

    def _restore(self, before: Checkpoint) -> None:
        tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        for path in self.touched ^ set(before.weights):
            raise ValueError(f"the checkpoint {'lacks' if path in self.touched else 'has'} {path}; the system or its "
                             f"stages have changed since{nearest(path, before.weights)}")  # fmt: skip
        with torch.no_grad():
            for path, tensor in before.weights.items():
                tensors[path].copy_(tensor)

    def _continue(self, before: Checkpoint, optimiser: Optimiser, rank: int) -> tuple[int, Position]:
        state = before.state
        changed = [role for role, word in self.frozen.items() if state["frozen"].get(role) != word]
        if changed:
            raise ValueError(f"the frozen {', '.join(changed)} is not what this checkpoint was trained with; "
                             "its weights, the seed or `init` have changed")  # fmt: skip
        if len(state["positions"]) != place()[1]:
            raise ValueError(f"the checkpoint was made by {len(state['positions'])} processes, not {place()[1]}")
        own = {k: v for k, v in before.optimiser.items() if not k.startswith("objective|")}
        optimiser.load(own)
        self.objective_state = {k.partition("|")[2]: before.optimiser[k].to(self.device) for k in before.optimiser.keys() - own}
        checkpoint.restore_random(state["random"][rank])
        return state["stage_step"], Position(**state["positions"][rank])

    def _report(self, position: Position) -> None:
        for word, book in (("cannot be used", position.bad), ("were too long and left out", position.dropped)):
            for name, rows in book.items():
                self.journal.say(f"{len(rows)} of {len(self.datasets[name])} rows of {name!r} {word}")


SAME = {
    "output_dir", "device", "save_steps", "save_total_limit", "logging_steps", "eval_steps", "eval_samples", "eval_data",
    "dataloader_num_workers", "feature_cache", "feature_cache_dir", "feature_cache_gb", "max_bad_share",
}  # fmt: skip
"""Words of a run that may change between a checkpoint and its resume: they move no number."""


def _settle_folder(run: Run, folder: Path, found: Path | None) -> None:
    """Keep the run beside its checkpoints; refuse to go on with another."""
    if found:
        old, new = (r.model_dump(exclude=SAME) for r in (Run.load(found / "run.yaml"), run))
        changed = [key for key in new if old[key] != new[key]]
        if changed:
            was = "; ".join(f"{key} was {old[key]!r} and is {new[key]!r}" for key in changed)
            raise ValueError(f"{found} was made by another run: {was}. Go on with the old values, or choose another output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    if place()[0] == 0:
        run.save(folder / "run.yaml")


def _moving_buffers(module: nn.Module) -> list[str]:
    """Buffers that training may move (running statistics): of modules in training mode, if they are saved at all."""
    saved = module.state_dict(keep_vars=True)
    return [
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        if part.training
        for name, _ in part.named_buffers(recurse=False)
        if (f"{path}.{name}" if path else name) in saved
    ]


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
