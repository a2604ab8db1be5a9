"""What is fixed when a kernel of the sparse family is compiled; everything else is a size at run time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kernels.build import KernelSource
from kernels.sparse import v3_ballot

RUNGS = ("v3_ballot",)
FETCHES = ("branch", "row")

_NAME = re.compile(
    r"(?P<rung>v\d_[a-z]+)_k(?P<k>\d)s(?P<stride>\d)_t(?P<th>\d+)x(?P<tw>\d+)_o(?P<outputs_per_lane>\d+)_w(?P<warps>\d+)"
    r"_(?P<skip>skip|dense)_(?P<fetch>[a-z]+)_m(?P<min_taps>\d+)"
)


@dataclass(frozen=True)
class Variant:
    """One compiled kernel. Raises ValueError, naming the field, for a value that no kernel can be generated for."""

    rung: str
    k: int = 3
    """Filter size; the padding is k // 2."""
    stride: int = 1
    th: int = 7
    """Rows of the output tile."""
    tw: int = 7
    """Columns of the output tile."""
    outputs_per_lane: int = 1
    """Output channels that a lane sums: a block covers 32 times as many."""
    warps: int = 8
    """Warps of a block, each with its own input channels."""
    skip: bool = True
    """False is the dense twin: the same code without the tests."""
    fetch: str = "branch"
    """Where a window value is read from shared memory: in its own branch, or whole rows one row ahead."""
    min_taps: int = 4
    """Multiply-adds of a position from which on it is tested; with fewer, the test costs more than it saves."""

    def __post_init__(self) -> None:
        for field, allowed in (("rung", RUNGS), ("k", (1, 3)), ("stride", (1, 2)), ("fetch", FETCHES)):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"variant: {field} = {getattr(self, field)!r}: one of {', '.join(map(str, allowed))} is allowed."
                )
        for field, most in (("th", 16), ("tw", 16), ("outputs_per_lane", 8), ("warps", 32), ("min_taps", 99)):
            if not 1 <= getattr(self, field) <= most:
                raise ValueError(
                    f"variant: {field} = {getattr(self, field)!r}: an integer from 1 to {most} is allowed."
                )

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def name(self) -> str:
        """A file name without spaces; `parse` reads it back."""
        return (
            f"{self.rung}_k{self.k}s{self.stride}_t{self.th}x{self.tw}_o{self.outputs_per_lane}_w{self.warps}"
            f"_{'skip' if self.skip else 'dense'}_{self.fetch}_m{self.min_taps}"
        )

    def source(self) -> KernelSource:
        """The generated kernel, for `kernels.build.build` or the simulator."""
        return KernelSource(
            family="sparse",
            variant=self.name,
            entry=self.rung,
            python_source=v3_ballot.source(self),
            parameters=v3_ballot.PARAMETERS,
            threads=self.threads,
        )


def parse(name: str) -> Variant:
    """The variant of a name. Raises ValueError if it is not one."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{name!r} is no variant of the sparse kernels: a name looks like {Variant('v3_ballot').name}."
        )
    fields = {key: int(value) if value.isdigit() else value for key, value in match.groupdict().items()}
    return Variant(**{**fields, "skip": fields["skip"] == "skip"})
