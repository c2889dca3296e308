"""AdamW (arXiv 1711.05101) over named parameters, and the learning rate as a plain function of the step."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scops.core.glob import covered
from scops.core.stage import Stage
from scops.train.stage import rows_of


class Optimiser:
    """AdamW whose state has names. Parameters kept in 16 bits are moved in float32 and rounded afterwards.

    Args:
        trainables: by path.
        module: where they stand, to know norms by.
    """

    def __init__(self, trainables: Mapping[str, nn.Parameter], module: nn.Module, *, stage: Stage) -> None:
        self.stage, self.trainables = stage, dict(trainables)
        self.lrs = _rates(self.trainables, stage)
        norms = {p for p, m in module.named_modules() if type(m).__name__.endswith("Norm")}
        still = rows_of(stage, dict(module.named_parameters()))  # decay would move rows that do not learn
        self.decays = {
            p: 0.0 if p in still or _plain(p, t, norms) else stage.weight_decay for p, t in self.trainables.items()
        }
        self.masters = {p: _master(t) for p, t in self.trainables.items()}
        groups: dict[tuple[float, float], list[str]] = {}
        for path in self.trainables:
            groups.setdefault((self.lrs[path], self.decays[path]), []).append(path)
        once = [path for paths in groups.values() for path in paths]
        assert sorted(once) == sorted(self.trainables), "every trainable parameter stands in exactly one group"
        self.adamw = torch.optim.AdamW(
            [{"params": [self.masters[p] for p in paths], "lr": lr, "peak": lr, "weight_decay": decay}
             for (lr, decay), paths in groups.items()],
            betas=stage.betas, eps=stage.eps, fused=True,
        )  # fmt: skip

    def step(self, done: int) -> float:
        """Move the parameters, then forget their gradients.

        Args:
            done: steps of the stage before this one.
        Returns:
            the stage's learning rate that was used.
        """
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * factor(self.stage, done)
        rounded = [(p, m) for p, m in self._pairs() if p is not m]
        for parameter, master in rounded:
            master.grad = None if parameter.grad is None else parameter.grad.to(master.dtype)
        self.adamw.step()
        with torch.no_grad():
            for parameter, master in rounded:
                parameter.copy_(master)
        self.forget()
        return self.stage.lr * factor(self.stage, done)

    def forget(self) -> None:
        for parameter, master in self._pairs():
            parameter.grad = master.grad = None

    def state(self) -> dict[str, Tensor]:
        """By path|name; with the float32 masters of parameters kept in 16 bits."""
        found = {f"{p}|{k}": v for p, m in self.masters.items() for k, v in self.adamw.state.get(m, {}).items()}
        masters = {f"{p}|master": m.detach() for p, m in self.masters.items() if m is not self.trainables[p]}
        return found | masters

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave.

        Raises:
            ValueError: a parameter that this stage does not train.
        """
        for key, value in state.items():
            path, _, name = key.rpartition("|")
            if path not in self.masters:
                raise ValueError(f"the optimiser's state has {path}, which stage {self.stage.name!r} does not train")
            master = self.masters[path]
            if name == "master":
                with torch.no_grad():
                    master.copy_(value)
            else:
                self.adamw.state[master][name] = value.to(master.device, copy=True)

    def _pairs(self) -> list[tuple[nn.Parameter, Tensor]]:
        return [(parameter, self.masters[path]) for path, parameter in self.trainables.items()]


def factor(stage: Stage, done: int) -> float:
    """Share of the highest learning rate at the step after `done` steps: linear warm-up, then the stage's schedule."""
    if done < stage.warmup:
        return (done + 1) / stage.warmup
    share = (done - stage.warmup) / max(1, stage.steps - stage.warmup)
    low = stage.min_lr / stage.lr
    return low + (1 - low) * SHAPES[stage.schedule](min(1.0, share))


SHAPES = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
}


def _rates(trainables: Mapping[str, nn.Parameter], stage: Stage) -> dict[str, float]:
    """Learning rate by path; of two globs that cover a path, the later one counts."""
    rates = dict.fromkeys(trainables, stage.lr)
    for glob, lr in stage.lr_of.items():
        rates |= dict.fromkeys(covered((glob,), trainables, f"stage {stage.name!r} gives a learning rate to"), lr)
    return rates


def _plain(path: str, parameter: Tensor, norms: set[str]) -> bool:
    """Biases, norms and all that is not a matrix are not decayed."""
    owner, _, name = path.rpartition(".")
    return parameter.ndim < 2 or name == "bias" or owner in norms


def _master(parameter: nn.Parameter) -> Tensor:
    if parameter.dtype in (torch.float32, torch.float64):
        return parameter
    return parameter.detach().float().requires_grad_()
