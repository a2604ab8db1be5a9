"""Figures of the method: equal arms that must come out equal, and the noise that intervals have to cover."""

from frugal.figures.method.noise import noise
from frugal.figures.method.null import null

__all__ = ["noise", "null"]
