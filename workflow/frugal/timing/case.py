"""One case in one session: verify, estimate, time in rounds, verify again.

The order of operations is that of docs/methodology.md. An arm's fault becomes the status of its rows; nothing that an
arm raises leaves `measure_case`.
"""

from __future__ import annotations

import dataclasses
import gc
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from torch import Tensor

from frugal.clock import Clock, SystemClock
from frugal.records import Measurement, Sample
from frugal.timing import blocks, energy_round, leaks, memory_round, regimes, rows
from frugal.timing.arms import REGIMES, Arm, Case, Inputs, Prepared
from frugal.timing.design import Design, derive_seed, palindromes
from frugal.timing.devices import Device
from frugal.timing.faults import DeviceLost, Fault, fault_of
from frugal.timing.instruments import Instruments
from frugal.timing.leaks import Held
from frugal.timing.monitor import Monitor, Unwatched
from frugal.timing.polls import Polls
from frugal.timing.result import CaseResult
from frugal.timing.state import Progress, Timing
from frugal.timing.usage import Usage
from frugal.timing.verify import Check, Verifier, checksum, poison, tensors

T = TypeVar("T")
Outputs = tuple[Tensor, ...]
ARMS_MAX = 12


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
    monitor: Monitor | None = None,
    blamed: Mapping[str, Fault] | None = None,
    beside: Instruments | None = None,
) -> CaseResult:
    """Measure every arm in every regime that it offers (or that the design names).

    Never raises for an arm's fault: a wrong arm's rows are `incorrect`, one that cannot is `unsupported`, `oom` or
    `failed`, each with its reason and without a time. An arm that leaks keeps its rows, whose reason says so. Two
    exceptions: ValueError for no arms, two arms of one name, or more than 12 arms (split such a case into sub-cases
    that share the baseline, so that a round stays short against drift); DeviceLost when a step of an arm has left the
    device unusable.
    `monitor` is told of each step of an arm. `blamed`: arms that are not run, and what their rows say: each of them
    ended the process of an earlier attempt. `beside`: what is read meanwhile, and the energy meter (rows of energy
    where the case asks for them and there is one).
    """
    _check_arms(case, arms)
    clock = clock or SystemClock()
    beside = beside or Instruments()
    session_of_case = _Session(case, design, session, device, clock, monitor or Unwatched(), beside)
    progress = [Progress(arm, _attempted(case, arm, design), fault=(blamed or {}).get(arm.name)) for arm in arms]
    before, began = Held.now(), clock.ns()
    with _without_gc():
        with device.active():
            session_of_case.run(progress)
        with suppress(RuntimeError):  # a context that an arm has killed; the session notices that by itself
            device.release()
    polls = beside.polls(began, clock.ns())
    result = CaseResult()
    for item in progress:
        for row, samples in session_of_case.rows(item, polls):
            row.run_id, row.log = run_id, log
            result.rows.append(row)
            if samples:
                result.samples[row.key] = samples
    session_of_case.note_leaks(before, result)
    return result


