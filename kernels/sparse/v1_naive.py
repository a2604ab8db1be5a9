"""v1: a thread computes one output, with every operand from global memory. The first GPU rung: faster than a CPU's one
loop because all outputs are computed at once; two loads for each multiply-add.
"""

from __future__ import annotations

from kernels.sparse.emit import HEAD, u

PARAMETERS = (
    *((name, "f32*") for name in ("x", "w", "y")),
    *((name, "u32") for name in ("C", "H", "W", "Np", "x_batch", "y_batch")),
)

# A channel's products are summed apart: one float32 chain of all 4608 terms would lose digits.
_BODY = """\
def v1_naive(x, w, y, C, H, W, Np, x_batch, y_batch):
    p = uint32(uint32(uint32(cuda.blockIdx.x) * {threads}) + uint32(cuda.threadIdx.x))
    n = uint32(cuda.blockIdx.y)
    image = uint32(cuda.blockIdx.z)
    Ho = uint32(uint32(H + {less}) // {stride})
    Wo = uint32(uint32(W + {less}) // {stride})
    pixels = uint32(Ho * Wo)
    if p < pixels:
        a = uint32(p // Wo)
        b = uint32(p - uint32(a * Wo))
        total = float32(0)
        for channel in range(uint32(0), C):
            c = uint32(channel)
            plane = uint32(uint32(image * x_batch) + uint32(uint32(c * H) * W))
            at = uint32(uint32(uint32(c * {k2}) * Np) + n)
            part = float32(0)
            for r in range({k}):
                for s in range({k}):
                    row = uint32(uint32(a * {stride}) + uint32(r))
                    col = uint32(uint32(b * {stride}) + uint32(s))
                    if row >= {pad} and row < uint32(H + {pad}) and col >= {pad} and col < uint32(W + {pad}):
                        pixel = uint32(uint32(uint32(row - {pad}) * W) + uint32(col - {pad}))
                        part += x[uint32(plane + pixel)] * w[at]
                    at = uint32(at + Np)
            total += part
        y[uint32(uint32(uint32(image * y_batch) + uint32(n * pixels)) + p)] = total
"""


def source(variant) -> str:
    """Python source of the kernel `v1_naive` for the variant."""
    sizes = {
        "threads": u(variant.threads),
        "stride": u(variant.stride),
        "less": u(variant.stride - 1),
        "k": u(variant.k),
        "k2": u(variant.k**2),
        "pad": u(variant.k // 2),
    }
    return HEAD.format(name=variant.name) + _BODY.format(**sizes)


def grid(variant, shape, splits: int) -> tuple[int, int, int]:
    """Blocks: (pixels of an image by threads, output channels, images)."""
    return -(-shape.H_out * shape.W_out // variant.threads), shape.N, shape.B
