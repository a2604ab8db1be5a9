"""Which pointwise (1×1) kernels there are, and how they are cut into blocks; `pointwise_kernel` writes their source.

Read while a campaign is planned: neither torch nor numba is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.build import KernelSource
from kernels.sparse import pointwise_kernel, pointwise_reduce
from kernels.sparse.pointwise_reduce import widths, words_a_thread
from kernels.sparse.shape import ConvShape, UnsupportedShape

if TYPE_CHECKING:
    from kernels.sparse.planning import Plan

SPLITS = range(1, 9)  # a cluster of more blocks than 8 is not portable

# Clocks of an H200 (132 multiprocessors, 1.98 GHz) that `clocks` assumes: a model, not measurements of these kernels.
LAUNCH = 2600  # a node of a CUDA graph that fills the output: 1.3 µs
FILL = 900  # indices, then weights and inputs from L2, then from shared memory
SHARE = {"cluster": 700, "ticket": 2000}  # sums to another block and back: without a fence, and with two and an atomic
L2_BYTES = 21  # a clock and multiprocessor, all reading: 5.5 TB/s
WORD = 12  # instructions for each 16-byte word that a thread moves from global to shared memory
REDUCES = ("cluster", "ticket")

_NAME = re.compile(
    r"pointwise_s(?P<stride>\d)_t(?P<n>\d+)x(?P<m>\d+)_l(?P<lanes_n>\d+)x(?P<lanes_m>\d+)"
    r"_w(?P<warps_n>\d+)x(?P<warps_m>\d+)x(?P<groups>\d+)_c(?P<chunk>\d+)_(?P<reduce>[a-z]+)"
)


@dataclass(frozen=True)
class Variant:
    """One compiled kernel. Raises ValueError, naming the field, for a value that no kernel can be generated for."""

    stride: int = 1
    n: int = 8
    """Output channels of a thread."""
    m: int = 7
    """Output positions of a thread: 7 divides the widths of all layers of the networks."""
    lanes_m: int = 4
    """Lanes of a warp side by side in the positions; 32 // lanes_m are in the channels."""
    warps_n: int = 1
    """Warps of a group in the output channels."""
    warps_m: int = 1
    """Warps of a group in the positions."""
    groups: int = 4
    """Groups of warps with the same outputs, each with its own input channels."""
    chunk: int = 8
    """Input channels that a group fetches at a time."""
    reduce: str = "cluster"
    """How blocks that share a tile add up: `cluster` sends sums to each other's shared memory (its code is that of
    `ticket` before capability 9.0), `ticket` lets the last block read slots of global memory."""

    rung = "pointwise"
    k = 1
    skip = False
    th = tw = rows = cells = outputs_per_lane = 1
    """What `arguments` cuts other kernels' work by; this one cuts images into runs of `tile_m` outputs by itself."""

    def __post_init__(self) -> None:
        for field, allowed in (
            ("stride", (1, 2)), ("n", (4, 8, 12, 16)), ("lanes_m", (1, 2, 4, 8, 16, 32)), ("reduce", REDUCES),
        ):  # fmt: skip
            self._check(field, getattr(self, field) in allowed, f"one of {', '.join(map(str, allowed))}")
        for field, most in (("m", 16), ("warps_n", 8), ("warps_m", 8), ("groups", 32), ("chunk", 32)):
            self._check(field, 1 <= getattr(self, field) <= most, f"an integer from 1 to {most}")
        self._check("chunk", self.chunk % 2 == 0, "an even number")
        self._check("m", self.m * self.lanes_m % 4 == 0, "a number that makes m * lanes_m a multiple of 4")
        self._check("groups", self.threads <= 1024, "at most 32 warps in all")
        whole = self.reduce == "ticket" or len(pointwise_reduce.phases(self, "9.0")) == 1
        self._check("groups", whole, "fewer, or a smaller tile, so that all sums of a block fit shared memory")

    def _check(self, field: str, good: bool, allowed: str) -> None:
        if not good:
            raise ValueError(f"pointwise variant: {field} = {getattr(self, field)!r}: {allowed} is allowed.")

    @property
    def lanes_n(self) -> int:
        """Lanes of a warp side by side in the output channels."""
        return 32 // self.lanes_m

    @property
    def tile_n(self) -> int:
        """Output channels of a block."""
        return self.n * self.lanes_n * self.warps_n

    @property
    def tile_m(self) -> int:
        """Output positions of a block."""
        return self.m * self.lanes_m * self.warps_m

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps_n * self.warps_m * self.groups

    @property
    def tile(self) -> str:
        """Outputs of a block and its groups, for people and short tables: "64x28 g4"."""
        return f"{self.tile_n}x{self.tile_m} g{self.groups}"

    @property
    def name(self) -> str:
        """A file name without spaces; `parse` reads it back."""
        return (
            f"pointwise_s{self.stride}_t{self.n}x{self.m}_l{self.lanes_n}x{self.lanes_m}"
            f"_w{self.warps_n}x{self.warps_m}x{self.groups}_c{self.chunk}_{self.reduce}"
        )

    @classmethod
    def parse(cls, name: str) -> Variant:
        """The variant of a name. Raises ValueError if it is not one."""
        match = _NAME.fullmatch(name)
        fields = {
            key: int(text) if text.isdigit() else text for key, text in (match.groupdict() if match else {}).items()
        }
        lanes_n = fields.pop("lanes_n", None)
        if match is None or lanes_n * fields["lanes_m"] != 32:
            raise ValueError(f"{name!r} is no variant of the pointwise kernels: a name looks like {cls().name}.")
        return cls(**fields)

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """(name, kind) of the kernel's arguments, in order."""
        return pointwise_kernel.PARAMETERS

    @property
    def twin(self) -> Variant:
        """Itself: it skips nothing."""
        return self

    def source(self, capability: str | None = None) -> KernelSource:
        """The generated kernel, for `kernels.build.build` or the simulator.

        capability: what it will be built for, such as "9.0": it decides whether there are clusters, and how much shared
        memory. None is the simulator, which has neither clusters nor launches that overlap.
        """
        return KernelSource(
            family="sparse",
            variant=self.name,
            entry="pointwise",
            python_source=pointwise_kernel.source(self, capability),
            parameters=self.parameters,
            threads=self.threads,
            dynamic_shared_bytes=4 * pointwise_reduce.shared_floats(self, capability),
        )


