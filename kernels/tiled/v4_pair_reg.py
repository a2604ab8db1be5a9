"""v4: v3 with a thread of 2×4 positions × 8 channels instead of 2×2 × 16, its words of 16 bytes asked for. Faster
because it reads 96 floats for 576 multiply-adds of a channel, not 160: shared memory delivers one float a lane and
clock to four multiply-adds, so v3 waits for it (576 / 160 < 4) and v4 does not (576 / 96 = 6).
"""

from __future__ import annotations

from kernels.tiled import pair

PARAMETERS = {"pair": pair.PAIR, "first": pair.FIRST, "second": pair.SECOND}


def source(variant) -> str:
    """Python source of the kernel `v4_pair_reg` for the variant."""
    return pair.source(variant, wide=True)
