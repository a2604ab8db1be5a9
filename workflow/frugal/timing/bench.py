"""`benchmark`: the method for one function in a user's own script.

>>> print(benchmark(torch.mm, a, b, against=torch.matmul))
mm against matmul, preset quick, on the CPU
regime  mm        middle half           matmul    middle half           speed-up  by round
wall    412.6 µs  409.1 µs to 418.0 µs  415.3 µs  410.2 µs to 421.7 µs  1.007     1.004 to 1.009
before and after timing, mm agreed with matmul
one process: …
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from frugal.clock import Clock
from frugal.errors import FrugalError
from frugal.records import Measurement
from frugal.timing.arms import Arm, Case, Inputs, Prepared, Reference
from frugal.timing.case import CaseResult, measure_case
from frugal.timing.design import Design
from frugal.timing.devices import CpuDevice, CudaDevice, Device
from frugal.timing.rounds import ratio_by_round
from frugal.timing.session import duration

_CAUTION = (
    "one process: the numbers hold for this process only, another may choose other algorithms; no verdict follows"
)


@dataclass(frozen=True)
class Timed:
    """One regime. `seconds` of a run (geometric mean of the blocks' medians), `q25_s` and `q75_s` of its samples.

    The same of `against`, where that is given. `ratio` > 1: fn is faster than it; low and high are those of the rounds.
    `note`: what must be known of these numbers, such as that they scatter too much to be used; None: nothing.
    """

    regime: str
    seconds: float
    q25_s: float
    q75_s: float
    against_s: float | None = None
    against_q25_s: float | None = None
    against_q75_s: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Report:
    """What one process measured; `print` shows it as a table.

    `regimes`: `wall`, and on a GPU also `graph`. `skipped`: a sentence for each regime that there is not. `verified`
    says what was checked, and `caution` what one process cannot know.
    """

    name: str
    against: str | None
    setting: str
    regimes: tuple[Timed, ...]
    skipped: tuple[str, ...]
    verified: str
    caution: str = _CAUTION

    def __str__(self) -> str:
        head = ["regime", self.name, "middle half"]
        if self.against is not None:
            head += [self.against, "middle half", "speed-up", "by round"]
        table = [head, *(_cells(timed) for timed in self.regimes)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
        compared = f" against {self.against}" if self.against is not None else ""
        notes = [f"{timed.regime}: {timed.note}" for timed in self.regimes if timed.note]
        lines = [f"{self.name}{compared}, {self.setting}", *(rows if self.regimes else []), *notes]
        return "\n".join([*lines, *self.skipped, self.verified, self.caution])


def benchmark(
    fn: Callable[..., object],
    *args: object,
    against: Callable[..., object] | None = None,
    preset: str = "quick",
    device: Device | None = None,
    clock: Clock | None = None,
) -> Report:
    """Time `fn(*args)`, interleaved in palindromes with `against(*args)` where that is given.

    Regime `wall`, and `graph` where the arguments are on a GPU. `preset`, one of `smoke`, `quick`, `sweep` and
    `headline`, says how long it measures (docs/methodology.md). Tensors among `args` are copied for each function, and
    neither may change them; other arguments are passed as they are. With `against`, the outputs (a tensor, or a
    sequence of tensors) must agree to the relative norm of frugal.timing.verify before and after timing; without it
    nothing is verified.

    One process gives no verdict: for that, describe Cases and Arms and call frugal.timing.run_session in several.
    Raises FrugalError when a function fails, changes its arguments, or the two disagree; DesignError (a ValueError) for
    an unknown preset. `device` and `clock` are for tests.
    """
    design = Design.of(preset, sessions=1)
    given = {str(i): arg for i, arg in enumerate(args) if isinstance(arg, Tensor)}
    on_gpu = any(value.is_cuda for value in given.values())
    device = device or (CudaDevice() if on_gpu else CpuDevice())
    dtype = next((str(v.dtype).removeprefix("torch.") for v in given.values() if v.is_floating_point()), "float32")
    regimes = ("graph", "wall") if on_gpu else ("wall",)
    name, other = _names(fn, against)
    arms = [_arm(name, "ours", fn, args, dtype, regimes)]
    if against is not None and other is not None:
        arms.append(_arm(other, "baseline", against, args, dtype, regimes))
    case = Case(
        system="user",
        experiment="benchmark",
        axes={"function": name},
        inputs=lambda seed, phase: {name: value.detach().clone() for name, value in given.items()},
        reference=None if against is None else lambda inputs: _references(_call(against, args, inputs)),
    )
    result = measure_case(case, arms, design, 0, device, clock)
    found, skipped = _timed(result, name, other)
    setting = f"preset {preset}, on the {'GPU' if device.kind == 'cuda' else 'CPU'}"
    agreed = any(row.verified_after for row in result.rows if row.role == "ours")
    verified = f"before and after timing, {name} agreed with {other}" if agreed else "nothing was verified"
    return Report(name, other, setting, found, skipped, verified)


def _names(fn: Callable[..., object], against: Callable[..., object] | None) -> tuple[str, str | None]:
    """What the two are called in the report; apart where both have one name."""
    if against is None:
        return _name(fn), None
    name, other = _name(fn), _name(against)
    return name, other if other != name else f"{other} (against)"


def _name(fn: Callable[..., object]) -> str:
    return getattr(fn, "__name__", type(fn).__name__).strip("<>")


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


def _timed(result: CaseResult, name: str, other: str | None) -> tuple[tuple[Timed, ...], tuple[str, ...]]:
    found, skipped = [], []
    for row in result.rows:
        if row.arm != name:
            continue
        beside = next((r for r in result.rows if r.arm == other and (r.regime, r.l2) == (row.regime, row.l2)), None)
        wrong = next((r for r in (row, beside) if r is not None and r.value is None), None)
        if wrong is None:
            found.append(_of_regime(result, row, beside))
        elif wrong.status == "unsupported":
            skipped.append(f"{row.regime}: {wrong.arm} is unsupported: {wrong.reason}")
        else:
            raise FrugalError(f"benchmark: {wrong.arm} is {wrong.status}: {wrong.reason}")
    return tuple(found), tuple(skipped)


def _of_regime(result: CaseResult, row: Measurement, beside: Measurement | None) -> Timed:
    notes = [f"{r.arm}: {r.reason}" for r in (row, beside) if r is not None and r.reason]
    known = {"note": "; ".join(notes) or None}
    if beside is not None:
        ratio = ratio_by_round(result.samples[beside.key], result.samples[row.key])
        known |= {
            "against_s": beside.value, "against_q25_s": beside.q25, "against_q75_s": beside.q75,
            "ratio": ratio.ratio, "ratio_low": ratio.round_low, "ratio_high": ratio.round_high,
        }  # fmt: skip
    return Timed(row.regime or "", row.value, row.q25, row.q75, **known)


def _cells(timed: Timed) -> list[str]:
    cells = [timed.regime, _seconds(timed.seconds), f"{_seconds(timed.q25_s)} to {_seconds(timed.q75_s)}"]
    if timed.ratio is not None:
        cells += [_seconds(timed.against_s), f"{_seconds(timed.against_q25_s)} to {_seconds(timed.against_q75_s)}"]
        cells += [f"{timed.ratio:.3f}", f"{timed.ratio_low:.3f} to {timed.ratio_high:.3f}"]
    return cells


def _seconds(value: float) -> str:
    return duration(value, digits=4)
