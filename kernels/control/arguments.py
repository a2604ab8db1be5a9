"""How the loop is launched, and why its output is its input.

Each step is value = FACTOR·value + ADDEND with FACTOR = -1: two steps give the value back. On whole numbers below 2^23
both steps are exact, fused or not, so the output equals the input bit for bit after any number of trips, and launches
of unequal work are right against one reference. Factor and addend are arguments, so that no compiler sees through it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from kernels.control.variant import Variant

FACTOR, ADDEND = -1.0, 3.0


def grid(variant: Variant, n: int) -> tuple[int, int, int]:
    """Blocks for n numbers, one a thread."""
    return -(-n // variant.threads), 1, 1


def arguments(x: torch.Tensor, y: torch.Tensor, trips: int) -> list[torch.Tensor | float | int]:
    """What `kernels.launch.Kernel.bind(grid(...), variant.threads, ...)` takes, in the kernel's order.

    x, y: float32 [n], contiguous, on the GPU; `trips` times the variant's steps are done to each number.
    """
    return [x, y, FACTOR, ADDEND, trips, x.numel()]
