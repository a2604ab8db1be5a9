"""Which kernel computes a convolution, and how its work is cut into blocks: by measurement, else by the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kernels.sparse import pointwise
from kernels.sparse.predict import H200, predict
from kernels.sparse.shape import ConvShape, UnsupportedShape
from kernels.sparse.v6_memory import CLUSTER_MAX
from kernels.sparse.variant import RUNGS, Variant
from kernels.sparse.variant import variants as default_variants

GRID_LIMITS = (2**31 - 1, 65535, 65535)  # CUDA programming guide, technical specifications, all capabilities
SPLITS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
TYPICAL_SPARSITY = 0.7  # of the inputs of ResNet-50's and DenseNet-169's 3×3 layers: .47 to .86

MEASURED_SMS = 132
# The best v6 kernels of the default set by shape, measured on an H200 (132 SMs), probe of 2026-11-21: median µs of one
# of 20 launches in a CUDA graph, zeros placed at random at the layer's mean sparsity (.7 for stride 2). B, C, H = W, N,
# stride, then tile (`Variant.tile`) and splits of the skipping, then of the dense kernel.
MEASURED = (
    (1, 512, 7, 512, 1, "4x7 o2 w16", 6, "4x7 o1 w16", 3),  # 9.10 11.64
    (1, 256, 14, 256, 1, "2x7 o2 w16", 2, "4x7 o1 w16", 2),  # 7.86 9.29
    (1, 128, 28, 128, 1, "4x7 o2 w16", 2, "4x7 o1 w16", 1),  # 7.73 8.80
    (1, 64, 56, 64, 1, "4x7 o2 w16", 1, "7x7 o2 w8", 2),  # 7.85 9.82
    (1, 128, 56, 32, 1, "4x7 o1 w16", 1, "4x7 o1 w16", 1),  # 8.32 8.88
    (1, 128, 28, 32, 1, "4x7 o1 w16", 4, "4x7 o1 w16", 4),  # 4.19 4.39
    (1, 128, 14, 32, 1, "2x7 o1 w16", 8, "4x7 o1 w16", 8),  # 2.96 3.45
    (1, 128, 7, 32, 1, "1x7 o1 w8", 16, "1x7 o1 w8", 16),  # 2.39 2.46
    (2, 512, 7, 512, 1, "2x7 o2 w16", 2, "4x7 o1 w16", 2),  # 13.52 17.00
    (2, 256, 14, 256, 1, "4x7 o2 w16", 2, "4x7 o1 w16", 1),  # 11.61 16.29
    (2, 128, 28, 128, 1, "4x7 o2 w16", 1, "7x7 o2 w8", 2),  # 11.69 14.73
    (2, 64, 56, 64, 1, "4x7 o2 w8", 1, "7x7 o2 w8", 1),  # 13.44 13.80
    (2, 128, 56, 32, 1, "7x7 o1 w16", 1, "7x7 o1 w8", 2),  # 13.30 15.58
    (2, 128, 28, 32, 1, "4x7 o1 w16", 2, "4x7 o1 w16", 2),  # 5.86 6.28
    (2, 128, 14, 32, 1, "2x7 o1 w16", 4, "4x7 o1 w16", 4),  # 3.48 4.29
    (2, 128, 7, 32, 1, "2x7 o1 w16", 8, "1x7 o1 w8", 8),  # 2.75 2.91
    (4, 512, 7, 512, 1, "4x7 o2 w16", 2, "4x7 o1 w16", 1),  # 19.28 30.54
    (4, 256, 14, 256, 1, "4x7 o2 w16", 1, "7x7 o2 w8", 2),  # 19.05 24.35
    (4, 128, 28, 128, 1, "4x7 o2 w8", 1, "7x7 o2 w8", 1),  # 21.42 23.39
    (4, 64, 56, 64, 1, "4x7 o2 w8", 1, "7x7 o2 w8", 1),  # 26.02 27.07
    (4, 128, 56, 32, 1, "7x7 o1 w16", 1, "7x7 o1 w8", 1),  # 26.17 25.73
    (4, 128, 28, 32, 1, "4x7 o1 w16", 1, "4x7 o1 w16", 1),  # 8.38 9.21
    (4, 128, 14, 32, 1, "2x7 o1 w16", 2, "4x7 o1 w16", 3),  # 4.49 5.37
    (4, 128, 7, 32, 1, "2x7 o1 w16", 4, "1x7 o1 w8", 8),  # 3.19 3.50
    (8, 512, 7, 512, 1, "4x7 o2 w16", 1, "7x7 o2 w8", 2),  # 34.35 43.38
    (8, 256, 14, 256, 1, "4x7 o2 w8", 1, "7x7 o2 w8", 1),  # 34.59 42.45
    (8, 128, 28, 128, 1, "4x7 o2 w8", 1, "7x7 o2 w8", 1),  # 41.88 46.27
    (8, 64, 56, 64, 1, "4x7 o2 w8", 1, "7x7 o2 w8", 1),  # 43.21 53.56
    (8, 128, 56, 32, 1, "7x7 o1 w16", 1, "7x7 o1 w8", 1),  # 51.79 51.43
    (8, 128, 28, 32, 1, "7x7 o1 w16", 1, "7x7 o1 w8", 2),  # 11.77 15.52
    (8, 128, 14, 32, 1, "4x7 o1 w16", 2, "4x7 o1 w16", 2),  # 5.82 6.34
    (8, 128, 7, 32, 1, "2x7 o1 w16", 3, "4x7 o1 w16", 4),  # 3.92 4.28
    (1, 512, 14, 512, 2, "2x7 o2 w16", 3, "2x7 o2 w16", 3),  # 12.55 14.02
    (1, 256, 28, 256, 2, "2x7 o2 w16", 2, "2x7 o2 w16", 2),  # 9.96 10.96
    (1, 128, 56, 128, 2, "2x7 o2 w16", 1, "2x7 o2 w16", 1),  # 9.63 10.55
    (2, 512, 14, 512, 2, "2x7 o2 w16", 2, "2x7 o2 w16", 2),  # 17.01 19.12
    (2, 256, 28, 256, 2, "2x7 o2 w16", 1, "2x7 o2 w16", 1),  # 16.55 18.60
    (2, 128, 56, 128, 2, "2x7 o2 w16", 1, "2x7 o2 w16", 1),  # 18.60 20.56
    (4, 512, 14, 512, 2, "2x7 o2 w16", 1, "2x7 o2 w16", 1),  # 30.59 34.85
    (4, 256, 28, 256, 2, "2x7 o2 w16", 1, "2x7 o2 w16", 1),  # 32.65 36.82
    (4, 128, 56, 128, 2, "2x7 o2 w16", 1, "2x7 o2 w16", 1),  # 36.73 40.83
    (8, 512, 14, 512, 2, "2x7 o2 w16", 1, "2x7 o2 w16", 1),  # 60.64 68.92
    (8, 256, 28, 256, 2, "2x7 o2 w16", 1, "2x7 o2 w16", 1),  # 64.84 73.18
    (8, 128, 56, 128, 2, "2x7 o2 w16", 1, "2x7 o2 w16", 1),  # 64.19 71.25
)


@dataclass(frozen=True)
class Plan:
    """A kernel and its launch for one shape."""

    variant: Variant
    shape: ConvShape
    grid: tuple[int, int, int]
    """Blocks in x, y, z."""
    block: int
    """Threads of a block."""
    splits: int
    """Blocks that share an output tile, each with its own input channels."""
    channels_per_warp: int
    """Input channels that a warp goes through, one after the other."""
    slot_floats: int
    """Floats of workspace for the splits' partial sums; 0 without splits."""
    tickets: int
    """Counters of workspace, zero before the first launch; they wrap to zero by themselves."""
    cluster: tuple[int, int, int] = (1, 1, 1)
    """Blocks of a thread-block cluster in x, y, z."""
    overlap: bool = False
    """Whether the launch may begin before the one ahead of it has ended."""


