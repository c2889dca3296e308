"""The front door: load a model or make one, talk to it, save it."""

from scops.model.composing import compose
from scops.model.model import Model
from scops.model.opening import create, load, reading

__all__ = ["Model", "compose", "create", "load", "reading"]
