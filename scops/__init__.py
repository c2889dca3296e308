"""scops: multimodal language models from one small set of parts.

    model = scops.load("owl-tiny")
    model.chat("What is this?", images=["owl.png"])

Importing scops imports nothing heavy; what it exports comes when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scops.model import Model, compose, create, load
    from scops.model.costs import cost

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "compose", "cost", "create", "load"]

_HOMES = dict.fromkeys(("Model", "compose", "create", "load"), "scops.model") | {"cost": "scops.model.costs"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scops' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
