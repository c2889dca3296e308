"""Where the time of a stage's first steps goes: a table, JSON, a chart, and a trace for chrome://tracing or Perfetto."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from scops.checkpoints.write import save_json

WARM, TIMED, TRACED = 2, 8, 2
"""Steps: not looked at; timed undisturbed; traced. Between the first two, one step's operations are counted."""
METHODS = {"encode": "encoder", "connect": "connector", "hidden": "language model"}
"""Of scops.core.system.Decoder, and what their time is called."""
PHASES = ("data", *METHODS.values(), "head and loss", "backward", "optimiser", "other")
SIDE = {"cpu": 1024, "cuda": 8192}
"""Of the square matrices that measure what the machine can do."""


class Profile:
    """Satisfies scops.train.watch.Watch.

    Args:
        folder: gets NAME.json, NAME.png and NAME-trace.json.
        say: takes the table.
    """

    def __init__(
        self, folder: Path, name: str, module: nn.Module, *, device: torch.device, dtype: torch.dtype,
        say: Callable[[Any], None],
    ) -> None:  # fmt: skip
        self.folder, self.name, self.module, self.say = folder, name, module, say
        self.device, self.dtype = device, dtype
        self.seconds, self.open = dict.fromkeys(PHASES, 0.0), ["other"]
        self.done, self.tokens, self.samples, self.wall, self.flops = 0, 0, 0, 0.0, 0
        self.tool: Any = None
        for method, phase in METHODS.items():  # on the object: taken off in close()
            setattr(module, method, self._told(getattr(module, method), phase))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def begin(self) -> None:
        if self.done == WARM:
            self.tool = Operations().__enter__()
        elif self.done == WARM + 1 + TIMED:
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
            self.tool = profile(activities=kinds).__enter__()
        self._wait()
        self.start = self.last = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._count()
        self.open.append(name)
        try:
            with record_function(name):
                yield
        finally:
            self._count()
            self.open.pop()

    def end(self, *, tokens: int, samples: int) -> None:
        self._count()
        if self._timed:
            self.tokens, self.samples = self.tokens + tokens, self.samples + samples
            self.wall += time.perf_counter() - self.start
        self.done += 1
        if isinstance(self.tool, Operations):
            self.tool.__exit__(None, None, None)
            self.flops, self.tool = self.tool.count, None
        elif self.done == WARM + 1 + TIMED + TRACED:
            self.close()

    def close(self) -> None:
        """Write what was found, once."""
        if "encode" not in self.module.__dict__:
            return
        for method in METHODS:
            del self.module.__dict__[method]
        if not self.wall:
            self.say(f"nothing is profiled: stage {self.name!r} has {self.done} steps, it takes {WARM + 2}")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.tool:
            self.tool.__exit__(None, None, None)
            self.tool.export_chrome_trace(str(self.folder / f"{self.name}-trace.json"))
        found = self._found()
        save_json(self.folder / f"{self.name}.json", found)
        draw(self.folder / f"{self.name}.png", found)
        self.say(table(found, self.folder))

    @property
    def _timed(self) -> bool:
        return WARM + 1 <= self.done < WARM + 1 + TIMED

    def _found(self) -> dict[str, Any]:
        steps = min(self.done, WARM + 1 + TIMED) - WARM - 1
        rate, used = gemm_rate(self.device, self.dtype), self.flops * steps / self.wall
        return {
            "stage": self.name, "steps": steps, "seconds_per_step": self.wall / steps,
            "seconds": {name: seconds / steps for name, seconds in self.seconds.items()},
            "tokens_per_second": self.tokens / self.wall, "samples_per_second": self.samples / self.wall,
            "flops_per_step": self.flops, "flops_per_second": used, "gemm_flops_per_second": rate, "mfu": used / rate,
            "peak_memory_gb": peak_memory(self.device) / 1e9, "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."), "threads": torch.get_num_threads(),
        }  # fmt: skip

    def _count(self) -> None:
        self._wait()
        now = time.perf_counter()
        if self._timed:
            self.seconds[self.open[-1]] += now - self.last
        self.last = now

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _told(self, method: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def told(*given: Any, **named: Any) -> Any:
            with self.phase(phase):
                return method(*given, **named)

        return told


class Operations(TorchDispatchMode):
    """Counts floating-point operations, by torch's own formulas; FlopCounterMode would hang hooks on every module."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=made)
        return made


def gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of the fastest of a few products of square matrices."""
    side, seconds = SIDE[device.type], []
    dice = torch.Generator(device).manual_seed(0)  # the run's own is not asked
    a, b = (torch.randn(side, side, device=device, generator=dice).to(dtype) for _ in range(2))
    for _ in range(8):
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU of its tensors, on a CPU of the whole process, since they began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(found: dict[str, Any], folder: Path) -> Table:
    made = Table(title=f"stage {found['stage']}: {found['seconds_per_step']:.3g} s per step, kept in {folder}",
                 title_justify="left")  # fmt: skip
    for column in ("where", "s/step", "share"):
        made.add_column(column, justify="left" if column == "where" else "right")
    for name, seconds in found["seconds"].items():
        made.add_row(name, f"{seconds:.3f}", f"{seconds / found['seconds_per_step']:.0%}")
    made.add_section()
    for name, words in (
        ("tokens/s", f"{found['tokens_per_second']:.0f}"), ("samples/s", f"{found['samples_per_second']:.1f}"),
        ("GFLOP/s", f"{found['flops_per_second'] / 1e9:.0f}"), ("of its products' rate", f"{found['mfu']:.0%}"),
        ("peak memory", f"{found['peak_memory_gb']:.2f} GB"),
    ):  # fmt: skip
        made.add_row(name, words)
    return made


def draw(path: Path, found: dict[str, Any]) -> None:
    from matplotlib.figure import Figure  # late: slow to import; no pyplot, so that no display is asked for

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(list(found["seconds"]), list(found["seconds"].values()))
    axes.bar_label(bars, [f" {s / found['seconds_per_step']:.0%}" for s in found["seconds"].values()])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(xlabel="seconds per step", title=f"{found['stage']}: {found['tokens_per_second']:.0f} tokens/s, "
             f"{found['mfu']:.0%} of the rate of plain products")  # fmt: skip
    figure.savefig(path, dpi=120)
