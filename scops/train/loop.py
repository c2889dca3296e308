"""The loop: stages in order, steps in the open, checkpoints that go on bit by bit."""

import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from scops.core.batch import Example
from scops.core.device import device_of
from scops.core.names import nearest
from scops.core.sample import Sample
from scops.core.stage import Stage
from scops.nn.training import train_blocks
from scops.objectives import State
from scops.objectives.processes import of_all, place
from scops.train import checkpoint
from scops.train.batches import Batcher, Row
from scops.train.checkpoint import Checkpoint
from scops.train.data import Feed, Maker, Mixture, Position
from scops.train.evaluate import held_out_batches, held_out_loss
from scops.train.fingerprint import fingerprint, fingerprints
from scops.train.interrupt import Interrupted, Interrupts
from scops.train.journal import Journal
from scops.train.optimise import Optimiser
from scops.train.profile import Profile
from scops.train.resume import differing, moving_buffers, restore, resumed, tensors
from scops.train.run import Plan, Run, settle
from scops.train.stage import enter, frozen_roles, table
from scops.train.step import gradients, silent_roles
from scops.train.watch import UNWATCHED, Watch

Rows = Mapping[str, Sequence[Sample]]
Change = Callable[[Mapping[str, Any]], tuple[nn.Module, Maker]]
"""What a stage's `overrides` make of the system so far: its module, and what makes examples for it."""


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
    change: Change | None = None,
    resume: bool = True,
) -> Result:
    """Train a system through the run's stages; goes on from the latest checkpoint of run.output_dir.

    Args:
        module: also a scops.core.system.Decoder; its fresh parameters are as the run's seed makes them.
        stages: the system's own, by name.
        datasets, held_out: rows by name, as run.data and run.eval_data name them.
        save: writes the whole system into an empty folder, once, at the end.
        change: needed where a stage has `overrides`; the new module keeps the parameters of the old one.
        resume: False refuses a folder that has checkpoints.
    Raises:
        Interrupted: stopped by a signal; all is saved.
    """
    plans, folder, start = settle(run, stages), Path(run.output_dir), time.monotonic()
    for name in dict.fromkeys(name for plan in plans for name in plan.weights):
        if name not in datasets:
            raise ValueError(f"the run learns from {name!r}, but no such data set was given{nearest(name, datasets)}")
    before = resumed(run, folder, allowed=resume)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(run.seed)
    device, dtype = _device(run.device), torch.bfloat16 if run.bf16 else torch.float32
    module.to(device, dtype if run.bf16 else None)
    _settle_blocks(module, run)
    state = before.state if before else {"step": 0, "stage": 0, "window": {}}
    writes = place()[0] == 0
    with (
        Interrupts() as stop,
        Journal(folder, every=run.logging_steps, step=state["step"], window=state["window"], writes=writes) as journal,
    ):
        if run.torch_compile:
            journal.say("the first steps compile the blocks that learn (half a minute or more)")
        batcher = Batcher(run, module, device=device, dtype=dtype)
        going = _Going(run, module, processor, datasets, held_out or {}, change, journal, stop, batcher, state["step"])
        for number, plan in enumerate(plans):
            here = before if before and number == state["stage"] else None
            going.stage(number, plan, here, skip=number < state["stage"])

    train_blocks(going.module)

    def keep(beside: Path) -> None:
        save(going.module, beside)
        run.save(beside / "run.yaml")

    if writes:
        checkpoint.replace_folder(folder / "final", keep)
    return Result(folder, folder / "final", going.step, time.monotonic() - start, journal.losses)


