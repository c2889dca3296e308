"""What a run tells while it goes: a progress line, metrics.jsonl, TensorBoard, and a picture of the loss."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from scops.checkpoints.write import save_text
from scops.train.stage import RoleRow

METRICS = "metrics.jsonl"


class Journal:
    """Losses are means over all units of the steps since the last line, whatever the steps' sizes.

    Args:
        folder: of the run.
        every: steps per line.
        window: sums since the last line, as a checkpoint kept them.
    """

    def __init__(self, folder: Path, *, every: int, step: int = 0, window: Mapping[str, Any] | None = None,
                 console: Console | None = None, writes: bool = True) -> None:  # fmt: skip
        self.folder, self.every, self.writes = folder, every, writes
        self.console = console or Console(stderr=True, quiet=not writes)
        self.window: dict[str, list[float]] = {k: list(v) for k, v in (window or {}).items()}
        self.losses: dict[str, float] = {}
        self.file = self.board = None
        if writes:
            from torch.utils.tensorboard import SummaryWriter  # late: slow to import

            kept = [line for line in read_metrics(folder) if line["step"] <= step]
            self.losses = {line["stage"]: line["loss"] for line in kept if "loss" in line}
            save_text(folder / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
            self.file = open(folder / METRICS, "a", encoding="utf-8")  # noqa: SIM115 closed in close()
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._restart()

    def begin(self, stage: str, *, steps: int, done: int, rows: Sequence[RoleRow]) -> None:
        """A stage's table and its progress line."""
        self.stage, self.steps = stage, steps
        self.say(_table(stage, steps, rows))
        columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.completed}/{task.total}"),
                   TextColumn("{task.fields[words]}"), TimeRemainingColumn())  # fmt: skip
        self.progress = Progress(*columns, console=self.console, disable=not (self.console.is_terminal and self.writes))
        self.progress.start()
        self.task = self.progress.add_task(stage, total=steps, completed=done, words="")
        self._restart()

    def note(self, *, step: int, done: int, sums: Mapping[str, tuple[float, int]], lr: float, norm: float,
             tokens: int, samples: int, waited: float) -> None:  # fmt: skip
        """One step.

        Args:
            step: in the run; done: in the stage.
            sums: by name ("loss", parts), a sum and its units.
            waited: seconds until its rows were there.
        """
        for name, (total, count) in sums.items():
            pair = self.window.setdefault(name, [0.0, 0])
            pair[0], pair[1] = pair[0] + total, pair[1] + count
        self.tokens, self.samples, self.noted = self.tokens + tokens, self.samples + samples, self.noted + 1
        self.waited += waited
        self.progress.update(self.task, completed=done)
        if step % self.every and done != self.steps:
            return
        seconds = max(time.monotonic() - self.start, 1e-9)
        means = {name: total / count for name, (total, count) in self.window.items() if count}
        line = {"step": step, "stage": self.stage, "stage_step": done, **means, "learning_rate": lr, "grad_norm": norm,
                "tokens_per_second": self.tokens / seconds, "samples_per_second": self.samples / seconds,
                "data_share": self.waited / seconds}  # fmt: skip
        self.window, self.losses[self.stage] = {}, means["loss"]
        self._line(line, "train")
        words = (f"loss {means.get('loss', 0.0):.4f}  lr {lr:.2e}  {line['tokens_per_second']:.0f} tokens/s  "
                 f"{line['samples_per_second']:.1f} samples/s  data {line['data_share']:.0%}")  # fmt: skip
        self.progress.update(self.task, words=words)
        if self.progress.disable:
            left = (self.steps - done) * seconds / self.noted
            self.say(f"{self.stage} {done}/{self.steps}  {words}  {_clock(left)} left")
        self._restart()

    def evaluated(self, *, step: int, means: Mapping[str, float]) -> None:
        self._line({"step": step, "stage": self.stage, **{f"eval_{name}": v for name, v in means.items()}}, "eval")
        self.say("  ".join(["held out", *(f"{name} {value:.4f}" for name, value in means.items())]))
        self._restart()

    def end(self) -> None:
        """A stage is over: its line closes, and the plot is drawn anew."""
        self.progress.stop()
        if self.writes:
            plot(self.folder)

    def say(self, words: Any) -> None:
        self.console.print(words, highlight=False, markup=False, soft_wrap=isinstance(words, str))

    def close(self) -> None:
        if getattr(self, "progress", None):
            self.progress.stop()
        if self.file and self.board:
            self.file.close()
            self.board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _restart(self) -> None:
        self.start, self.tokens, self.samples, self.noted, self.waited = time.monotonic(), 0, 0, 0, 0.0

    def _line(self, line: Mapping[str, Any], group: str) -> None:
        if not self.file or not self.board:
            return
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        for name, value in line.items():
            if isinstance(value, float):
                self.board.add_scalar(f"{group}/{name.removeprefix('eval_')}", value, line["step"])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that was cut off by a kill is left out."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    whole = [line for line in lines if line.endswith("}")]
    return [json.loads(line) for line in whole]


def plot(folder: Path) -> Path:
    """loss.png of all stages so far."""
    from matplotlib.figure import Figure  # late: slow to import; no pyplot, so that no display is asked for

    lines = read_metrics(folder)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for stage in dict.fromkeys(line["stage"] for line in lines):
        for key, style in (("loss", "-"), ("eval_loss", "o--")):
            points = [(line["step"], line[key]) for line in lines if line["stage"] == stage and key in line]
            if points:
                label = stage if key == "loss" else f"{stage}, held out"
                axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, markersize=3)
    axes.set(xlabel="step", ylabel="loss per unit")
    axes.grid(alpha=0.3)
    if lines:
        axes.legend()
    figure.savefig(folder / "loss.png", dpi=120)
    return folder / "loss.png"


def _table(stage: str, steps: int, rows: Sequence[RoleRow]) -> Table:
    table = Table(title=f"stage {stage}, {steps} steps", title_justify="left")
    for name in ("role", "parameters", "trainable", "LoRA", "lr", "decay"):
        table.add_column(name, justify="left" if name == "role" else "right")
    for row in rows:
        lrs = ", ".join(f"{lr:g}" for lr in row.lrs) if row.trainable else "frozen"
        table.add_row(row.role, f"{row.parameters:,}", f"{row.trainable:,}", f"{row.lora:,}", lrs,
                      f"{row.decay:g}" if row.trainable else "")  # fmt: skip
    return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