def plan(
    shape: ConvShape,
    sm_count: int,
    *,
    skip: bool = True,
    rung: str | None = None,
    variants: Sequence[Variant | pointwise.Variant] | None = None,
) -> Plan:
    """The launch for a shape on a GPU of `sm_count` multiprocessors, of the given kernels (default: the default set).

    rung: a step of the ladder; None is the last one: v6_fused, for 1×1 the pointwise kernels, which skip nothing. A 3×3
    shape takes the kernel and the splits that were fastest where the nearest shape was measured (`MEASURED`), v3 what
    its model calls fastest (`predict`), 1×1 what its own does (`pointwise.clocks`). Raises UnsupportedShape.
    """
    _check(shape)
    given = default_variants() if variants is None else tuple(variants)
    if rung is None and shape.k == 1:
        chosen = next(pointwise.candidates(shape, sm_count, [v for v in given if v.rung == "pointwise"]), None)
    else:
        wanted = (rung or "v6_fused", skip, shape.k, shape.stride)
        fitting = [v for v in given if (v.rung, v.skip, v.k, v.stride) == wanted]
        whole = [v for v in fitting if _padded(shape) % (32 * v.outputs_per_lane) == 0]
        # v6 can also sum channels that there are not, whose weights are zero: a last resort.
        fitting = whole or [v for v in fitting if v.rung == "v6_fused"]
        chosen = _of(fitting, shape, sm_count) if fitting else None
    if chosen is None:
        raise UnsupportedShape(
            f"none of the {len(given)} kernels given is a {rung or 'last rung'} with skip={skip} for k = {shape.k}, "
            f"stride = {shape.stride} and N = {shape.N}: build one, or leave this layer to cuDNN."
        )
    if any(size > limit for size, limit in zip(chosen.grid, GRID_LIMITS, strict=True)):
        raise UnsupportedShape(f"{shape} needs a grid of {chosen.grid} blocks, CUDA allows {GRID_LIMITS}: split it.")
    return chosen