def cut(variant: Variant, shape: ConvShape, splits: int) -> Plan:
    """The plan of a kernel with so many splits. Raises UnsupportedShape for another filter or stride."""
    from kernels.sparse.planning import Plan  # here: planning chooses among these plans as well

    if (shape.k, shape.stride, shape.pad) != (1, variant.stride, 0):
        raise UnsupportedShape(
            f"{variant.name} computes k = 1, stride = {variant.stride}, pad = 0, not {shape}: take another kernel."
        )
    tiles = shape.B * -(-shape.H_out * shape.W_out // variant.tile_m)
    grid = (tiles, -(-shape.N // variant.tile_n), splits)
    clustered = variant.reduce != "ticket" and splits > 1
    places = grid[0] * grid[1] if splits > 1 else 0
    return Plan(
        variant=variant,
        shape=shape,
        grid=grid,
        block=variant.threads,
        splits=splits,
        channels_per_warp=-(-shape.C // (splits * variant.groups * variant.chunk)) * variant.chunk,
        slot_floats=places * splits * variant.tile_n * variant.tile_m,
        tickets=places,
        cluster=(1, 1, splits) if clustered else (1, 1, 1),
        overlap=variant.reduce != "ticket",
    )


def variants() -> tuple[Variant, ...]:
    """The default build set: large images and batches, the rest, and stride 2.

    Of 15 kernels timed on an H200 at batch 1 and 8 on 34 shapes of ResNet-50 and DenseNet-169, these are within 6 % of
    the best of all, by geometric mean.
    """
    return (
        Variant(warps_n=2, warps_m=2, groups=1),
        Variant(chunk=4),
        Variant(stride=2),
    )


def candidates(shape: ConvShape, sm_count: int, given: Sequence[Variant] | None = None) -> Iterator[Plan]:
    """The plans worth timing for a shape, of the given kernels (default: the default set), best by `clocks` first.

    Each split has channels, and no two plans of a kernel have warps of equally many steps. None for another filter.
    """
    found = []
    for variant in variants() if given is None else given:
        if (shape.k, shape.stride, shape.pad) != (1, variant.stride, 0):
            continue
        steps = set()
        for splits in SPLITS:
            plan = cut(variant, shape, splits)
            if plan.channels_per_warp in steps or (splits - 1) * variant.groups * variant.chunk >= shape.C:
                continue
            steps.add(plan.channels_per_warp)
            found.append(plan)
    yield from sorted(found, key=lambda plan: clocks(plan, sm_count))


def clocks(plan: Plan, sm_count: int) -> float:
    """Modelled clocks of a launch: the busiest multiprocessor's blocks one after the other, and what comes once.

    A block takes what is longest of: its instructions, one a clock on each of 4 schedulers; its words from shared
    memory, 32 floats a clock; its operands from L2. See `pointwise_kernel` for what a warp does.
    """
    v, (tiles, columns, splits) = plan.variant, plan.grid
    warps, group_threads = v.threads // 32, v.threads // v.groups
    moved = len(words_a_thread(v.chunk * v.tile_n, group_threads)) + len(
        words_a_thread(v.chunk * v.tile_m, group_threads)
    )
    a_channel = v.n * v.m + v.n // 4 + len(widths(v.m)) + moved * WORD / v.chunk
    issue = plan.channels_per_warp * warps * a_channel / 4
    shared = plan.channels_per_warp * warps * (v.n + v.m)
    l2 = plan.channels_per_warp * v.groups * (v.tile_n + v.tile_m) * 4 / L2_BYTES
    groups = 2 * warps * v.n * v.m
    rounds = -(-tiles * columns * splits // sm_count)
    return LAUNCH + FILL + rounds * (max(issue, shared, l2) + groups) + (SHARE[v.reduce] if splits > 1 else 0)
