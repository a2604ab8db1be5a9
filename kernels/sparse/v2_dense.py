"""v2: a warp computes a tile of outputs, its lanes 32 neighbouring output channels, with all sums in registers. Faster
than v1 because a load feeds many multiply-adds: an input value up to k²·o of them, a weight the whole tile.

No test for zeros, no shared memory, no split of the channels; lanes write their own channel's rows, so stores scatter.
"""

from __future__ import annotations

from kernels.sparse.emit import HEAD, indent, u
from kernels.sparse.taps import taps, window

PARAMETERS = (
    *((name, "f32*") for name in ("x", "w", "y")),
    *((name, "u32") for name in ("B", "C", "H", "W", "N", "Np", "tiles_w", "tiles", "x_batch", "y_batch")),
)
CHAIN = 32  # channels summed in one chain of float32; one chain of all 4608 terms would lose digits


def source(variant) -> str:
    """Python source of the kernel `v2_dense` for the variant."""
    lines = [f"def v2_dense({', '.join(name for name, _ in PARAMETERS)}):", *indent(_setup(variant))]
    lines += ["    if unit < uint32(B * tiles):", *indent(_channels(variant) + _store(variant), 2)]
    return HEAD.format(name=variant.name) + "\n".join(lines) + "\n"


def grid(variant, shape, splits: int) -> tuple[int, int, int]:
    """Blocks: (tiles of all images by warps, groups of 32·o output channels, 1)."""
    tiles = -(-shape.H_out // variant.th) * -(-shape.W_out // variant.tw)
    return -(-shape.B * tiles // variant.warps), -(-shape.N // (32 * variant.outputs_per_lane)), 1


def _outputs(variant) -> list[tuple[int, int, int]]:
    return [(a, b, q) for a in range(variant.th) for b in range(variant.tw) for q in range(variant.outputs_per_lane)]


def _setup(variant) -> list[str]:
    ih, iw = window(variant.th, variant.tw, variant.k, variant.stride)
    pad, stride = variant.k // 2, variant.stride
    lines = [
        "thread = uint32(cuda.threadIdx.x)",
        "lane = uint32(thread & uint32(31))",
        f"n0 = uint32(uint32(uint32(cuda.blockIdx.y) * {u(32 * variant.outputs_per_lane)}) + lane)",
        f"unit = uint32(uint32(uint32(cuda.blockIdx.x) * {u(variant.warps)}) + uint32(thread >> uint32(5)))",
        "image = uint32(unit // tiles)",
        "tile = uint32(unit - uint32(image * tiles))",
        "tile_row = uint32(tile // tiles_w)",
        f"oy = uint32(tile_row * {u(variant.th)})",
        f"ox = uint32(uint32(tile - uint32(tile_row * tiles_w)) * {u(variant.tw)})",
        f"Ho = uint32(uint32(H + {u(stride - 1)}) // {u(stride)})",
        f"Wo = uint32(uint32(W + {u(stride - 1)}) // {u(stride)})",
    ]
    for axis, count, origin, size in (("row", ih, "oy", "H"), ("col", iw, "ox", "W")):
        for i in range(count):
            lines += [
                f"{axis}{i} = uint32(uint32({origin} * {u(stride)}) + {u(i)})",
                f"{axis}_in{i} = {axis}{i} >= {u(pad)} and {axis}{i} < uint32({size} + {u(pad)})",
                f"{axis}{i} = uint32({axis}{i} - {u(pad)})",
            ]
    return lines


def _channels(variant) -> list[str]:
    k = variant.k
    step = [
        "c = uint32(channel)",
        "plane = uint32(uint32(image * x_batch) + uint32(uint32(c * H) * W))",
        f"at = uint32(uint32(uint32(c * {u(k * k)}) * Np) + n0)",
    ]
    step += [
        f"w_{r}{s}_{q} = w[uint32(uint32(at + uint32({u(r * k + s)} * Np)) + {u(32 * q)})]"
        for r in range(k)
        for s in range(k)
        for q in range(variant.outputs_per_lane)
    ]
    ih, iw = window(variant.th, variant.tw, k, variant.stride)
    for i in range(ih):
        for j in range(iw):
            step += [
                "v = float32(0)",
                f"if row_in{i} and col_in{j}:",
                f"    v = x[uint32(plane + uint32(uint32(row{i} * W) + col{j}))]",
            ]
            for a, b, r, s in taps(i, j, variant.th, variant.tw, k, variant.stride):
                step += [f"acc_{a}_{b}_{q} += v * w_{r}{s}_{q}" for q in range(variant.outputs_per_lane)]
    chain = [f"acc_{a}_{b}_{q} = float32(0)" for a, b, q in _outputs(variant)]
    chain += [f"for channel in range(first, min(C, uint32(uint32(first) + {u(CHAIN)}))):", *indent(step)]
    chain += [f"sum_{a}_{b}_{q} += acc_{a}_{b}_{q}" for a, b, q in _outputs(variant)]
    totals = [f"sum_{a}_{b}_{q} = float32(0)" for a, b, q in _outputs(variant)]
    return [*totals, f"for first in range(uint32(0), C, {u(CHAIN)}):", *indent(chain)]


def _store(variant) -> list[str]:
    lines = []
    for q in range(variant.outputs_per_lane):
        lines += [
            f"n = uint32(n0 + {u(32 * q)})",
            "plane = uint32(uint32(image * y_batch) + uint32(uint32(n * Ho) * Wo))",
        ]
        for a in range(variant.th):
            for b in range(variant.tw):
                row, col = f"uint32(oy + {u(a)})", f"uint32(ox + {u(b)})"
                lines += [
                    f"if n < N and {row} < Ho and {col} < Wo:",
                    f"    y[uint32(plane + uint32(uint32({row} * Wo) + {col}))] = sum_{a}_{b}_{q}",
                ]
    return lines
