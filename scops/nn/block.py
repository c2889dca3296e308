"""A body is a list of blocks, a block a list of sub-layers `(x, ctx) -> x`: its declaration is its forward."""

# B rows, T tokens, D width
import torch
from torch import Tensor, nn

from scops.nn.context import Context


class Contextual(nn.Module):
    """A module whose forward takes (x, ctx). Plain modules (nn.Linear, nn.LayerNorm, SwiGlu) take x alone."""


def run(module: nn.Module, x: Tensor, ctx: Context) -> Tensor:
    return module(x, ctx) if isinstance(module, Contextual) else module(x)


class Block(Contextual):
    """Sub-layers in the order given; their names are the parameter paths, the words for freezing, LoRA and key maps."""

    def __init__(self, **sublayers: Contextual):
        super().__init__()
        for name, sublayer in sublayers.items():
            self.add_module(name, sublayer)

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        for sublayer in self.children():
            x_BTD = sublayer(x_BTD, ctx)
        return x_BTD


class PreNorm(Contextual):
    """x + scale(body(norm(x)))"""

    def __init__(self, norm: nn.Module, body: nn.Module, *, scale: nn.Module | None = None):
        super().__init__()
        self.norm, self.body, self.scale = norm, body, scale or nn.Identity()

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        return x_BTD + self.scale(run(self.body, run(self.norm, x_BTD, ctx), ctx))


class PostNorm(Contextual):
    """norm(x + body(x)), as in BERT."""

    def __init__(self, norm: nn.Module, body: nn.Module):
        super().__init__()
        self.norm, self.body = norm, body

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        return run(self.norm, x_BTD + run(self.body, x_BTD, ctx), ctx)


class Normed(Contextual):
    """body(norm(x)), a branch of Parallel."""

    def __init__(self, norm: nn.Module, body: nn.Module):
        super().__init__()
        self.norm, self.body = norm, body

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        return run(self.body, run(self.norm, x_BTD, ctx), ctx)


class Parallel(Contextual):
    """x + the sum of its branches, which all look at x (GPT-J, GPT-NeoX)."""

    def __init__(self, **branches: Contextual):
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        return x_BTD + sum(branch(x_BTD, ctx) for branch in self.children())


class Routed(Contextual):
    """Each token by the expert that ctx.route names: for modules that treat tokens alone (linear, norm, feed-forward).

    The positions come sorted from the data path; nothing is computed twice and nothing is asked of the device.
    """

    def __init__(self, *experts: nn.Module):
        super().__init__()
        self.experts = nn.ModuleList(experts)

    def forward(self, x_BTD: Tensor, ctx: Context) -> Tensor:
        if ctx.route is None:
            return self.experts[0](x_BTD)
        flat = x_BTD.flatten(0, -2)
        pieces = [expert(flat[index]) for expert, index in zip(self.experts, ctx.route.index, strict=True)]
        return torch.cat(pieces)[ctx.route.inverse_R].unflatten(0, x_BTD.shape[:-1])
