"""What a timing session is given: cases (what is computed) and arms (implementations of it).

The words are those of docs/methodology.md: a *case* is a system, an experiment, a shape and its data; an *arm* is one
implementation, whose dtype, TF32 flag and layout belong to it. Nothing here touches a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from frugal.errors import FrugalError
from frugal.records import case_id

if TYPE_CHECKING:
    from torch import Tensor

Inputs = Mapping[str, "Tensor"]

ROLES = ("ours", "baseline", "paper_emulation", "control")
MEASURES = ("time", "energy", "memory")
TOLERANCES = ("auto", "a_priori", "baseline", "norm")
REGIMES = ("cold", "hot", "graph", "graph_rotated", "wall")
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


class Unsupported(FrugalError):
    """Raised by an arm (or by a device) that cannot do a case; the row says `unsupported` with this reason."""


@dataclass(frozen=True)
class Prepared:
    """An arm bound to one set of inputs, ready to be called many times.

    `run()` computes once, on torch's current stream, and returns the output tensor, a sequence of output tensors, or
    None when `outputs` holds them. It must allocate nothing that a CUDA graph cannot hold, and must not change its
    inputs. `outputs` are the static buffers that it writes (empty when a library allocates its result): they are
    filled with NaN before each verification and each block, so that an unwritten element shows.
    `loop(m)` is for a CPU only: a compiled driver that computes m times without returning to Python; it is what regime
    `graph` means there, and it writes `outputs`. `keep` holds whatever must outlive the binding.
    """

    run: Callable[[], object]
    outputs: tuple[Tensor, ...] = ()
    loop: Callable[[int], None] | None = None
    keep: tuple = ()


@dataclass(frozen=True)
class Arm:
    """One implementation of a case.

    `prepare(inputs)` is called once for each phase of verification and, in regime `graph_rotated`, once for each of up
    to 64 sets of buffers; conversions of dtype and layout and the packing of weights belong there, outside the timed
    body. What is dear (compilation, loading a kernel) is to be kept by the arm between calls.
    `context()` sets the flags the arm depends on (TF32, `cudnn.benchmark`) and restores them; it is entered around
    everything that the arm does.
    `tolerance`: `auto` passes by the a-priori bound or against the dtype-matched baseline, `a_priori` and `baseline`
    allow only that one, `norm` compares relative Frobenius norms (see frugal.timing.verify). `norm_bound`: what that
    rule allows this arm where it can promise more than its precision's own bound.
    `flop` and `bytes_min` are the arm's own work of one run: FLOP (2 a multiply-add) and bytes that must move at least.
    `regimes` are those that the arm offers: `cold`, `hot`, `graph` (data resident in L2), `graph_rotated`, `wall`.
    """

    name: str
    role: str
    prepare: Callable[[Inputs], Prepared]
    dtype: str = "float32"
    tf32: bool | None = None
    layout: str | None = None
    compiled: bool | None = None
    regimes: tuple[str, ...] = ("cold", "graph", "wall")
    flop: float | None = None
    bytes_min: float | None = None
    source_hash: str = ""
    binary_hash: str | None = None
    registers: int | None = None
    spill_bytes: int | None = None
    shared_bytes: int | None = None
    occupancy: float | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    context: Callable[[], AbstractContextManager] = nullcontext
    tolerance: str = "auto"
    norm_bound: float | None = None

    def __post_init__(self) -> None:
        _one_of("role", self.role, ROLES, self.name)
        _one_of("dtype", self.dtype, DTYPES, self.name)
        _one_of("tolerance", self.tolerance, TOLERANCES, self.name)
        if not self.regimes:
            raise ValueError(f"arm {self.name}: regimes is empty: give at least one of {', '.join(REGIMES)}")
        for regime in self.regimes:
            _one_of("regime", regime, REGIMES, self.name)


@dataclass(frozen=True)
class Reference:
    """The right answer of a case.

    `y`: the output in float64 (for integer outputs: the exact integers). `s`: the same operator applied to the absolute
    values of its operands, in float64, same shape as `y`; None where there is no such operator (a whole network).
    `terms`: how many products are summed for one output (0 with `s` None).
    """

    y: Tensor
    s: Tensor | None = None
    terms: int = 0


@dataclass(frozen=True)
class Case:
    """What is computed, on which data.

    `axes` name the case for ever (`case_id` is a hash of system, experiment and axes). `inputs(seed, phase)` makes the
    tensors that all arms get, on the session's device; phase is `verify`, `warm`, `timed` or `recheck`, and each has
    its own seed. They must not be zeros, which draw less power and run faster. `reference(inputs)` gives the right
    answer for inputs that were already rounded to an arm's dtype (a tuple for several outputs); None means that there
    is nothing to compare with, and the rows then say that nothing was verified.
    `columns` are further columns of the measurement rows (n, c, h, w, k, r, s, stride, pad, groups, dataset, …).
    `measures`: `time`, and what is measured in rounds of its own after it: `energy`, `memory`.
    `own_regimes`: the arms' regimes stand, also where the design names others (controls, which every session has).
    """

    system: str
    experiment: str
    axes: Mapping[str, object]
    inputs: Callable[[int, str], Inputs]
    reference: Callable[[Inputs], Reference | Sequence[Reference]] | None
    network: str | None = None
    layer: str | None = None
    columns: Mapping[str, object] = field(default_factory=dict)
    measures: tuple[str, ...] = ("time",)
    own_regimes: bool = False

    def __post_init__(self) -> None:
        if "time" not in self.measures or not set(self.measures) <= set(MEASURES):
            allowed = f"time, and any of {', '.join(MEASURES[1:])}"
            raise ValueError(f"case {self.label}: measures = {self.measures!r}: it must have {allowed}")

    @property
    def case_id(self) -> str:
        """First 16 hex digits of SHA-256 of {system, experiment, axes}; the same on every machine."""
        return case_id(self.system, self.experiment, dict(self.axes))

    @property
    def label(self) -> str:
        """A short name for progress lines: network, layer and batch where there are any."""
        batch = self.columns.get("n", self.axes.get("batch"))
        parts = [self.network, self.layer, f"b{batch}" if batch is not None else None]
        return " ".join(part for part in parts if part) or f"{self.system}/{self.experiment}"


def _one_of(what: str, value: str, allowed: Sequence[str], arm: str) -> None:
    if value not in allowed:
        raise ValueError(f"arm {arm}: {what} = {value!r}: it must be one of {', '.join(allowed)}")
