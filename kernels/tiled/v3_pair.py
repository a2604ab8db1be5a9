"""v3: both layers in one kernel. Faster than v2 twice because what lies between them, the largest tensor of all, is
never written to global memory nor read from it, at the price of computing the tile's halo again.
"""

from __future__ import annotations

from kernels.tiled import pair

PARAMETERS = {"pair": pair.PAIR, "first": pair.FIRST, "second": pair.SECOND}


def source(variant) -> str:
    """Python source of the kernel `v3_pair` for the variant."""
    return pair.source(variant, wide=False)