@dataclass
class _Going:
    """A run under way.

    Args:
        touched: paths of all that any stage so far has trained; a checkpoint keeps these.
        objective_state: what the objective keeps from step to step.
        frozen: fingerprints by role of what this stage must not move.
    """

    run: Run
    module: nn.Module
    processor: Maker
    datasets: Rows
    held_out: Rows
    change: Change | None
    journal: Journal
    stop: Interrupts
    batcher: Batcher
    step: int
    touched: set[str] = field(default_factory=set)
    objective_state: State = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)

    def stage(self, number: int, plan: Plan, before: Checkpoint | None, *, skip: bool) -> None:
        """One stage, from its first step or from where a checkpoint stopped; `skip` only builds what it had built."""
        if plan.stage.overrides:
            self._change(plan.stage)
        torch.manual_seed(self.run.seed + 1000 * number)  # adapters are the same on all processes
        trainables = enter(self.module, plan.stage)
        self.touched |= set(trainables) | moving_buffers(self.module)
        if skip:
            return
        if before:
            restore(self.module, before.weights, self.touched)
        optimiser = Optimiser(trainables, self.module, stage=plan.stage)
        self.frozen = fingerprints(self.module, frozen_roles(self.module))
        self.batcher.enter(plan.stage.template)
        done, position = self._continue(before, optimiser) if before else self._begin(number)
        self.journal.begin(
            plan.stage.name, steps=plan.stage.steps, done=done,
            rows=table(self.module, plan.stage, optimiser.lrs, optimiser.decays),
        )  # fmt: skip
        if before:
            self.journal.say(f"going on after step {self.step}")
        self._steps(number, plan, optimiser, done, position)
        self.journal.end()
        if self.stop.asked:
            command = f"scops train {Path(self.run.output_dir) / 'run.yaml'}"
            raise Interrupted(f"stopped after step {self.step} and saved; go on with: {command}")
        self._report(position)

    def _change(self, stage: Stage) -> None:
        if self.change is None:
            raise ValueError(
                f"stage {stage.name!r} changes {dict(stage.overrides)}, but nothing here can change the system"
            )
        before = {path: tuple(p.shape) for path, p in self.module.named_parameters()}
        module, self.processor = self.change(stage.overrides)
        if module is self.module:
            return
        self.module = module
        self.batcher.change(module)
        _settle_blocks(module, self.run)
        for path, p in module.named_parameters():
            if before[path] != tuple(p.shape):
                self.journal.say(f"stage {stage.name!r}: {path} {before[path]} -> {tuple(p.shape)}")

    def _steps(self, number: int, plan: Plan, optimiser: Optimiser, done: int, position: Position) -> None:
        feed, last, watch = iter(self._feed(plan, position)), plan.stage.steps, self._watch(plan.stage.name)
        while done < last and not self.stop.asked:
            done += 1
            watch.begin()
            asked = time.monotonic()
            with watch.phase("data"):
                rows = next(feed)
            self._step(plan, optimiser, rows, done, watch, waited=time.monotonic() - asked)
            if self.run.eval_steps and self.held_out and self.step % self.run.eval_steps == 0:
                self._evaluate(plan)
            if self.step % self.run.save_steps == 0 or done == last or self.stop.asked:
                self._save(number, plan, optimiser, done, position)
        watch.close()

    def _step(
        self,
        plan: Plan,
        optimiser: Optimiser,
        rows: Sequence[tuple[Row, Example]],
        done: int,
        watch: Watch,
        *,
        waited: float,
    ) -> None:
        stage, where = plan.stage, f"stage {plan.stage.name!r}, step {done}"
        with watch.phase("data"):
            batches = self.batcher.micro(plan, [example for _, example in rows])
            self.batcher.keep(rows)
        outcome = gradients(
            self.module, stage.objective, batches, optimiser.trainables,
            state=self.objective_state, clip=stage.clip, where=where, watch=watch,
        )  # fmt: skip
        for role in silent_roles(optimiser.trainables) if done == 1 else ():
            self.journal.say(f"warning: {where}: {role} should learn, but all of its gradient is zero")
        with watch.phase("optimiser"):
            lr = optimiser.step(done - 1)
        self.step += 1
        tokens = sum(batch.tokens for batch in batches)
        watch.end(tokens=tokens, samples=stage.batch // place()[1])
        self.journal.note(
            step=self.step, done=done, sums=outcome.sums, lr=lr, norm=outcome.norm,
            tokens=tokens * place()[1], samples=stage.batch, waited=waited,
        )  # fmt: skip

    def _watch(self, stage: str) -> Watch:
        if not self.run.profile or place()[0]:
            return UNWATCHED
        where, folder = self.batcher, Path(self.run.output_dir) / "profile"
        return Profile(folder, stage, self.module, device=where.device, dtype=where.dtype, say=self.journal.say)

    def maker(self, plan: Plan) -> Maker:
        template = plan.stage.template
        return self.processor.writing(template) if template else self.processor

    def _feed(self, plan: Plan, position: Position) -> Feed:
        (rank, world), stage = place(), plan.stage
        if stage.batch % world:
            raise ValueError(
                f"{world} processes cannot share the {stage.batch} examples per step of {stage.name!r} evenly"
            )
        rows = {name: self.datasets[name] for name in plan.weights}
        sizes = {name: len(found) for name, found in rows.items()}
        return Feed(
            rows, self.maker(plan), mixture=Mixture(sizes, plan.weights, seed=self.run.seed, salt=stage.name),
            size=stage.batch // world, position=position, max_bad_share=self.run.max_bad_share,
            workers=self.run.dataloader_num_workers, kept=self.batcher.kept, rank=rank, world=world,
            report=self.journal.say,
        )  # fmt: skip

    def _evaluate(self, plan: Plan) -> None:
        made = held_out_batches(self.batcher, plan, self.held_out, self.maker(plan), samples=self.run.eval_samples)
        means = held_out_loss(self.module, plan.stage.objective, made, dict(self.objective_state))
        self.journal.evaluated(step=self.step, means=means)

    def _save(self, number: int, plan: Plan, optimiser: Optimiser, done: int, position: Position) -> None:
        now = fingerprints(self.module, list(self.frozen))
        if changed := differing(self.frozen, now):
            raise ValueError(
                f"{changed} changed during stage {plan.stage.name!r} but should be frozen; nothing was saved"
            )
        self.batcher.flush()
        positions, randoms = of_all(asdict(position)), of_all(checkpoint.random_state())
        if place()[0]:
            return
        state = {
            "step": self.step, "stage": number, "stage_name": plan.stage.name, "stage_step": done,
            "positions": positions, "random": randoms, "frozen": now, "window": self.journal.window,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        }  # fmt: skip
        places = tensors(self.module)
        moving = optimiser.state() | {f"objective|{k}": v for k, v in self.objective_state.items()}
        found = Checkpoint({path: places[path] for path in sorted(self.touched)}, moving, state)
        checkpoint.write(Path(self.run.output_dir), found, run=self.run.save, limit=self.run.save_total_limit)

    def _begin(self, number: int) -> tuple[int, Position]:
        if len(set(of_all(fingerprint(tensors(self.module))))) > 1:
            raise ValueError("the processes start from different weights; they must build the system alike")
        torch.manual_seed(self.run.seed + 1000 * number + 1 + place()[0])  # dropout differs between processes
        self.objective_state = {}
        return 0, Position()

    def _continue(self, before: Checkpoint, optimiser: Optimiser) -> tuple[int, Position]:
        (rank, world), state = place(), before.state
        if changed := differing(state["frozen"], self.frozen):
            raise ValueError(f"the frozen {changed} is not what the checkpoint was trained with; "
                             "its weights, the seed or `init` have changed")  # fmt: skip
        if len(state["positions"]) != world:
            raise ValueError(f"the checkpoint was made by {len(state['positions'])} processes, not {world}")
        ours = {k: v for k, v in before.optimiser.items() if k.startswith("objective|")}
        optimiser.load({k: v for k, v in before.optimiser.items() if k not in ours})
        self.objective_state = {k.partition("|")[2]: v.to(self.batcher.device) for k, v in ours.items()}
        checkpoint.restore_random(state["random"][rank])
        return state["stage_step"], Position(**state["positions"][rank])

    def _report(self, position: Position) -> None:
        for word, book in (("cannot be used", position.bad), ("were too long and left out", position.dropped)):
            for name, rows in book.items():
                self.journal.say(f"{len(rows)} of {len(self.datasets[name])} rows of {name!r} {word}")


def _settle_blocks(module: nn.Module, run: Run) -> None:
    train_blocks(module, again=int(run.gradient_checkpointing), compiled=run.torch_compile)


def _device(name: str) -> torch.device:
    return device_of(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
