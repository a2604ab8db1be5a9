"""`benchmark`: the method for one function in a user's own script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from frugal import stats
from frugal.clock import Clock
from frugal.errors import FrugalError
from frugal.records import RowKey, Sample
from frugal.timing.arms import Arm, Case, Inputs, Prepared, Reference
from frugal.timing.case import CaseResult, measure_case
from frugal.timing.design import Design
from frugal.timing.devices import CpuDevice, CudaDevice, Device

_CAUTION = (
    "one process: the numbers hold for this process only, another may choose other algorithms; no verdict follows"
)


@dataclass(frozen=True)
class Timed:
    """One regime. Seconds a run; `ratio` > 1: fn is faster than `against`; low and high are those of the rounds."""

    regime: str
    seconds: float
    against_s: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None


@dataclass(frozen=True)
class Report:
    """What one process measured, by regime (`wall`; on a GPU also `graph`). `caution` says what it cannot know."""

    regimes: tuple[Timed, ...]
    skipped: tuple[str, ...]
    caution: str = _CAUTION

    def __str__(self) -> str:
        lines = []
        for timed in self.regimes:
            line = f"{timed.regime}: {timed.seconds:.4g} s"
            if timed.ratio is not None:
                line += f" against {timed.against_s:.4g} s: {timed.ratio:.3f} times as fast"
                line += f" (rounds {timed.ratio_low:.3f} to {timed.ratio_high:.3f})"
            lines.append(line)
        return "\n".join([*lines, *self.skipped, self.caution])


def benchmark(
    fn: Callable[..., object],
    *args: object,
    against: Callable[..., object] | None = None,
    preset: str = "quick",
    device: Device | None = None,
    clock: Clock | None = None,
) -> Report:
    """Time `fn(*args)`, interleaved in palindromes with `against(*args)` where that is given.

    Regime `wall`, and `graph` where the arguments are on a GPU. With `against`, the outputs (tensors) must agree to the
    relative norm of frugal.timing.verify before and after timing; without it nothing is verified. Neither function may
    change its arguments. Raises FrugalError when a function fails or they disagree, DesignError for an unknown preset.
    """
    design = Design.of(preset, sessions=1)
    given = {str(i): arg for i, arg in enumerate(args) if isinstance(arg, Tensor)}
    on_gpu = any(value.is_cuda for value in given.values())
    device = device or (CudaDevice() if on_gpu else CpuDevice())
    dtype = next((str(v.dtype).removeprefix("torch.") for v in given.values() if v.is_floating_point()), "float32")
    regimes = ("graph", "wall") if on_gpu else ("wall",)
    arms = [_arm("fn", "ours", fn, args, dtype, regimes)]
    if against is not None:
        arms.append(_arm("against", "baseline", against, args, dtype, regimes))
    case = Case(
        system="user",
        experiment="benchmark",
        axes={"function": getattr(fn, "__name__", "fn")},
        inputs=lambda seed, phase: {name: value.detach().clone() for name, value in given.items()},
        reference=None if against is None else lambda inputs: _references(_call(against, args, inputs)),
    )
    return _report(measure_case(case, arms, design, 0, device, clock), against is not None)


def _arm(
    name: str, role: str, fn: Callable[..., object], args: Sequence[object], dtype: str, regimes: tuple[str, ...]
) -> Arm:
    def prepare(inputs: Inputs) -> Prepared:
        bound = _bound(args, inputs)

        def run() -> object:
            return _tensors_only(fn(*bound))

        return Prepared(run=run, keep=tuple(bound))

    return Arm(
        name=name,
        role=role,
        prepare=prepare,
        dtype=dtype,
        tf32=len(regimes) > 1 or None,
        regimes=regimes,
        tolerance="norm",
    )


def _bound(args: Sequence[object], inputs: Inputs) -> list[object]:
    return [inputs.get(str(i), arg) for i, arg in enumerate(args)]


def _call(fn: Callable[..., object], args: Sequence[object], inputs: Mapping[str, Tensor]) -> object:
    return _tensors_only(fn(*_bound(args, inputs)))


def _tensors_only(result: object) -> object:
    if isinstance(result, Tensor):
        return result
    if isinstance(result, tuple | list) and all(isinstance(item, Tensor) for item in result):
        return result
    return None


def _references(result: object) -> tuple[Reference, ...]:
    found = (result,) if isinstance(result, Tensor) else tuple(result or ())
    return tuple(Reference(y=y.detach().double() if y.is_floating_point() else y.detach()) for y in found)


def _report(result: CaseResult, compared: bool) -> Report:
    found, skipped = [], []
    for row in result.rows:
        if row.arm != "fn":
            continue
        other = next((r for r in result.rows if r.arm == "against" and r.regime == row.regime), None)
        wrong = next((r for r in (row, other) if r is not None and r.value is None), None)
        if wrong is not None:
            if wrong.status != "unsupported":
                raise FrugalError(f"benchmark: {wrong.arm} is {wrong.status}: {wrong.reason}")
            skipped.append(f"{row.regime}: {wrong.arm} is unsupported: {wrong.reason}")
            continue
        if not compared or other is None:
            found.append(Timed(row.regime or "", row.value or 0.0))
            continue
        ratio = stats.paired_ratio([_rounds(result, other.key)], [_rounds(result, row.key)])
        found.append(
            Timed(row.regime or "", row.value or 0.0, other.value, ratio.ratio, ratio.round_low, ratio.round_high)
        )
    return Report(tuple(found), tuple(skipped))


def _rounds(result: CaseResult, key: RowKey) -> list[float]:
    blocks: dict[int, list[Sample]] = {}
    for sample in result.samples[key]:
        blocks.setdefault(sample.round, []).append(sample)
    return [median(s.value for s in blocks[r]) for r in sorted(blocks)]
