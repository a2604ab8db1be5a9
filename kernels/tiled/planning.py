"""Which kernels compute a pair of layers, and how the work is cut into blocks; what is outside the envelope is refused.

Fusing costs halos: a block computes the first layer for (TH + 2)·(TW + 2) positions instead of TH·TW (halo ratio h),
and once for each block of COB output channels. With A and B the layers' multiply-adds, fused ÷ plain work is

    (A·h·ceil(C_out / COB) + B) / (A + B)

A pair is worth fusing up to 1.15 (`WORTH`): the stems of VGG-16 (1.01) and Darknet-19 (1.04), not VGG-16's second
block (1.51).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kernels.tiled.mma_variant import LEAST_SHARED, SHARED, MmaVariant
from kernels.tiled.shape import PairShape, UnsupportedPair
from kernels.tiled.variant import RUNGS, Variant

CHANNELS = {"C_in": 16, "C_mid": 128, "C_out": 128}
MAX_ELEMENTS = 2**31  # of a tensor: the launcher's limit for 32-bit indices
GRID_LIMITS = (2**31 - 1, 65535, 65535)  # CUDA programming guide, technical specifications, all capabilities
WORTH = 1.15
# Tiles, channels of a block and chunks, the least redundant first: the first that fits shared memory is taken.
TILES = ((16, 16), (8, 16), (8, 8))
CHUNKS = (8, 4)
MMA_TILES = ((4, 4), (4, 2), (2, 2))  # warps and rows of each
TYPES = {"v5_pair_mma": ("tf32", "bf16")}  # what a rung computes in; the others in float32


@dataclass(frozen=True)
class Step:
    """One launch of a plan."""

    variant: Variant | MmaVariant
    layer: str
    """What it computes: `pair`, or its `first` or `second` layer."""
    grid: tuple[int, int, int]
    """Blocks: tiles, groups of output channels, images."""
    tiles_w: int
    """Tiles side by side."""

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.variant.threads


@dataclass(frozen=True)
class Plan:
    """The launches that compute a pair, in order: one fused, or two with what lies between the layers in memory."""

    shape: PairShape
    steps: tuple[Step, ...]

    @property
    def fused(self) -> bool:
        """Whether what lies between the layers never leaves the chip."""
        return len(self.steps) == 1

    @property
    def middle_elements(self) -> int:
        """Numbers that must be given room between the layers; 0 where they are fused."""
        shape = self.shape
        return 0 if self.fused else shape.N * shape.C_mid * shape.H_mid * shape.W_mid

    @property
    def redundancy(self) -> float:
        """Fused ÷ plain multiply-adds, see the module; 1 where nothing is fused."""
        if not self.fused:
            return 1.0
        variant, (first, second) = self.steps[0].variant, self.shape.macs
        mh, mw = variant.middle
        halo = mh * mw / (variant.th * variant.tw)
        return (first * halo * self.steps[0].grid[1] + second) / (first + second)


def plan(
    shape: PairShape,
    *,
    rung: str = "v4_pair_reg",
    dtype: str | None = None,
    fused: bool = True,
    capability: str = "9.0",
) -> Plan:
    """The launches for a pair. fused=False: the dense twin of v3 and up, two launches of the same tile code.

    dtype: tf32 or bf16 for v5_pair_mma, f32 for the others (None: the first of these). capability: of the GPU, which
    says how much shared memory a block of v5 may have.

    Raises UnsupportedPair, naming the term that binds, for what is outside the family's envelope.
    """
    check(shape)
    rungs = (*RUNGS, *TYPES)
    if rung not in rungs:
        raise UnsupportedPair(f"rung = {rung!r}: one of {', '.join(rungs)} is allowed.")
    types = TYPES.get(rung, ("f32",))
    if dtype not in (None, *types):
        raise UnsupportedPair(f"dtype = {dtype!r}: {rung} computes in {' or '.join(types)}; ask for that.")
    if rung in TYPES:
        return cut(shape, _mma(shape, dtype or types[0], capability), fused=fused)
    if rung in ("v1_naive", "v2_tile"):
        first, second = (_layer(shape, rung, layer) for layer in ("first", "second"))
        return Plan(shape, (_step(shape, first, "first"), _step(shape, second, "second")))
    return cut(shape, _pair(shape, rung), fused=fused)


def cut(shape: PairShape, variant: Variant | MmaVariant, *, fused: bool = True) -> Plan:
    """The plan of a given kernel of both layers, or of its dense twin.

    Raises UnsupportedPair where the kernel is not for this pair.
    """
    fixed = {"pool_mid": shape.pool_mid, "pool_out": shape.pool_out, "activation": shape.activation, "part": "pair"}
    for field, wanted in fixed.items():
        if getattr(variant, field) != wanted:
            raise UnsupportedPair(f"{variant.name}: {field} must be {wanted!r} for {shape}; take another kernel.")
    if shape.C_in > variant.cin:
        raise UnsupportedPair(
            f"{variant.name} takes {variant.cin} input channels, not {shape.C_in}; take another kernel."
        )
    if fused:
        return Plan(shape, (_step(shape, variant, "pair"),))
    first, second = variant.twin
    return Plan(shape, (_step(shape, first, "first"), _step(shape, second, "second")))


def worth(shape: PairShape) -> bool:
    """Whether fusing a pair of the envelope is expected to pay: little of its work is done twice."""
    return plan(shape).redundancy <= WORTH


def check(shape: PairShape) -> None:
    """Raises UnsupportedPair for channels or sizes that no kernel of the family takes."""
    for field, most in CHANNELS.items():
        if getattr(shape, field) > most:
            raise UnsupportedPair(
                f"{field} = {getattr(shape, field)}: the fused kernels take up to {most}; leave this pair to torch."
            )
    sizes = {
        "input": shape.N * shape.C_in * shape.H * shape.W,
        "middle": shape.N * shape.C_mid * shape.H_mid * shape.W_mid,
        "output": shape.N * shape.C_out * shape.H_out * shape.W_out,
    }
    for name in ("input", "output"):
        if sizes[name] >= MAX_ELEMENTS:
            raise UnsupportedPair(
                f"the {name} has {sizes[name]} elements: the kernels index fewer than 2^31; split the batch or the "
                "image."
            )


def _layer(shape: PairShape, rung: str, layer: str) -> Variant:
    """The kernel of v1 or v2 for one layer."""
    pool, n = (shape.pool_mid, shape.C_mid) if layer == "first" else (shape.pool_out, shape.C_out)
    return Variant(rung, "layer", cob=64 if n > 32 else 32, pool_out=pool, activation=shape.activation)


def _pair(shape: PairShape, rung: str) -> Variant:
    """The fused kernel of a rung with the least redundancy that fits shared memory."""
    cin = next(most for most in (3, 4, 8, 16) if most >= shape.C_in)
    cobs = (64, 32) if shape.C_out > 32 else (32,)
    failure = None
    for (th, tw), cob, chunk in ((tile, cob, chunk) for tile in TILES for cob in cobs for chunk in CHUNKS):
        for buffers in (2, 1):
            try:
                return Variant(
                    rung, th=th, tw=tw, cin=cin, chunk=chunk, cob=cob, buffers=buffers, pool_mid=shape.pool_mid,
                    pool_out=shape.pool_out, activation=shape.activation,
                )  # fmt: skip
            except ValueError as error:
                failure = error
    raise UnsupportedPair(f"no tile of {shape} fits shared memory: {failure}")


def _mma(shape: PairShape, dtype: str, capability: str) -> MmaVariant:
    """The v5 kernel with the largest tile that fits the shared memory of a capability."""
    if not re.fullmatch(r"\d+\.\d", capability) or float(capability) < 8:
        raise UnsupportedPair(f"capability {capability}: v5_pair_mma needs 8.0 or higher; take v4_pair_reg.")
    cin, mid, cob = (
        next(most for most in sizes if most >= wanted)
        for sizes, wanted in (
            ((4, 8, 16), shape.C_in), ((32, 64, 128), shape.C_mid), ((16, 32, 64), min(shape.C_out, 64)),
        )
    )  # fmt: skip
    tiles = (
        MmaVariant(
            dtype, warps=warps, rows=rows, cin=cin, mid=mid, cob=cob, pool_mid=shape.pool_mid,
            pool_out=shape.pool_out, activation=shape.activation,
        )
        for warps, rows in MMA_TILES
    )  # fmt: skip
    limit = SHARED.get(capability, LEAST_SHARED)
    return next(variant for variant in tiles if variant.shared_bytes <= limit)  # the smallest fits any of them


def _step(shape: PairShape, variant: Variant | MmaVariant, layer: str) -> Step:
    """The launch that computes `layer` with a kernel."""
    first = layer == "first"
    rows, cols = (shape.H, shape.W) if first and variant.part == "layer" else (shape.H_mid, shape.W_mid)
    n = shape.C_mid if first else shape.C_out
    tiles_w = -(-cols // variant.tw)
    # The first launch of a twin goes through all its channels in one block.
    grid = (tiles_w * -(-rows // variant.th), 1 if variant.part == "first" else -(-n // variant.cob), shape.N)
    if variant.rung == "v1_naive":
        q = 2 if variant.pool_out else 1
        grid = (-(-(rows // q) * (cols // q) // variant.threads), n, shape.N)
    if any(size > limit for size, limit in zip(grid, GRID_LIMITS, strict=True)):
        raise UnsupportedPair(f"{shape} needs a grid of {grid} blocks, CUDA allows {GRID_LIMITS}; split the batch.")
    return Step(variant, layer, grid, tiles_w)
