"""scops: multimodal language models from one small set of parts.

    model = scops.load("owl-tiny")
    model.chat("What is this?", images=["owl.png"])

Importing scops imports nothing heavy; `load`, `create`, `compose` and `Model` come when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scops.model import Model, compose, create, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "compose", "create", "load"]
LATER = ("Model", "compose", "create", "load")


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module 'scops' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("scops.model"), name)


def __dir__() -> list[str]:
    return [*globals(), *LATER]
