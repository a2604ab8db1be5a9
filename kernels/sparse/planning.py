"""Which kernel computes a convolution, and how its work is cut into blocks: by measurement, else by the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kernels.sparse.predict import H200, predict
from kernels.sparse.shape import ConvShape, UnsupportedShape
from kernels.sparse.variant import RUNGS, Variant
from kernels.sparse.variant import variants as default_variants

GRID_LIMITS = (2**31 - 1, 65535, 65535)  # CUDA programming guide, technical specifications, all capabilities
SPLITS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
TYPICAL_SPARSITY = 0.7  # of the inputs of ResNet-50's and DenseNet-169's 3×3 layers: .47 to .86

# The best kernels of the default set by shape, measured on an H200 (132 SMs), probe of 2026-11-21: median µs of one
# of 20 launches in a CUDA graph, zeros placed at random at the layer's mean sparsity; before the reader's fence was
# added. B, C, H = W, N, then tile (`Variant.tile`) and splits of the skipping, then of the dense kernel.
MEASURED_SMS = 132
MEASURED = (
    (1, 64, 56, 64, "7x7 o1 w8", 1, "7x7 o1 w8", 1),  # 9.48 9.27
    (1, 128, 28, 128, "7x7 o1 w8", 4, "7x7 o1 w8", 2),  # 10.25 10.83
    (1, 256, 14, 256, "7x7 o1 w8", 8, "7x7 o1 w8", 4),  # 10.35 10.94
    (1, 512, 7, 512, "4x7 o1 w8", 8, "7x7 o1 w8", 8),  # 10.51 11.29
    (1, 128, 56, 32, "4x7 o1 w8", 1, "7x7 o1 w8", 2),  # 10.53 10.83
    (1, 128, 28, 32, "4x7 o1 w8", 4, "2x7 o1 w8", 4),  # 5.88 6.08
    (1, 128, 14, 32, "2x7 o1 w8", 8, "2x7 o1 w8", 8),  # 4.08 4.21
    (1, 128, 7, 32, "1x7 o1 w8", 16, "2x7 o1 w8", 8),  # 3.66 4.06
    (8, 64, 56, 64, "4x7 o2 w8", 1, "4x7 o2 w8", 1),  # 48.19 53.04
    (8, 128, 28, 128, "4x7 o2 w8", 1, "7x7 o2 w8", 1),  # 44.93 48.57
    (8, 256, 14, 256, "4x7 o2 w8", 1, "7x7 o2 w8", 1),  # 40.09 46.06
    (8, 512, 7, 512, "4x7 o2 w8", 2, "7x7 o2 w8", 2),  # 40.40 48.09
    (8, 128, 56, 32, "7x7 o1 w8", 1, "7x7 o1 w8", 1),  # 48.43 51.18
    (8, 128, 28, 32, "7x7 o1 w8", 1, "7x7 o1 w8", 1),  # 15.05 15.50
    (8, 128, 14, 32, "4x7 o1 w8", 4, "7x7 o1 w8", 4),  # 7.24 7.72
    (8, 128, 7, 32, "2x7 o1 w8", 4, "2x7 o1 w8", 4),  # 4.72 4.96
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
    rung: str = "v3_ballot",
    variants: Sequence[Variant] | None = None,
) -> Plan:
    """The launch for a shape on a GPU of `sm_count` multiprocessors, of the given kernels (default: the default set).

    A shape that was measured on as many multiprocessors takes its fastest kernel; any other the one that the model
    (`predict`) calls fastest: on the measured shapes its choice was at most 10 % slower than the fastest timed. Raises
    UnsupportedShape.
    """
    _check(shape)
    given = default_variants() if variants is None else tuple(variants)
    fitting = [v for v in given if (v.rung, v.skip, v.k, v.stride) == (rung, skip, shape.k, shape.stride)]
    fitting = [v for v in fitting if _padded(shape) % (32 * v.outputs_per_lane) == 0]
    if not fitting:
        raise UnsupportedShape(
            f"none of the {len(given)} kernels given is a {rung} with skip={skip} for k = {shape.k}, stride = "
            f"{shape.stride} and N = {shape.N}: build one, or leave this layer to cuDNN."
        )
    if rung != "v3_ballot":
        chosen = cut(fitting[0], shape, 1)
    else:
        machine = replace(H200, sm_count=sm_count)
        candidates = [cut(v, shape, s) for v in fitting for s in _splits(v, shape)]
        chosen = _measured(shape, sm_count, skip, candidates) or min(
            candidates, key=lambda c: predict(c, shape, TYPICAL_SPARSITY, machine).seconds
        )
    if any(size > limit for size, limit in zip(chosen.grid, GRID_LIMITS, strict=True)):
        raise UnsupportedShape(f"{shape} needs a grid of {chosen.grid} blocks, CUDA allows {GRID_LIMITS}: split it.")
    return chosen


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
    """Splits in which every block has channels, one of each number of steps."""
    seen = set()
    for splits in SPLITS:
        steps = -(-shape.C // (splits * variant.warps))
        if steps not in seen and (splits - 1) * variant.warps < shape.C:
            seen.add(steps)
            yield splits


def cut(variant: Variant, shape: ConvShape, splits: int) -> Plan:
    """The plan of a kernel with so many splits: what `plan` chooses among, and what a tuner times."""
    grid = RUNGS[variant.rung].grid(variant, shape, splits)
    clustered = variant.reduce == "cluster" and splits > 1
    groups = math.prod(grid) // splits if splits > 1 and not clustered else 0
    share = splits * variant.warps if variant.rung in ("v3_ballot", "v6_fused") else 1
    slots = 1 if variant.reduce == "atomic" else splits
    return Plan(
        variant=variant,
        shape=shape,
        grid=grid,
        block=variant.threads,
        splits=splits,
        channels_per_warp=-(-shape.C // share),
        slot_floats=groups * slots * 32 * variant.outputs_per_lane * variant.th * variant.tw,
        tickets=groups,
        cluster=(1, 1, splits) if clustered else (1, 1, 1),
        overlap=variant.rung == "v6_fused" and variant.reduce == "cluster",
    )


def _measured(shape: ConvShape, sm_count: int, skip: bool, candidates: Sequence[Plan]) -> Plan | None:
    """The candidate that was fastest when this very shape was measured."""
    if sm_count != MEASURED_SMS or shape.H != shape.W:
        return None
    for b, c, h, n, *choices in MEASURED:
        if shape == ConvShape(b, c, h, h, n):
            tile, splits = choices[:2] if skip else choices[2:]
            return next((p for p in candidates if (p.variant.tile, p.splits) == (tile, splits)), None)
    return None
