"""The CPU twin of the loop: the same chain of multiply-adds for each number, on one core.

One core, since a second one that somebody else wants would add its own noise to a time that is meant to be known.
"""

from __future__ import annotations

import numba
import torch

from kernels.control.arguments import ADDEND, FACTOR


@numba.njit(
    "void(int64, float32[::1], float32[::1], float32, float32, int64, int64)",
    error_model="numpy",
    fastmath={"contract"},
    cache=True,
)
def _loop(times, x, y, factor, addend, trips, steps):
    for _ in range(times):
        y[:] = x
        for _ in range(trips):
            for _ in range(steps):
                for i in range(len(y)):
                    y[i] = factor * y[i] + addend


def fma(x: torch.Tensor, y: torch.Tensor, trips: int, steps: int, times: int = 1) -> None:
    """x, y: float32 [n] on the CPU, contiguous. Writes to y what `trips` trips of `steps` make of x, `times` times."""
    _loop(times, x.detach().numpy(), y.numpy(), FACTOR, ADDEND, trips, steps)
