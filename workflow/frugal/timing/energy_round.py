"""Rounds of energy, after those of time and never together with them: palindromes of trials, and their rows."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from frugal.clock import Clock
from frugal.energy import Energy, Meter
from frugal.records import Measurement, Sample
from frugal.timing import regimes
from frugal.timing.arms import Arm, Case, Inputs, Unsupported
from frugal.timing.design import Design, palindromes
from frugal.timing.devices import Device
from frugal.timing.instruments import Instruments
from frugal.timing.polls import Polls, fill_context, mean, reasons
from frugal.timing.rows import DISCARDED_UNSTABLE, describe, frame
from frugal.timing.state import Attempt, Progress, Trial, Trials
from frugal.timing.verify import poison

COOL_C = 2.0  # above the session's first temperature
COOL_LONGEST_S = 15.0
LOOK_S = 0.2
METRICS = (("energy_gross", "J", "gross_j"), ("energy_net", "J", "net_j"), ("power_mean", "W", "power_w"))
NOT_TOLD = ("mig", "no_counter")  # reasons for which the machine, and not a trial, has no energy


def measure(
    progress: Sequence[Progress],
    inputs: Inputs,
    design: Design,
    device: Device,
    clock: Clock,
    instruments: Instruments,
    seed: int,
    attempt: Attempt,
) -> None:
    """Fill in `energy` of each arm: its trials, or a fault. `inputs` are as those that were timed; seed: the order's.

    Work is repeated as a CUDA graph (on a CPU: the compiled loop) where the arm has one, else call by call (`hot`).
    """
    meter = instruments.meter
    assert meter is not None
    limit_s = design.case_timeout_s + meter.longest_s(design.energy_span_s)
    for item in progress:
        item.energy = Trials(first_choice(item.arm), fault=item.waits())
        if item.energy.fault is None:
            share = regimes.MEMORY_SHARE / len(progress)
            body = partial(_prepare, item, item.energy, inputs, design, device, clock, share)
            item.energy.fault = attempt(item.arm, "preparation of energy", body, design.case_timeout_s)
    ready = {item.arm.name: item for item in progress if item.energy is not None and item.energy.fault is None}
    order = palindromes(sorted(ready), design.rounds, random.Random(seed)) if ready else []
    for round_, names in enumerate(order):
        for position, name in enumerate(names):
            trials = ready[name].energy
            if trials is not None and trials.fault is None:
                cool_down(meter, instruments.start_c, clock)
                body = partial(_try, trials, meter, design, instruments.idle.power_w, round_, position)
                trials.fault = attempt(ready[name].arm, "energy", body, limit_s)
    for item in ready.values():
        assert item.energy is not None
        item.energy.work = item.energy.keep = None


def first_choice(arm: Arm) -> str:
    """The regime in which an arm's energy is measured, if it can be: without the host's launches where it offers it."""
    return next((regime for regime in ("graph", "graph_rotated") if regime in arm.regimes), "hot")


def cool_down(meter: Meter, start_c: float | None, clock: Clock) -> None:
    """Wait until the die is within 2 °C of the session's first temperature, for 15 s at most."""
    began = clock.ns()
    while (clock.ns() - began) * 1e-9 < COOL_LONGEST_S:
        now_c = meter.temperature_c()
        if start_c is None or now_c is None or now_c <= start_c + COOL_C:
            return
        clock.sleep(LOOK_S)


def _prepare(
    item: Progress, trials: Trials, inputs: Inputs, design: Design, device: Device, clock: Clock, share: float
) -> None:
    assert item.estimate is not None
    own = {name: value.clone() for name, value in inputs.items()}
    prepared = item.arm.prepare(own)
    prepared.run()
    timed = item.timings.get(trials.regime)
    if trials.regime != "hot" and (timed is None or timed.fault is None):
        try:
            recipe = regimes.build(trials.regime, item.arm, prepared, own, item.estimate, device, design, clock, share)
        except Unsupported:
            trials.regime = "hot"
        else:
            poison(recipe.written)
            trials.work, trials.m, trials.keep = recipe.replay, recipe.m, recipe
            return
    trials.regime = "hot"
    trials.work, trials.m, trials.keep = prepared.run, 1, (prepared, own)


