"""What a module looks like: its declaration as boxes. Sub-layers stand in their order, equal blocks are drawn once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from torch import nn

from scops.lab.figure.boxes import Box, Cells, Chip, Column, Plate, Row
from scops.lab.figure.frames import Frame, Residual
from scops.lab.figure.kinds import MOST_KINDS, kind_of_each, kinds_of, lighter, numbers_of, runs_of
from scops.nn.attention import Attention, CrossAttention
from scops.nn.block import Block, PostNorm, PreNorm, Routed
from scops.nn.feed_forward import FeedForward, Gated, SwiGlu
from scops.nn.lora import LoRA

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.BatchNorm2d, nn.GroupNorm)
NOTHING = (nn.Identity, nn.Dropout)
FEEDS = (FeedForward, Gated, SwiGlu)
TITLES = {
    "SelfAttention": "Self-attention", "CrossAttention": "Cross-attention", "SwiGlu": "SwiGLU",
    "FeedForward": "Feed-forward", "Gated": "Gated feed-forward", "Conv2d": "Convolution", "Conv3d": "Convolution",
}  # fmt: skip
ATTENTION, MEMORY, FEED, NORM, WORDS, LINEAR = "#fde3c3", "#f9d3cb", "#cfe6f8", "#f4f1cd", "#f8dde6", "#e7e3f5"
KINDS = ("#dfe5ec", "#f9c9a0", "#cbb8ec")
"""Fills of parts by what they do, and of blocks by their kind, the commonest first."""
BAGS = (nn.Module, nn.ModuleDict, nn.ParameterDict, nn.ParameterList)
"""Classes that hold modules and compute nothing of their own."""
Turns = tuple[int, int]
"""When a module's work began first and last, counted over a run."""


