"""The architecture of any system as a picture, drawn from its declaration."""

from scops.lab.figure.sheet import Sheet, figure

__all__ = ["Sheet", "figure"]
