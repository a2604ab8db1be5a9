"""One case in one session: verify, estimate, time in rounds, verify again.

The order of operations is that of docs/methodology.md. An arm's fault becomes the status of its rows; nothing that an
arm raises leaves `measure_case`.
"""

from __future__ import annotations

import dataclasses
import gc
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from torch import Tensor

from frugal.clock import Clock, SystemClock
from frugal.records import Measurement, RowKey, Sample
from frugal.timing import blocks, regimes, rows
from frugal.timing.arms import REGIMES, Arm, Case, Inputs, Prepared
from frugal.timing.design import Design, derive_seed, palindromes
from frugal.timing.devices import Device
from frugal.timing.faults import Fault, fault_of
from frugal.timing.state import Progress, Timing
from frugal.timing.usage import Usage
from frugal.timing.verify import Check, Verifier, checksum, poison, tensors

T = TypeVar("T")
Outputs = tuple[Tensor, ...]
ARMS_MAX = 12


@dataclass
class CaseResult:
    """Measurement rows of one case, one for each arm and regime that was attempted, and their samples."""

    rows: list[Measurement] = field(default_factory=list)
    samples: dict[RowKey, list[Sample]] = field(default_factory=dict)


def measure_case(
    case: Case,
    arms: Sequence[Arm],
    design: Design,
    session: int,
    device: Device,
    clock: Clock | None = None,
    *,
    run_id: str = "",
    log: str = "",
) -> CaseResult:
    """Measure every arm in every regime that it offers (or that the design names).

    Never raises for an arm's fault: a wrong arm's rows are `incorrect`, one that cannot is `unsupported`, `oom` or
    `failed`, each with its reason and without a time. ValueError for no arms, two arms of one name, or more than 12
    arms (split such a case into sub-cases that share the baseline, so that a round stays short against drift).
    """
    _check_arms(case, arms)
    clock = clock or SystemClock()
    session_of_case = _Session(case, design, session, device, clock)
    progress = [Progress(arm, _attempted(arm, design)) for arm in arms]
    with _without_gc():
        with device.active():
            session_of_case.run(progress)
        with suppress(RuntimeError):  # a context that an arm has killed; the session notices that by itself
            device.release()
    result = CaseResult()
    for item in progress:
        for row, samples in rows.of(case, item, design, session, run_id=run_id, log=log, seeds=session_of_case.orders):
            result.rows.append(row)
            if samples:
                result.samples[row.key] = samples
    return result