@dataclass(frozen=True)
class Opener:
    """Draws the modules of one system.

    Args:
        lanes: whose token each expert of a Routed module takes ("text", "image").
        order: by identity, when modules had their turns in a run; without it, blocks are taken to follow what stands above.
    """

    lanes: tuple[str, ...] = ("text",)
    order: Mapping[int, Turns] = field(default_factory=dict)

    def opened(self, module: nn.Module) -> Column:
        """A part of its own card: what it is made of, with arrows where one thing follows another."""
        if has_blocks(module):
            children = _children(module)
            return Column(tuple(self.box(child, name) for name, child in children), loose=self.loose(module))
        return Column((self.part(module, "", titled=False),))

    def box(self, module: nn.Module, name: str) -> Box:
        if isinstance(module, nn.ModuleList):
            return self.stack(module, name)
        if isinstance(module, Block | nn.Sequential):
            return Frame(_title(module), self.inside(module), right=name)
        if isinstance(module, PreNorm | PostNorm):
            return self.residual(module, name)
        if type(module) in BAGS:
            count = f"{counted(sum(p.numel() for p in module.parameters()))} parameters"
            return Plate(
                type(module).__name__, name, (count,), tuple(Chip(n) for n, _ in _children(module)), dashed=True
            )
        if has_blocks(module):
            return Frame(_title(module), self.opened(module), right=name, notes=learned(module))
        return self.part(module, name)

    def loose(self, module: nn.Module) -> frozenset[int]:
        """Numbers of children that are not known to work on what the one above made."""
        children = [child for _, child in _children(module)]
        turns = [_turns(child, self.order) for child in children]
        if any(turns):
            begun = [turn[0] for turn in turns if turn]
            known = [
                a is not None and b is not None and min((n for n in begun if n > a[1]), default=-1) == b[0]
                for a, b in pairwise(turns)
            ]
        else:
            known = [not isinstance(children[0], nn.ModuleList) and type(child) not in BAGS for child in children[1:]]
        return frozenset(number for number, follows in enumerate(known, 1) if not follows)

    def inside(self, module: nn.Module) -> Column:
        """Of a block or of layers in a row."""
        return Column(tuple(self.box(child, name) for name, child in _children(module)), step=9, heads=False)

    def residual(self, module: PreNorm | PostNorm, name: str) -> Residual:
        norm, body = self.plate(module.norm, "norm"), self.part(module.body, name)
        if isinstance(module, PostNorm):
            return Residual((body,), after=(norm,))
        scale = () if isinstance(module.scale, NOTHING) else (self.plate(module.scale, "scale"),)
        return Residual((norm, body, *scale))

    def stack(self, blocks: nn.ModuleList, name: str) -> Box:
        """Equal blocks once, with their number."""
        if not len(blocks):
            return Plate("no blocks", name)
        kinds = kinds_of(list(blocks))
        shown = [self.block(blocks[at[0]]) for at in kinds]
        if len(kinds) == 1:
            return Frame(f"{len(blocks)} × {_title(blocks[0])}", shown[0], right=name, fill="#fafbfc")
        if len(kinds) > MOST_KINDS:
            words = ", ".join(dict.fromkeys(_title(block) for block in blocks))
            return Frame(f"{len(blocks)} blocks, {len(kinds)} kinds", Plate(words), right=name, fill="#fafbfc")
        commonest = max(range(len(kinds)), key=lambda kind: len(kinds[kind]))
        others = iter(KINDS[1:])
        fills = [KINDS[0] if kind == commonest else next(others) for kind in range(len(kinds))]
        frames = tuple(
            Frame(
                f"{len(at)} × {_title(blocks[at[0]])}", one, fill=lighter(fills[kind]),
                right="the others" if kind == commonest and len(runs_of(at)) > 1 else numbers_of(at),
            )
            for kind, (at, one) in enumerate(zip(kinds, shown, strict=True))
        )  # fmt: skip
        colours = [fills[kind] for kind in kind_of_each(kinds, len(blocks))]
        inner = Column((Cells(colours), Row(frames)), arrows=False, step=9)
        return Frame(f"{len(blocks)} blocks", inner, right=name, fill="#fafbfc")

    def block(self, module: nn.Module) -> Box:
        """The inside of a repeated module, without its title."""
        if isinstance(module, Block | nn.Sequential):
            return self.inside(module)
        if isinstance(module, PreNorm | PostNorm):
            return self.residual(module, "")
        return self.part(module, "", titled=False)

    def part(self, module: nn.Module, name: str, *, titled: bool = True) -> Box:
        """A module whose order of work its declaration does not say; parts with parts of their own stand below it."""
        routed = isinstance(module, Routed)
        expert = module.experts[0] if isinstance(module, Routed) else module
        inner = [(n, child) for n, child in _children(expert) if _composite(child)]
        if routed or isinstance(expert, (Attention, *FEEDS)) or not inner:
            return self.plate(module, name, titled=titled)
        head = self.plate(expert, name, titled=titled)
        head = replace(head, chips=tuple(chip for chip in head.chips if chip.name not in dict(inner)))
        says = (head,) if head.title or head.notes or head.chips else ()
        boxes = Column((*says, *(self.box(child, n) for n, child in inner)), arrows=False, step=5)
        return Frame("", boxes) if titled else boxes

    def plate(self, module: nn.Module, name: str, *, titled: bool = True) -> Plate:
        lanes: tuple[Chip, ...] = ()
        if isinstance(module, Routed):
            lanes, module = (self.chip(name, module),), module.experts[0]
        chips = tuple(self.chip(n, child) for n, child in _children(module)) if _opens(module) else ()
        asked = getattr(module, "memory", None)
        title, small = _title(module), isinstance(module, NORMS)
        return Plate(
            title if titled else "", "" if small else name, notes_of(module), chips + lanes, _fill(module),
            mark=f"memory:{asked}" if isinstance(asked, str) else "",
        )  # fmt: skip

    def chip(self, name: str, module: nn.Module) -> Chip:
        """A part that routes, or wraps what does, has a lane for each expert."""
        routed = next((part for part in module.modules() if isinstance(part, Routed)), None)
        if routed is None:
            return Chip(name)
        count = len(routed.experts)
        return Chip(name, (*self.lanes, *(f"expert {at}" for at in range(len(self.lanes), count)))[:count])


