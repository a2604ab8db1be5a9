"""What is fixed when a kernel of the sparse family is compiled; everything else is a size at run time.

Read while a campaign is planned: neither torch nor numba is loaded.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from kernels.build import KernelSource
from kernels.sparse import pointwise, v1_naive, v2_dense, v3_ballot, v6_fused, v6_memory

RUNGS = {"v1_naive": v1_naive, "v2_dense": v2_dense, "v3_ballot": v3_ballot, "v6_fused": v6_fused}
FETCHES = {
    "v1_naive": ("direct",),
    "v2_dense": ("direct",),
    "v3_ballot": ("branch", "row"),
    "v6_fused": ("row",),
}
REDUCES = {"v3_ballot": ("ticket",), "v6_fused": ("cluster", "ticket", "atomic")}

_NAME = re.compile(
    r"(?P<rung>v\d_[a-z]+)_k(?P<k>\d)s(?P<stride>\d)_t(?P<th>\d+)x(?P<tw>\d+)(p(?P<stack>\d+))?_o(?P<outputs_per_lane>\d+)_w(?P<warps>\d+)"
    r"_(?P<skip>skip|dense)_(?P<fetch>[a-z]+)(_m(?P<min_taps>\d+))?(_(?P<reduce>cluster|ticket|atomic))?(_d(?P<depth>\d))?(?P<prologue>_pre)?"
)


@dataclass(frozen=True)
class Variant:
    """One compiled kernel. Raises ValueError, naming the field, for a value that no kernel can be generated for."""

    rung: str
    """Step of the ladder whose generator writes it: v1_naive, v2_dense, v3_ballot or v6_fused."""
    k: int = 3
    """Filter size; the padding is k // 2."""
    stride: int = 1
    th: int = 7
    """Rows of the output tile."""
    tw: int = 7
    """Columns of the output tile."""
    stack: int = 1
    """Tiles that a block computes, one above the other (v6_fused): its warps are divided among them, and those that go
    through the same input channels read the same weights, of which one read reaches L2."""
    outputs_per_lane: int = 1
    """Output channels that a lane sums: a block covers 32 times as many."""
    warps: int = 8
    """Warps of a block; in v3 each has its own input channels."""
    skip: bool = True
    """False is the dense twin: the same code without the tests."""
    fetch: str = "row"
    """Whence a window value is read: from shared memory in its own `branch`, or whole rows one `row` ahead (faster, but
    for the smallest tile), or by v1 and v2 `direct`ly from global memory."""
    min_taps: int = 4
    """Multiply-adds of a position from which on it is tested: below 4 the test costs more than it saves (testing all
    positions was up to 7 % slower); 7 was up to 14 % faster than 4 with fetch=branch and was not timed with row."""

    reduce: str = "ticket"
    """How blocks that share a tile add up: `cluster` reads the others' shared memory (capability 9.0 and up), `ticket`
    lets the last block read slots of global memory, `atomic` adds to global memory in no fixed order."""

    depth: int = 1
    """Channels ahead that weights are loaded: 0 frees registers where other warps hide the wait (v6_fused only)."""
    prologue: bool = False
    """Whether the input may be scaled, shifted and rectified on its way in (v6_fused)."""

    def __post_init__(self) -> None:
        self._check("rung", self.rung in RUNGS, f"one of {', '.join(RUNGS)}")
        fetches, reduces = FETCHES[self.rung], REDUCES.get(self.rung, ("ticket",))
        for field, allowed in (("k", (1, 3)), ("stride", (1, 2)), ("fetch", fetches), ("reduce", reduces)):
            self._check(field, getattr(self, field) in allowed, f"one of {', '.join(map(str, allowed))}")
        for field, most in (("th", 16), ("tw", 16), ("outputs_per_lane", 8), ("warps", 32), ("min_taps", 99)):
            self._check(field, 1 <= getattr(self, field) <= most, f"an integer from 1 to {most}")
        self._check("skip", not self.skip or self.rung in REDUCES, "False for a rung that tests nothing")
        self._check("depth", self.depth in ((0, 1) if self.rung == "v6_fused" else (1,)), "0 or 1, 0 in v6_fused only")
        self._check("prologue", not self.prologue or self.rung == "v6_fused", "False for a rung that fuses nothing")
        if self.rung == "v6_fused":
            self._check("outputs_per_lane", self.outputs_per_lane in (1, 2, 4), "1, 2 or 4")
            self._check("stack", self.stack >= 1 and self.warps % self.stack == 0, f"a divisor of {self.warps} warps")
        else:
            self._check("stack", self.stack == 1, "1 for a rung before v6_fused")
        self._check("min_taps", self.skip or self.min_taps == 4, "4 for a kernel that tests nothing")
        if self.rung == "v1_naive":
            for field in ("th", "tw", "outputs_per_lane"):
                self._check(field, getattr(self, field) == 1, "1 for a thread an output")

    def _check(self, field: str, good: bool, allowed: str) -> None:
        if not good:
            raise ValueError(f"variant: {field} = {getattr(self, field)!r}: {allowed} is allowed.")

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def rows(self) -> int:
        """Rows of the output that a block computes."""
        return self.th * self.stack

    @property
    def cells(self) -> int:
        """Pixels of the output that a block computes."""
        return self.rows * self.tw

    @property
    def sharers(self) -> int:
        """Warps of a block among which a tile's input channels are divided."""
        return self.warps // self.stack

    @property
    def tile(self) -> str:
        """Output tile, outputs a lane and warps, for people and short tables: "7x7 o1 w8"; stacked, "2x7p4 o2 w16"."""
        return f"{self._tile} o{self.outputs_per_lane} w{self.warps}"

    @property
    def _tile(self) -> str:
        return f"{self.th}x{self.tw}" + (f"p{self.stack}" if self.stack > 1 else "")

    @property
    def name(self) -> str:
        """A file name without spaces; `parse` reads it back."""
        return (
            f"{self.rung}_k{self.k}s{self.stride}_t{self._tile}_o{self.outputs_per_lane}_w{self.warps}"
            f"_{'skip' if self.skip else 'dense'}_{self.fetch}{f'_m{self.min_taps}' if self.skip else ''}"
            f"{f'_{self.reduce}_d{self.depth}' if self.rung == 'v6_fused' else ''}{'_pre' if self.prologue else ''}"
        )

    @classmethod
    def parse(cls, name: str) -> Variant:
        """The variant of a name. Raises ValueError if it is not one."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{name!r} is no variant of the sparse kernels: a name looks like {cls('v3_ballot').name}."
            )
        fields = {key: int(value) if value.isdigit() else value for key, value in match.groupdict().items() if value}
        return cls(**{**fields, "skip": fields["skip"] == "skip", "prologue": "prologue" in fields})

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """(name, kind) of the kernel's arguments, in order."""
        return RUNGS[self.rung].PARAMETERS

    @property
    def twin(self) -> Variant:
        """The dense twin: every other choice is the same."""
        return dataclasses.replace(self, skip=False, min_taps=4)

    def source(self, capability: str | None = None) -> KernelSource:
        """The generated kernel, for `kernels.build.build` or the simulator.

        capability: what it will be built for, such as "9.0"; it decides the register limit alone. None sets no limit.
        """
        common = {
            "family": "sparse",
            "variant": self.name,
            "entry": self.rung,
            "parameters": self.parameters,
            "threads": self.threads,
        }
        if self.rung == "v6_fused":
            return KernelSource(
                python_source=v6_fused.source(self, capability),
                max_registers=v3_ballot.max_registers(self, capability),
                dynamic_shared_bytes=4 * v6_memory.shared_floats(self, capability),
                **common,
            )
        return KernelSource(
            python_source=RUNGS[self.rung].source(self),
            max_registers=v3_ballot.max_registers(self, capability) if self.rung == "v3_ballot" else None,
            **common,
        )


