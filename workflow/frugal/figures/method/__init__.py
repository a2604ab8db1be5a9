"""Figures of the method: equal arms that must come out equal, and the noise that intervals have to cover."""

from frugal.figures.method.equal import equal
from frugal.figures.method.noise import noise

__all__ = ["equal", "noise"]