# What is written on a part ----------------------------------------------------------------------------------------------


def notes_of(module: nn.Module) -> tuple[str, ...]:
    """Sizes, or what a class of this library says of itself."""
    if isinstance(module, Attention):
        return (_heads(module),)
    if isinstance(module, FeedForward | Gated):
        up, down = _widths(module.up), _widths(module.down)
        sizes = f"{up[0]} → {up[1]} → {down[1]}, " if up and down else ""
        return (sizes + type(module.activation).__name__,)
    if isinstance(module, SwiGlu):
        up, down = _widths(module.up), _widths(module.down)
        return (f"{up[0]} → {up[1]} → {down[1]}",) if up and down else ()
    if isinstance(module, nn.Linear):
        return (f"{module.in_features} → {module.out_features}",)
    if isinstance(module, nn.Embedding):
        return (f"{module.num_embeddings:,} × {module.embedding_dim}",)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        kernel = " × ".join(map(str, module.kernel_size))
        return (f"{module.in_channels} → {module.out_channels}, {kernel}",)
    if isinstance(module, nn.Identity):
        return ("passes on what comes",)
    if isinstance(module, NORMS):
        return ()
    first = "" if _torchs(module) else (type(module).__doc__ or "").strip().split("\n")[0]
    return tuple(part for part in (first, *learned(module)) if part)


def learned(module: nn.Module) -> tuple[str, ...]:
    """Parameters of the module's own class; what torch's classes have is known."""
    if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d) or _torchs(module):
        return ()
    found = []
    for name, parameter in module.named_parameters(recurse=False):
        shape = list(parameter.shape)
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
        found.append(f"{name} {' × '.join(map(str, shape))}")
    return (f"learned: {', '.join(found)}",) if found else ()


def counted(number: float) -> str:
    """1234567 -> 1.23 M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:g}"


def _heads(module: Attention) -> str:
    words = f"heads of {module.head_dim}"
    queries, keys = _widths(module.q), _widths(module.k)
    if queries and keys:
        heads, kv = queries[1] // module.head_dim, keys[1] // module.head_dim
        words = f"{heads} {words}" + (f", {kv} for k and v" if kv != heads else "")
    if module.rope is not None:
        words += ", rotary"
    return words + (f", asks {module.memory}" if isinstance(module, CrossAttention) else "")


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """In and out, by the projections inside it; None where there are none that say."""
    first = module.experts[0] if isinstance(module, Routed) else module
    found = [(one.in_features, one.out_features) for one in first.modules() if isinstance(one, nn.Linear | LoRA)]
    return (found[0][0], found[-1][1]) if found else None


def _title(module: nn.Module) -> str:
    name = type(module).__name__
    return TITLES.get(name, name)


def _fill(module: nn.Module) -> str:
    if isinstance(getattr(module, "memory", None), str):
        return MEMORY
    for kinds, colour in (
        ((Attention,), ATTENTION), (FEEDS, FEED), (NORMS, NORM), ((nn.Embedding,), WORDS),
        ((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), LINEAR),
    ):  # fmt: skip
        if isinstance(module, kinds):
            return colour
    return "#f4f5f7"


def _torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.")


def _opens(module: nn.Module) -> bool:
    """Whether its parts are worth a chip each: what they are does not follow from the title."""
    if isinstance(module, FEEDS):
        return any(isinstance(child, Routed) for child in module.children())
    return type(module).__module__.startswith("scops.")


def _turns(module: nn.Module, order: Mapping[int, Turns]) -> Turns | None:
    found = [order[id(part)] for part in module.modules() if id(part) in order]
    return (min(first for first, _ in found), max(last for _, last in found)) if found else None


def has_blocks(module: nn.Module) -> bool:
    return any(isinstance(child, nn.ModuleList) for child in module.children())


def _composite(module: nn.Module) -> bool:
    return not isinstance(module, Routed) and any(True for _ in module.children())


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Those that do something."""
    return [(name, child) for name, child in module.named_children() if not isinstance(child, NOTHING)]
