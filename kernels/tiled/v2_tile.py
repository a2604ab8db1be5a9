"""v2: one layer from a tile in shared memory, sums in registers. Faster than v1 because an input value is read from
global memory once a tile and block of channels, not nine times a channel; bias, activation and maximum in registers.
"""

from __future__ import annotations

from kernels.tiled import pair

PARAMETERS = {"layer": pair.SECOND}


def source(variant) -> str:
    """Python source of the kernel `v2_tile` for the variant."""
    return pair.source(variant, wide=False)
