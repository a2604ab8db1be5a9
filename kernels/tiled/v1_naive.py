"""v1: one layer, a thread an output, everything from global memory: what every further step is compared with."""

from __future__ import annotations

from kernels.sparse.emit import indent, u
from kernels.tiled.emit import PRELUDE, activate, larger
from kernels.tiled.layout import NAIVE_THREADS

PARAMETERS = {
    "layer": (
        *((name, "f32*") for name in ("x", "w", "bias", "y")),
        *((name, "u32") for name in ("C", "N", "H", "W")),
        ("slope", "f32"),
    )
}


def source(variant) -> str:
    """Python source of the kernel `v1_naive` for the variant. x [B, C, H, W], w [N, C, 3, 3], y [B, N, Ho, Wo]."""
    q = 2 if variant.pool_out else 1
    lines = [
        f"Ho = uint32(H // {u(q)})",
        f"Wo = uint32(W // {u(q)})",
        f"at = uint32(uint32(uint32(cuda.blockIdx.x) * {u(NAIVE_THREADS)}) + uint32(cuda.threadIdx.x))",
        "n = uint32(cuda.blockIdx.y)",
        "image = uint32(cuda.blockIdx.z)",
        "if at < uint32(Ho * Wo):",
        "    row = uint32(at // Wo)",
        "    col = uint32(at - uint32(row * Wo))",
    ]
    for a in range(q):
        for b in range(q):
            lines += indent(_result(a, b, q))
            lines.append(f"    {'best = value' if a + b == 0 else larger('best', 'value')}")
    lines += indent(activate(variant.activation, "best"))
    lines.append("    y[uint32(uint32(uint32(uint32(image * N) + n) * uint32(Ho * Wo)) + at)] = best")
    head = f"def v1_naive({', '.join(name for name, _ in PARAMETERS['layer'])}):"
    return PRELUDE.format(name=variant.name) + "\n".join([head, *indent(lines)]) + "\n"


def _result(a: int, b: int, q: int) -> list[str]:
    """`value` = the convolution's result at row q·row + a, column q·col + b."""
    return [
        "value = bias[n]",
        "for c in range(uint32(0), C):",
        "    plane = uint32(uint32(uint32(image * C) + uint32(c)) * uint32(H * W))",
        "    taps = uint32(uint32(uint32(n * C) + uint32(c)) * uint32(9))",
        "    for r in range(uint32(0), uint32(3)):",
        f"        i = uint32(uint32(uint32(row * {u(q)}) + uint32(r)) + {u(a - 1 & 0xFFFFFFFF)})",
        "        for s in range(uint32(0), uint32(3)):",
        f"            j = uint32(uint32(uint32(col * {u(q)}) + uint32(s)) + {u(b - 1 & 0xFFFFFFFF)})",
        "            if i < H and j < W:",
        "                tap = uint32(uint32(taps + uint32(r)) + uint32(uint32(r) + uint32(uint32(r) + uint32(s))))",
        "                value += x[uint32(plane + uint32(uint32(i * W) + j))] * w[tap]",
    ]