def _try(trials: Trials, meter: Meter, design: Design, idle_w: float | None, round_: int, position: int) -> None:
    assert trials.work is not None
    energy = meter.measure(trials.work, design.energy_span_s, trials.m or 1, idle_w)
    trials.done.append(Trial(round_, position, energy))


def rows_of(
    case: Case, progress: Progress, design: Design, session: int, *, seed: int, polls: Polls
) -> Iterator[tuple[Measurement, list[Sample]]]:
    """A row for each of energy_gross, energy_net and power_mean, and a sample a trial."""
    trials = progress.energy or Trials(first_choice(progress.arm))
    fault = progress.fault or trials.fault
    for metric, unit, attribute in METRICS:
        row = frame(case, progress, design, session, trials.regime, after=progress.after)
        row.order_seed, row.batch_m, row.metric, row.unit = seed, trials.m, metric, unit
        samples: list[Sample] = []
        if fault is not None:
            row.status, row.reason = fault.status, fault.reason
        else:
            _fill(row, trials.done, polls, design)
            samples = _samples(row, trials.done, attribute, polls)
            if trials.regime == "hot" and row.value is not None:
                row.launch_bound = _launch_bound(progress)
        yield row, samples


def _fill(row: Measurement, done: Sequence[Trial], polls: Polls, design: Design) -> None:
    """What the three metrics share."""
    energies = [trial.energy for trial in done]
    measured = [energy for energy in energies if energy.gross_j is not None]
    row.energy_source = next((energy.source for energy in energies if energy.source), None)
    row.energy_window_s = min((e.window_s for e in measured if e.window_s is not None), default=None)
    row.energy_ticks = min((e.ticks for e in measured if e.ticks is not None), default=None)
    doubts = [energy.reason for energy in energies if energy.reason is not None]
    if doubts:
        row.reason = next((doubt for doubt in doubts if _status(doubt) != "ok"), doubts[0])
        row.status = _status(row.reason)
    spans = [_span(energy) for energy in measured]
    fill_context(row, spans, polls)
    found = polls.inside(spans)
    slow = int(polls.slow(found, design).sum())
    if slow > DISCARDED_UNSTABLE * len(found):
        row.status = "unstable"
        row.reason = f"slowdown: {slow} of {len(found)} polls found the device at a throttled or a low clock"


def _samples(row: Measurement, done: Sequence[Trial], attribute: str, polls: Polls) -> list[Sample]:
    """One a trial, and the row's value: their geometric mean, as of times."""
    samples = []
    for block, trial in enumerate(done):
        value = getattr(trial.energy, attribute)
        if value is None:
            continue
        if not value > 0:
            row.status, row.reason = "unstable", "no_net: the work drew no more than the idle device"
            return []
        start, end = _span(trial.energy)
        own = polls.inside([(start, end)])
        samples.append(
            Sample(
                round=trial.round,
                position=trial.position,
                block=block,
                index=0,
                start_ns=start,
                value=value,
                sm_hz=mean(own["sm_hz"]),
                temp_c=mean(own["temp_c"]),
                power_w=mean(own["power_w"]),
                event_reasons=reasons(own),
                flag="ok",
            )
        )
    if samples:
        values = np.array([sample.value for sample in samples])
        row.value = math.exp(float(np.log(values).mean()))
        row.n_samples = row.n_blocks = len(values)
        describe(row, values)
    elif row.status == "ok":
        row.status, row.reason = "unstable", "no_idle: the idle power is not known"
    return samples


def _status(reason: str) -> str:
    word = reason.split(":")[0]
    if word in NOT_TOLD:
        return "unsupported"
    return "ok" if word == "power_poll" else "unstable"


def _span(energy: Energy) -> tuple[int, int]:
    assert energy.start_ns is not None
    assert energy.end_ns is not None
    return energy.start_ns, energy.end_ns


def _launch_bound(progress: Progress) -> bool | None:
    guess = progress.estimate
    return None if guess is None or guess.host_s == 0 else guess.host_s >= regimes.LAUNCH_BOUND * guess.run_s
