"""A connector of one's own: a class of any package that can be imported, told what comes in and what must come out.

The protocol is `Connector`; docs/add-a-connector.md walks through it.
"""

# M pictures, P features per picture, Q tokens per picture, D width
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from scops.core.batch import Tiles
from scops.core.layout import WHOLE
from scops.core.names import nearest
from scops.nn.tiled import run_tiled

PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
TRIED = 2
"""Pictures that a new connector is tried with."""


@dataclass(frozen=True)
class Features:
    """What an encoder makes of a picture: class tokens, then a grid row by row.

    Args:
        first: class tokens.
        placed: whether features know where they stand; those of a convolution do not.
    """

    width: int
    rows: int
    columns: int
    first: int = 0
    placed: bool = True

    @property
    def count(self) -> int:
        return self.first + self.rows * self.columns


class Connector(Protocol):
    """What a class must offer; it is also an nn.Module. Numbers are those that the run or the caller gives by name.

    forward: (M, P, D) -> (M, Q, out), each picture by itself
    """

    def __init__(self, features: Features, out: int, **numbers: Any): ...

    @classmethod
    def tokens_for(cls, features: Features, **numbers: Any) -> int:
        """Q: the only statement of how much room a picture takes in the text."""
        ...

    def __call__(self, features_MPD: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class OwnSpec:
    """Args:
    path: package.module:Class.
    numbers: for the class, by name, as JSON holds them.
    """

    path: str
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not PATH.fullmatch(self.path):
            raise ValueError(
                f"a connector of one's own is named package.module:Class, not {self.path!r}; a package, or a module in it, "
                "that Python can import"
            )
        try:
            kept = json.loads(json.dumps(dict(self.numbers)))
        except TypeError as error:
            raise ValueError(
                f"numbers of {self.path} must be what JSON can hold, so that they can be saved: {error}"
            ) from error
        if kept != self.numbers:
            raise ValueError(
                f"numbers of {self.path} come back from JSON as {kept}, not as {self.numbers}; give lists and names as JSON has them"
            )

    @property
    def module(self) -> str:
        return self.path.partition(":")[0]


def tokens_for(spec: OwnSpec, features: Features) -> int:
    """What the class says.

    Raises:
        ValueError: it cannot be imported, or says no count.
    """
    said = _called(spec, "tokens_for", features, spec.numbers)
    if type(said) is not int or said < 1:
        raise ValueError(
            f"{spec.path}.tokens_for said {said!r}, but a picture takes a whole number of tokens, 1 or more"
        )
    return said


def own_connector(spec: OwnSpec, features: Features, out: int) -> nn.Module:
    """Made with memory and its own first values wherever the rest is built, and tried once.

    Raises:
        ValueError: it cannot be made, or does not make what it says.
    """
    with torch.device("cpu"):
        made = _called(spec, "", features, {"out": out, **spec.numbers})
        wrong = _wrong(made, features, (tokens_for(spec, features), out))
    if wrong:
        raise ValueError(f"{spec.path} {wrong}")
    return made


@torch.no_grad()
def _wrong(connector: nn.Module, features: Features, promised: tuple[int, int]) -> str:
    """What is wrong with what it makes of two pictures; "" if nothing."""
    dice = torch.Generator().manual_seed(0)  # its own, so that nobody's random numbers change
    features_MPD = torch.randn(TRIED, features.count, features.width, generator=dice)
    expected, was_training = (TRIED, *promised), connector.training
    connector.eval()
    try:
        together, alone = (
            run_tiled(connector, x, Tiles.of([(WHOLE,)] * len(x))) for x in (features_MPD, features_MPD[:1])
        )
    except Exception as error:
        return f"cannot read features {tuple(features_MPD.shape)}: {type(error).__name__}: {error}"
    finally:
        connector.train(was_training)
    if not isinstance(together, Tensor):
        return f"made a {type(together).__name__}, expected a tensor {expected}"
    if tuple(together.shape) != expected:
        return (
            f"made {tuple(together.shape)} of features {tuple(features_MPD.shape)}, expected {expected}: its tokens_for says "
            f"{promised[0]} tokens, and the language model is {promised[1]} wide"
        )
    if not torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-4, equal_nan=True):
        return "makes something else of a picture when another is beside it; each must be connected by itself"
    return ""


def _called(spec: OwnSpec, method: str, features: Features, words: Mapping[str, Any]) -> Any:
    """The class, or a method of it, called with the features and these words."""
    kind = class_of(spec.path)
    call = getattr(kind, method) if method else kind
    try:
        return call(features, **words)
    except Exception as error:
        of = f"{spec.path}.{method}" if method else spec.path
        given = ", ".join([repr(features), *(f"{name}={value!r}" for name, value in words.items())])
        raise ValueError(f"{of}({given}) failed: {type(error).__name__}: {error}") from error


def class_of(path: str) -> type[nn.Module]:
    """Imports the module.

    Raises:
        ValueError: there is no such module or class, or it is no connector.
    """
    module, _, name = path.partition(":")
    try:
        found = import_module(module)
    except Exception as error:
        raise ValueError(
            f"the connector {path} cannot be imported ({type(error).__name__}: {error}); install its package, or put the "
            "folder that holds it on PYTHONPATH"
        ) from error
    kind = getattr(found, name, None)
    if kind is None:
        raise ValueError(f"{module} has no {name!r}{nearest(name, vars(found))}")
    if not (isinstance(kind, type) and issubclass(kind, nn.Module) and callable(getattr(kind, "tokens_for", None))):
        raise ValueError(
            f"{path} is no connector: that is a class of nn.Module with a class method tokens_for(features, ...)"
        )
    return cast(type[nn.Module], kind)
