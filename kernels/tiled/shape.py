"""The sizes and operations of two convolutions in a row, as the kernels see them."""

from __future__ import annotations

from dataclasses import dataclass

from frugal.errors import FrugalError

ACTIVATIONS = ("relu", "leaky", "none")


class UnsupportedPair(FrugalError, ValueError):
    """Two layers that no kernel of the tiled family computes: the message names the term that binds."""


@dataclass(frozen=True)
class PairShape:
    """x [N, C_in, H, W] through two layers to y [N, C_out, H_out, W_out].

    A layer is a 3×3 convolution (padding 1, stride 1), bias, activation, and a 2×2 maximum if its pool is on; the
    maximum drops an odd last row or column, as torch's MaxPool2d does. Raises ValueError naming a wrong field.
    """

    N: int
    """Images in the batch."""
    C_in: int
    C_mid: int
    """Channels between the layers."""
    C_out: int
    H: int
    """Rows of the input."""
    W: int
    """Columns of the input."""
    pool_mid: bool = False
    """Whether the first layer ends with the maximum."""
    pool_out: bool = False
    """Whether the second layer does."""
    activation: str = "relu"
    """Of both layers: relu, leaky (its slope is an argument of the launch) or none."""

    def __post_init__(self) -> None:
        for field in ("N", "C_in", "C_mid", "C_out", "H", "W"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"pair: {field} = {value!r}: an integer of at least 1 is needed.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"pair: activation = {self.activation!r}: one of {', '.join(ACTIVATIONS)} is allowed.")
        if min(self.H_out, self.W_out) < 1:
            raise ValueError(
                f"pair: H = {self.H}, W = {self.W}: nothing is left after the maximum; at least "
                f"{self.q_mid * (2 if self.pool_out else 1)} of each is needed."
            )

    @property
    def q_mid(self) -> int:
        """Rows of the first convolution that one row between the layers is the maximum of."""
        return 2 if self.pool_mid else 1

    @property
    def H_mid(self) -> int:
        """Rows between the layers."""
        return self.H // self.q_mid

    @property
    def W_mid(self) -> int:
        """Columns between the layers."""
        return self.W // self.q_mid

    @property
    def H_out(self) -> int:
        """Rows of the output."""
        return self.H_mid // 2 if self.pool_out else self.H_mid

    @property
    def W_out(self) -> int:
        """Columns of the output."""
        return self.W_mid // 2 if self.pool_out else self.W_mid

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-adds of the two layers, those on padding included."""
        return (
            9 * self.N * self.C_in * self.C_mid * self.H * self.W,
            9 * self.N * self.C_mid * self.C_out * self.H_mid * self.W_mid,
        )

    def bytes(self, element: int = 4) -> dict[str, int]:
        """Bytes of input, output and weights, the least that must move, and of what lies between the layers."""
        return {
            "input": element * self.N * self.C_in * self.H * self.W,
            "middle": element * self.N * self.C_mid * self.H_mid * self.W_mid,
            "output": element * self.N * self.C_out * self.H_out * self.W_out,
            "weights": element * 9 * self.C_mid * (self.C_in + self.C_out),
        }