class _Session:
    """The steps of one case; each takes the arms that are still in."""

    def __init__(self, case: Case, design: Design, session: int, device: Device, clock: Clock) -> None:
        self.case, self.design, self.session, self.device, self.clock = case, design, session, device, clock
        self.orders = {regime: self._seed(f"order-{regime}") for regime in REGIMES}

    def run(self, progress: list[Progress]) -> None:
        steps = (self._verify, self._warm, self._time, self._recheck)
        for step in steps:
            remaining = sorted((p for p in progress if p.fault is None), key=lambda p: p.arm.role != "baseline")
            if not remaining:
                return
            try:  # what fails here is not an arm but the case: its inputs, or its reference
                step(remaining)
            except Exception as error:
                for item in remaining:
                    item.fault = item.fault or fault_of(error)
                return

    def _verify(self, progress: list[Progress]) -> None:
        if self.device.kind != "cpu":
            self._load(self.design.load_s)
        inputs = self._inputs("verify")
        verifier = Verifier(self.case, inputs)
        before = checksum(inputs)
        for item in progress:
            outputs, item.fault = _attempt(item.arm, partial(self._first_call, item, inputs))
            if checksum(inputs) != before:
                item.fault = Fault("incorrect", "inputs: the arm changed its inputs")
                verifier.inputs = inputs = self._inputs("verify")
            elif item.fault is None:
                item.before, item.fault = _checked(item.arm, verifier, outputs)

    def _first_call(self, item: Progress, inputs: Inputs) -> Outputs:
        start = self.clock.ns()
        prepared = item.arm.prepare(inputs)
        poison(prepared.outputs)
        outputs = self._run_once(prepared)
        item.first_call_s = (self.clock.ns() - start) * 1e-9
        return outputs

    def _warm(self, progress: list[Progress]) -> None:
        """Estimates on inputs of their own, so that an answer kept from here is wrong later."""
        inputs = self._inputs("warm")
        for item in progress:
            _, item.fault = _attempt(item.arm, partial(self._estimate, item, inputs))

    def _estimate(self, item: Progress, inputs: Inputs) -> None:
        prepared = item.arm.prepare(inputs)
        prepared.run()
        self.device.synchronize()
        item.host_sync = self.device.synchronises(prepared.run)
        item.estimate = regimes.estimate(prepared, self.device, self.design, self.clock)

    def _time(self, progress: list[Progress]) -> None:
        inputs = self._inputs("timed")
        verifier = Verifier(self.case, inputs)
        for item in progress:
            item.inputs = {name: value.clone() for name, value in inputs.items()}
            item.checksum = checksum(item.inputs)
            outputs, item.fault = _attempt(item.arm, partial(self._bind, item))
            if item.fault is None and item.arm.role == "baseline":
                # the others are compared with this error on these inputs, whether or not it offers their regime
                _, item.fault = _checked(item.arm, verifier, outputs)
        for regime in REGIMES:
            self._regime(regime, [p for p in progress if p.fault is None and regime in p.attempted], verifier)
        for item in progress:
            if item.fault is None and checksum(item.inputs) != item.checksum:
                item.fault = Fault("incorrect", "inputs: the arm changed its inputs while it was timed")
            item.prepared, item.inputs = None, {}

    def _bind(self, item: Progress) -> Outputs:
        item.prepared = item.arm.prepare(item.inputs)
        return self._run_once(item.prepared)

    def _regime(self, regime: str, progress: list[Progress], verifier: Verifier) -> None:
        for item in progress:
            item.timings[regime] = timing = Timing(fault=item.refusal(regime))
            if timing.fault is None:
                _, timing.fault = _attempt(item.arm, partial(self._build, item, regime, timing, len(progress)))
        ready = {item.arm.name: item for item in progress if item.timings[regime].fault is None}
        if ready:
            order = palindromes(sorted(ready), self.design.rounds, random.Random(self.orders[regime]))
            for round_, names in enumerate(order):
                for position, name in enumerate(names):
                    timing = ready[name].timings[regime]
                    if timing.fault is None:
                        body = partial(self._measure, timing, round_, position)
                        _, timing.fault = _attempt(ready[name].arm, body)
        for item in ready.values():
            self._check_last(item, item.timings[regime], verifier)
        for item in progress:
            item.timings[regime].recipe = None

    def _build(self, item: Progress, regime: str, timing: Timing, count: int) -> None:
        assert item.prepared is not None
        assert item.estimate is not None
        share = regimes.MEMORY_SHARE / count
        timing.recipe = regimes.build(
            regime, item.arm, item.prepared, item.inputs, item.estimate, self.device, self.design, self.clock, share
        )
        timing.m, timing.note = timing.recipe.m, timing.recipe.note

    def _measure(self, timing: Timing, round_: int, position: int) -> None:
        recipe = timing.recipe
        assert recipe is not None
        poison(recipe.written)
        blocks.warm(recipe, self.design, self.clock)
        before = Usage.now()
        timing.blocks.append(blocks.measure(recipe, self.design, self.clock, round_, position))
        timing.usage += Usage.now() - before

    def _check_last(self, item: Progress, timing: Timing, verifier: Verifier) -> None:
        if timing.fault is not None:
            return
        assert timing.recipe is not None
        outputs, timing.fault = _attempt(item.arm, timing.recipe.outputs)
        if timing.fault is None:
            timing.after, timing.fault = _checked(item.arm, verifier, outputs)
        if timing.fault is not None:  # wrong in one regime, not to be believed in another
            item.fault = Fault(timing.fault.status, f"after timing: {timing.fault.reason}")

    def _recheck(self, progress: list[Progress]) -> None:
        inputs = self._inputs("recheck")
        verifier = Verifier(self.case, inputs)
        for item in progress:
            outputs, fault = _attempt(item.arm, partial(self._again, item, inputs))
            if fault is None:
                item.after, fault = _checked(item.arm, verifier, outputs)
            if fault is not None:
                item.fault = Fault(fault.status, f"after timing, on fresh inputs: {fault.reason}")

    def _again(self, item: Progress, inputs: Inputs) -> Outputs:
        prepared = item.arm.prepare(inputs)
        poison(prepared.outputs)
        return self._run_once(prepared)

    def _run_once(self, prepared: Prepared) -> Outputs:
        """Runs once and copies the outputs at once, in the order of the current stream alone."""
        copies = tuple(output.detach().clone() for output in tensors(prepared.run(), prepared.outputs))
        self.device.join()
        return copies

    def _inputs(self, phase: str) -> Inputs:
        return self.case.inputs(self._seed(phase), phase)

    def _seed(self, phase: str) -> int:
        return derive_seed(self.design.seed, self.case.case_id, self.session, phase)

    def _load(self, seconds: float) -> None:
        start = self.clock.ns()
        while (self.clock.ns() - start) * 1e-9 < seconds:
            self.device.load()


def _attempt(arm: Arm, body: Callable[[], T]) -> tuple[T | None, Fault | None]:
    """What `body` returns under the arm's flags, or the fault that its exception is."""
    try:
        with arm.context():
            return body(), None
    except Exception as error:
        return None, fault_of(error)


def _checked(arm: Arm, verifier: Verifier, outputs: Outputs | None) -> tuple[Check | None, Fault | None]:
    """The outcome of a verification, and the fault that it is if it failed. Not under the arm's flags."""
    try:
        check = verifier.check(arm, outputs or ())
    except Exception as error:
        return None, fault_of(error)
    return check, None if check is None or check.ok else Fault("incorrect", check.reason or "incorrect")


def _check_arms(case: Case, arms: Sequence[Arm]) -> None:
    names = [arm.name for arm in arms]
    if not arms:
        raise ValueError(f"case {case.label}: it has no arms: give at least one")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"case {case.label}: more than one arm is called {', '.join(twice)}: names must differ")
    if len(arms) > ARMS_MAX:
        raise ValueError(f"case {case.label}: {len(arms)} arms, at most {ARMS_MAX}: split it, the baseline in each")
    unknown = sorted(set(case.columns) - {f.name for f in dataclasses.fields(Measurement)})
    if unknown:
        raise ValueError(f"case {case.label}: columns has {', '.join(unknown)}: use columns of frugal.records")


def _attempted(arm: Arm, design: Design) -> tuple[str, ...]:
    chosen = arm.regimes if design.regimes is None else design.regimes
    return tuple(regime for regime in REGIMES if regime in chosen)


@contextmanager
def _without_gc() -> Iterator[None]:
    """No collection in a timed body or a capture."""
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