def _of(fitting: Sequence[Variant], shape: ConvShape, sm_count: int) -> Plan:
    """The best plan of one rung's kernels, which all compute the shape."""
    rung = fitting[0].rung
    if rung in ("v1_naive", "v2_dense"):
        return cut(fitting[0], shape, 1)
    if rung == "v6_fused":
        nearest = _nearest(fitting, shape, sm_count)
        if nearest is not None:
            return nearest
    machine = replace(H200, sm_count=sm_count)
    candidates = [cut(v, shape, s) for v in fitting for s in _splits(v, shape)]
    return min(candidates, key=lambda c: predict(c, shape, TYPICAL_SPARSITY, machine).seconds)


def _nearest(fitting: Sequence[Variant], shape: ConvShape, sm_count: int) -> Plan | None:
    """The kernel of the nearest measured shape, by the ratios of C·k², outputs an image plane and N, that is given.

    Its splits are those that make about as many blocks a multiprocessor as were fastest there. None where no measured
    kernel is given.
    """
    tiles = {v.tile: v for v in fitting}
    skip, best = fitting[0].skip, None
    for b, c, h, n, stride, *choices in MEASURED:
        tile, splits = choices[:2] if skip else choices[2:]
        if stride != shape.stride or tile not in tiles:
            continue
        there = ConvShape(b, c, h, h, n, stride=stride)
        far = math.dist(_place(shape), _place(there)) if there != shape else -1.0  # some sizes lie in one place
        if best is None or far < best[0]:
            best = far, tiles[tile], cut(tiles[tile], there, splits)
    if best is None:
        return None
    _, variant, fastest = best
    if fastest.shape == shape and sm_count == MEASURED_SMS:
        return fastest
    blocks = math.prod(fastest.grid) * sm_count / MEASURED_SMS
    plans = [cut(variant, shape, splits) for splits in _splits(variant, shape)]
    return min(plans, key=lambda p: abs(math.log(math.prod(p.grid) / blocks)))


def _place(shape: ConvShape) -> tuple[float, float, float]:
    """Where a shape lies among others: distances are ratios of sizes."""
    outputs = shape.B * shape.H_out * shape.W_out
    return math.log(shape.C * shape.k**2), math.log(outputs), math.log(shape.N)


def _check(shape: ConvShape) -> None:
    if shape.pad != shape.k // 2:
        raise UnsupportedShape(
            f"pad = {shape.pad} with k = {shape.k}: the kernels pad by k // 2; leave this layer to cuDNN."
        )
    sizes = {
        "input": shape.B * shape.C * shape.H * shape.W,
        "output": shape.B * shape.N * shape.H_out * shape.W_out,
        "weights": shape.C * shape.k**2 * _padded(shape),
    }
    for name, elements in sizes.items():
        if elements >= 2**31:
            raise UnsupportedShape(
                f"the {name} of {shape} has {elements} elements: the kernels index fewer than 2^31; split the batch."
            )


def _padded(shape: ConvShape) -> int:
    """Output channels as packed: rounded up to 32. Two outputs a lane need an even number of 32s."""
    return -(-shape.N // 32) * 32


def _splits(variant: Variant, shape: ConvShape) -> Iterator[int]:
    """Splits in which every block has channels, one of each number of steps; no more than a cluster may have."""
    seen = set()
    for splits in (splits for splits in SPLITS if splits <= CLUSTER_MAX or variant.reduce != "cluster"):
        steps = -(-shape.C // (splits * variant.sharers))
        if steps not in seen and (splits - 1) * variant.sharers < shape.C:
            seen.add(steps)
            yield splits


def cut(variant: Variant | pointwise.Variant, shape: ConvShape, splits: int) -> Plan:
    """The plan of a kernel with so many splits: what `plan` chooses among, and what a tuner times."""
    if variant.rung == "pointwise":
        return pointwise.cut(variant, shape, splits)
    grid = RUNGS[variant.rung].grid(variant, shape, splits)
    # A cluster needs no workspace, but before capability 9.0 its kernel's code is that of `ticket`.
    shared = math.prod(grid) // splits if splits > 1 else 0
    share = splits * variant.sharers if variant.rung in ("v3_ballot", "v6_fused") else 1
    slots = 1 if variant.reduce == "atomic" else splits
    return Plan(
        variant=variant,
        shape=shape,
        grid=grid,
        block=variant.threads,
        splits=splits,
        channels_per_warp=-(-shape.C // share),
        slot_floats=shared * slots * 32 * variant.outputs_per_lane * variant.cells,
        tickets=shared,
        cluster=(1, 1, splits) if variant.reduce == "cluster" else (1, 1, 1),
        overlap=variant.rung == "v6_fused",
    )