class _Session:
    """The steps of one case; each takes the arms that are still in."""

    def __init__(
        self,
        case: Case,
        design: Design,
        session: int,
        device: Device,
        clock: Clock,
        monitor: Monitor,
        beside: Instruments,
    ) -> None:
        self.case, self.design, self.session, self.device, self.clock = case, design, session, device, clock
        self.monitor, self.beside = monitor, beside
        self.orders = {regime: self._seed(f"order-{regime}") for regime in REGIMES}
        self.measures = [name for name in case.measures if name != "energy" or beside.meter is not None]
        self.grown: dict[str, Held] = {}

    def run(self, progress: list[Progress]) -> None:
        steps = [self._verify, self._warm, self._time, self._recheck]
        if "energy" in self.measures:
            steps.append(self._energy)
        if "memory" in self.measures:
            steps.append(self._memory)
        for step in steps:
            remaining = sorted((p for p in progress if p.fault is None), key=lambda p: p.arm.role != "baseline")
            if not remaining:
                return
            try:  # what fails here is not an arm but the case: its inputs, or its reference
                step(remaining)
            except DeviceLost:
                raise
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
            outputs, item.fault = self._attempt(
                item.arm, "first call", partial(self._first_call, item, inputs), self.design.first_call_timeout_s
            )
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
            _, item.fault = self._attempt(item.arm, "second call", partial(self._second_call, item, inputs))
            if item.fault is None:
                _, item.fault = self._attempt(item.arm, "estimate", partial(self._estimate, item))
            item.prepared = None

    def _second_call(self, item: Progress, inputs: Inputs) -> None:
        item.prepared = item.arm.prepare(inputs)
        item.prepared.run()
        self.device.synchronize()
        item.host_sync = self.device.synchronises(item.prepared.run)

    def _estimate(self, item: Progress) -> None:
        assert item.prepared is not None
        item.estimate = regimes.estimate(item.prepared, self.device, self.design, self.clock)

    def _time(self, progress: list[Progress]) -> None:
        inputs = self._inputs("timed")
        verifier = Verifier(self.case, inputs)
        for item in progress:
            item.inputs = {name: value.clone() for name, value in inputs.items()}
            item.checksum = checksum(item.inputs)
            outputs, item.fault = self._attempt(item.arm, "call on the timed inputs", partial(self._bind, item))
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
                body = partial(self._build, item, regime, timing, len(progress))
                _, timing.fault = self._attempt(item.arm, f"preparation of {regime}", body)
        ready = {item.arm.name: item for item in progress if item.timings[regime].fault is None}
        if ready:
            order = palindromes(sorted(ready), self.design.rounds, random.Random(self.orders[regime]))
            for round_, names in enumerate(order):
                for position, name in enumerate(names):
                    timing = ready[name].timings[regime]
                    if timing.fault is None:
                        self._block(ready[name].arm, regime, timing, round_, position)
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

    def _block(self, arm: Arm, regime: str, timing: Timing, round_: int, position: int) -> None:
        held = Held.now()
        _, timing.fault = self._attempt(arm, f"warm-up in {regime}", partial(self._warm_block, timing))
        if timing.fault is None:
            # a slow arm's block ends by itself with the sample in which case_timeout_s passes
            limit_s = 2 * self.design.case_timeout_s
            body = partial(self._measure, timing, round_, position)
            _, timing.fault = self._attempt(arm, f"block in {regime}", body, limit_s)
        if round_ > 0:
            self.grown[arm.name] = self.grown.get(arm.name, Held()) + (Held.now() - held)

    def _warm_block(self, timing: Timing) -> None:
        assert timing.recipe is not None
        poison(timing.recipe.written)
        blocks.warm(timing.recipe, self.design, self.clock)

    def _measure(self, timing: Timing, round_: int, position: int) -> None:
        assert timing.recipe is not None
        before = Usage.now()
        timing.blocks.append(blocks.measure(timing.recipe, self.design, self.clock, round_, position))
        timing.usage += Usage.now() - before

    def _check_last(self, item: Progress, timing: Timing, verifier: Verifier) -> None:
        if timing.fault is not None:
            return
        assert timing.recipe is not None
        outputs, timing.fault = self._attempt(item.arm, "reading of the last output", timing.recipe.outputs)
        if timing.fault is None:
            timing.after, timing.fault = _checked(item.arm, verifier, outputs)
        if timing.fault is not None:  # wrong in one regime, not to be believed in another
            item.fault = Fault(timing.fault.status, f"after timing: {timing.fault.reason}")

    def _recheck(self, progress: list[Progress]) -> None:
        inputs = self._inputs("recheck")
        verifier = Verifier(self.case, inputs)
        for item in progress:
            outputs, fault = self._attempt(item.arm, "call on fresh inputs", partial(self._again, item, inputs))
            if fault is None:
                item.after, fault = _checked(item.arm, verifier, outputs)
            if fault is not None:
                item.fault = Fault(fault.status, f"after timing, on fresh inputs: {fault.reason}")

    def _energy(self, progress: list[Progress]) -> None:
        energy_round.measure(
            progress, self._inputs("timed"), self.design, self.device, self.clock, self.beside,
            self._seed("order-energy"), self._fault_in,
        )  # fmt: skip

    def _memory(self, progress: list[Progress]) -> None:
        memory_round.measure(progress, self._inputs("timed"), self.design, self.device, self._fault_in)

    def rows(self, item: Progress, polls: Polls) -> Iterator[tuple[Measurement, list[Sample]]]:
        """All rows of an arm with their samples."""
        yield from rows.of(self.case, item, self.design, self.session, seeds=self.orders, polls=polls)
        if "energy" in self.measures:
            seed = self._seed("order-energy")
            yield from energy_round.rows_of(self.case, item, self.design, self.session, seed=seed, polls=polls)
        if "memory" in self.measures:
            for row in memory_round.rows_of(self.case, item, self.design, self.session, self.device.kind):
                yield row, []

    def _again(self, item: Progress, inputs: Inputs) -> Outputs:
        prepared = item.arm.prepare(inputs)
        poison(prepared.outputs)
        return self._run_once(prepared)

    def _run_once(self, prepared: Prepared) -> Outputs:
        """Runs once and copies the outputs at once, in the order of the current stream alone."""
        copies = tuple(output.detach().clone() for output in tensors(prepared.run(), prepared.outputs))
        self.device.join()
        return copies

    def _attempt(
        self, arm: Arm, step: str, body: Callable[[], T], limit_s: float | None = None
    ) -> tuple[T | None, Fault | None]:
        """What `body` returns under the arm's flags, or the fault that its exception is. DeviceLost where that is all.

        The monitor is told before and after; not after what ends this process, which is the arm's doing.
        """
        self.monitor.begin(self.case.case_id, arm.name, step, limit_s or self.design.case_timeout_s)
        found, fault = None, None
        try:
            with arm.context():
                found = body()
                self.device.synchronize()  # what a kernel still at work does wrong is this arm's fault, not the next's
        except Exception as error:
            fault = fault_of(error)
            self._check_alive(arm)
        self.monitor.idle()
        return found, fault

    def _fault_in(self, arm: Arm, step: str, body: Callable[[], object], limit_s: float) -> Fault | None:
        return self._attempt(arm, step, body, limit_s)[1]

    def _check_alive(self, arm: Arm) -> None:
        try:
            self.device.synchronize()
        except RuntimeError as error:
            raise DeviceLost(self.case.case_id, self.case.label, arm.name, fault_of(error)) from error

    def note_leaks(self, before: Held, result: CaseResult) -> None:
        """Says in the rows which arm did not give memory back. Called when the case has released what it held."""
        suspects = {name: grown for name, grown in self.grown.items() if grown.leaks}
        if not suspects:
            return
        gc.collect()
        kept = Held.now() - before
        for name, grown in suspects.items():
            note = leaks.sentence(grown, kept)
            if note is not None:
                result.warnings.append(f"WARN: {self.case.label}: {name}: {note}")
                for row in result.rows:
                    if row.arm == name:
                        row.reason = f"{row.reason}; {note}" if row.reason else note

    def _inputs(self, phase: str) -> Inputs:
        return self.case.inputs(self._seed(phase), phase)

    def _seed(self, phase: str) -> int:
        return derive_seed(self.design.seed, self.case.case_id, self.session, phase)

    def _load(self, seconds: float) -> None:
        start = self.clock.ns()
        while (self.clock.ns() - start) * 1e-9 < seconds:
            self.device.load()


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


def _attempted(case: Case, arm: Arm, design: Design) -> tuple[str, ...]:
    chosen = arm.regimes if design.regimes is None or case.own_regimes else design.regimes
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