def variants() -> tuple[Variant | pointwise.Variant, ...]:
    """The default build set: 16 kernels a capability, for filters of 3×3 and 1×1, strides 1 and 2.

    Chosen from 21 skipping and 16 dense kernels timed on an H200 (probe of 2026-11-21) at batch 1, 2, 4 and 8: for the
    eight 3×3 shapes of ResNet-50 and DenseNet-169 the best of the set is 0.3 % (skipping) and 0.7 % (dense) slower than
    the best of all, by geometric mean; for the three with stride 2 it is 4 % and 12 %.
    """

    def v6(th, tw, outputs_per_lane, warps, **more):
        return Variant(
            "v6_fused", th=th, tw=tw, outputs_per_lane=outputs_per_lane, warps=warps, reduce="cluster", **more
        )

    return (
        v6(4, 7, 2, 16),
        v6(2, 7, 2, 16),
        v6(4, 7, 2, 8, min_taps=8),
        v6(4, 7, 1, 16, min_taps=6),
        v6(2, 7, 1, 16),
        v6(1, 7, 1, 8),
        v6(7, 7, 1, 16),
        v6(7, 7, 2, 8, skip=False),
        v6(4, 7, 1, 16, skip=False),
        v6(1, 7, 1, 8, skip=False),
        v6(7, 7, 1, 8, skip=False),
        v6(2, 7, 2, 16, stride=2),
        v6(2, 7, 2, 16, stride=2, skip=False),
        *pointwise.variants(),
    )


def ladder() -> tuple[Variant, ...]:
    """The kernels of the steps before the last generator, which the ladder measures beside it."""
    return (
        Variant("v3_ballot"),
        Variant("v3_ballot", th=4),
        Variant("v3_ballot", th=2),
        Variant("v2_dense", th=2, warps=4, skip=False, fetch="direct"),
        Variant("v1_naive", th=1, tw=1, skip=False, fetch="direct"),
    )
