"""The sizes of one convolution, as the kernels see them."""

from __future__ import annotations

from dataclasses import dataclass

from frugal.errors import FrugalError


class UnsupportedShape(FrugalError, ValueError):
    """A convolution that no kernel of the sparse family computes."""


@dataclass(frozen=True)
class ConvShape:
    """x [B, C, H, W] with weights [N, C, k, k] to y [B, N, H_out, W_out]. Raises ValueError naming a wrong field."""

    B: int
    """Images in the batch."""
    C: int
    """Input channels."""
    H: int
    """Rows of the input."""
    W: int
    """Columns of the input."""
    N: int
    """Output channels."""
    k: int = 3
    """Filter size."""
    stride: int = 1
    pad: int = 1
    """Rows and columns of zeros at each side."""

    def __post_init__(self) -> None:
        for field, least in (("B", 1), ("C", 1), ("H", 1), ("W", 1), ("N", 1), ("k", 1), ("stride", 1), ("pad", 0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"shape: {field} = {value!r}: an integer of at least {least} is needed.")
        if min(self.H, self.W) + 2 * self.pad < self.k:
            raise ValueError(
                f"shape: k = {self.k}: a filter no larger than the padded image "
                f"({self.H + 2 * self.pad} x {self.W + 2 * self.pad}) is needed."
            )

    @property
    def H_out(self) -> int:
        """Rows of the output."""
        return (self.H + 2 * self.pad - self.k) // self.stride + 1

    @property
    def W_out(self) -> int:
        """Columns of the output."""
        return (self.W + 2 * self.pad - self.k) // self.stride + 1

    @property
    def macs(self) -> int:
        """Multiply-adds of a dense computation, those on padding included."""
        return self.B * self.N * self.H_out * self.W_out * self.C * self.k**2
