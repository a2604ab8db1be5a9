"""How a block of v2 to v4 is laid out: its threads, and what stands where in shared memory.

Tile TH×TW of results of the second convolution; between the layers mh×mw = (TH + 2)×(TW + 2) positions; of the input
ih×iw = (q·mh + 2)×(q·mw + 2), q = 2 where the first layer ends with a maximum. The twin's first launch needs no halo
between the layers (mh×mw = TH×TW). Rows are padded to a multiple of 4 columns, for 16-byte words.

Shared floats: input CIN·ih·iw, middle buffers·CHUNK·mh·mw, weights of the second layer 9·CHUNK·COB, of the first
buffers·9·CIN·CHUNK.
"""

from __future__ import annotations

# Columns of a thread (each in two rows, so that a 2×2 maximum is taken in registers) and its output channels.
COLUMNS = {"v1_naive": 1, "v2_tile": 2, "v3_pair": 2, "v4_pair_reg": 4}
CHANNELS = {"v1_naive": 1, "v2_tile": 16, "v3_pair": 16, "v4_pair_reg": 8}
NAIVE_THREADS = 128


def threads(variant) -> int:
    """Threads of a block: one for each run of columns in two rows and group of channels."""
    if variant.rung == "v1_naive":
        return NAIVE_THREADS
    runs = variant.th // 2 * (variant.tw // COLUMNS[variant.rung])
    return runs * (variant.cob // CHANNELS[variant.rung])


def padded(columns: int) -> int:
    """Columns of a row in shared memory."""
    return -(-columns // 4) * 4


def middle(variant) -> tuple[int, int]:
    """Rows and columns between the layers that a block computes or reads."""
    halo = 0 if variant.part == "first" else 2
    return variant.th + halo, variant.tw + halo


def window(variant) -> tuple[int, int]:
    """Rows and columns of the input that a block reads."""
    q = 2 if variant.pool_mid else 1
    return tuple(q * size + 2 for size in middle(variant))


def shared_terms(variant) -> dict[str, int]:
    """Bytes of shared memory by what they are for."""
    if variant.rung == "v1_naive":
        return {"nothing": 0}
    (mh, mw), (ih, iw) = middle(variant), window(variant)
    first, second = variant.part in ("pair", "first"), variant.part != "first"
    return {
        "input": 4 * variant.cin * ih * padded(iw) * first,
        "middle": 4 * variant.buffers * variant.chunk * mh * padded(mw) * second,
        "weights of the second layer": 4 * 9 * variant.chunk * variant.cob * second,
        "weights of the first layer": 4 * variant.buffers * 9 * variant.cin * variant.chunk * first,
    }


def shared_bytes(variant) -> int:
    """Bytes of shared memory a block."""
    return sum(shared_terms(variant).values())
