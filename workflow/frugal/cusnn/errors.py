"""What cuSNN's convolutions refuse; `UnsupportedShape`, for sizes, is `kernels.sparse`'s."""

from __future__ import annotations

from frugal.errors import FrugalError


class UnsupportedInput(FrugalError, ValueError):
    """A tensor that would have to be converted first: nothing is converted silently."""


class NotDifferentiable(FrugalError, RuntimeError):
    """A gradient is asked for, or training mode: the convolutions compute forward only."""
