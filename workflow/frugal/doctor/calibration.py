"""What measuring costs on this device, and how well equal things come out equal: about a minute.

Ceilings, launches and events (frugal.timing.ceilings), what flushing the cache leaves behind, the energy counter's
tick, and the ratio of two equal arms in three fresh processes.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median, stdev
from typing import Any

import torch

from frugal import hardware
from frugal.clock import Clock, SystemClock
from frugal.controls import wanted
from frugal.energy import Meter
from frugal.errors import FrugalError
from frugal.processes import python_path
from frugal.provenance.sources import library
from frugal.timing import Arm, Case, Design, Device, Inputs, Prepared, Reference, measure_case
from frugal.timing.ceilings import ceilings
from frugal.timing.lease import lease
from frugal.timing.warmup import warm_up

from .check import PASS, WARN, Check, graded

PROCESSES = 3
PAIR_LIMIT_S = 120.0
IDLE_S = 4.0  # of which the first is dropped: some thirty ticks of a tenth of a second
COPIED = 1 << 20  # float32 numbers: small enough that dirty lines of a flushed cache are most of what it meets
FLUSH_MAX = 0.02
SIGMA_MAX = {"cuda": 0.01, "cpu": 0.1}  # of ln of a ratio of equal arms, over processes

Pairs = Callable[[], Sequence[Mapping[str, float]]]


def calibrate(
    device: Device,
    gpu_name: str | None = None,
    *,
    clock: Clock | None = None,
    meter: Any | None = None,
    pairs: Pairs | None = None,
    say: Callable[[str], None] = print,
) -> list[Check]:
    """Measure on `device`, which is leased meanwhile. `gpu_name`: for its datasheet.

    `clock`, `meter` (frugal.energy.Meter) and `pairs` (ratios by regime, of each process) are for tests.
    """
    clock = clock or SystemClock()
    # in processes of their own, and before this one takes memory and heats the device
    ratios = (pairs or partial(null_pairs, device.kind))()
    with lease(device.uuid, say):
        with device.active():
            warm_up(device, Design.of("quick"), clock)
        rates = ceilings(device, clock)
        found = [*_rates(rates, gpu_name), *_floors(rates), *_flush(device, clock)]
        return [*found, _tick(meter or Meter(device, clock=clock)), *_sigmas(ratios, device.kind)]


def null_pairs(kind: str, processes: int = PROCESSES) -> list[dict[str, float]]:
    """{regime: ratio} of two equal arms, in each of some fresh processes. FrugalError where one does not answer."""
    environment = os.environ | {"PYTHONPATH": python_path(library())}
    command = [sys.executable, "-P", "-m", "frugal.doctor.pair", kind]
    found = []
    for _ in range(processes):
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=PAIR_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise FrugalError(f"two equal arms were not measured within {PAIR_LIMIT_S:g} s: look at the load") from None
        if done.returncode != 0:
            cause = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise FrugalError(f"two equal arms could not be measured ({cause}): run frugal doctor without --calibrate")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def _rates(rates: Mapping[str, float | None], gpu_name: str | None) -> list[Check]:
    """Ceilings, beside the datasheet where the device has one."""
    listed = hardware.lookup(gpu_name) if gpu_name else None
    window = wanted.COPY
    copied = rates["copy_bytes_per_s"] or 0.0
    share = copied / listed.bytes_per_s if listed else None
    beside = f", {share:.0%} of the datasheet" if share is not None else ""
    found = [
        graded(
            "copy",
            warn=share is not None and share not in window,
            found=f"{copied / 1e9:.4g} GB/s{beside}",
            wanted=f"{window.low:.0%} to {window.high:.0%} of the datasheet, where one is known",
            mend="look at other processes, MIG and clocks above",
        )
    ]
    for name, column in (("fp32", "flops_fp32"), ("TF32", "flops_tf32"), ("fp16", "flops_fp16")):
        rate = rates.get(column)
        if rate is not None:
            peak = getattr(listed, column, None)
            part = f", {rate / peak:.0%} of the datasheet" if peak else ""
            found.append(Check(f"{name} matmul", PASS, f"{rate / 1e12:.4g} TFLOP/s{part}", "recorded as a ceiling"))
    return found


def _floors(rates: Mapping[str, float | None]) -> list[Check]:
    """What a launch costs the host, and the least that two events read; a CPU has neither."""
    named = (
        ("launch", "launch_s", "the host's time for one"),
        ("event floor", "event_floor_s", "of two adjacent events"),
    )
    return [
        Check(name, PASS, f"{value * 1e6:.2f} µs {what}", "published, and subtracted from nothing")
        for name, column, what in named
        if (value := rates.get(column)) is not None
    ]


def _flush(device: Device, clock: Clock) -> list[Check]:
    """How much longer a small copy takes in `cold` when the flush leaves dirty lines; a CPU's flush only reads."""
    if device.kind == "cpu":
        return []
    values: dict[str, list[float]] = {"write": [], "write_read": []}
    for session, mode in enumerate(("write", "write_read", "write_read", "write")):
        result = measure_case(
            _small_copy(device), [_copy_arm()], Design.of("quick", flush=mode), session, device, clock
        )
        values[mode] += [row.value for row in result.rows if row.value is not None]
    name, wish = "flush", f"write and write_read within {FLUSH_MAX:.0%}"
    if not all(values.values()):
        return [Check(name, WARN, "not measured", wish, "look at the log for what failed")]
    more = median(values["write"]) / median(values["write_read"]) - 1
    return [
        graded(
            name,
            warn=abs(more) > FLUSH_MAX,
            found=f"a 4 MB copy takes {more:+.1%} after write, compared with write_read",
            wanted=wish,
            mend="set timing.flush to write_read in config.yaml for kernels as small as that",
        )
    ]


def _small_copy(device: Device) -> Case:
    def inputs(seed: int, phase: str) -> Inputs:
        generator = torch.Generator(device.kind).manual_seed(seed)
        return {"x": torch.randn(COPIED, generator=generator, device=device.kind)}

    def reference(given: Inputs) -> Reference:
        x = given["x"].double()
        return Reference(y=x, s=x.abs(), terms=1)

    return Case("doctor", "flush", {"numbers": COPIED}, inputs, reference)


def _copy_arm() -> Arm:
    def prepare(inputs: Inputs) -> Prepared:
        x = inputs["x"]
        y = torch.empty_like(x)
        return Prepared(run=torch.inference_mode()(lambda: y.copy_(x)), outputs=(y,), keep=(x,))

    return Arm(name="copy", role="baseline", prepare=prepare, regimes=("cold",), bytes_min=8.0 * COPIED)


def _tick(meter: Any) -> Check:
    """The period of the energy counter, from seconds of doing nothing."""
    wish = "a counter that ticks at least five times a second"
    if meter.source is None:
        return Check("energy tick", WARN, str(meter.reason), wish, "nothing to type: rows have no energy")
    idle = meter.idle(IDLE_S)
    power = "" if idle.power_w is None else f", {idle.power_w:.1f} W at rest"
    return graded(
        "energy tick",
        warn=idle.tick_s is None and meter.source == "counter",
        found=(f"{idle.tick_s * 1e3:.0f} ms" if idle.tick_s else f"none (source: {meter.source})") + power,
        wanted=wish,
        mend="raise timing.energy_span_s: a span holds twenty ticks at least",
    )


def _sigmas(ratios: Sequence[Mapping[str, float]], kind: str) -> list[Check]:
    """The standard deviation of ln of the ratio of equal arms over processes, by regime."""
    found = []
    for regime in sorted(set.intersection(*(set(one) for one in ratios))):
        logs = [math.log(one[regime]) for one in ratios]
        sigma, middle = stdev(logs), math.exp(sum(logs) / len(logs))
        found.append(
            graded(
                f"equal arms, {regime}",
                warn=sigma > SIGMA_MAX[kind],
                found=f"σ {sigma:.2%} over {len(logs)} processes, mean ratio {middle:.4f}",
                wanted=f"σ at most {SIGMA_MAX[kind]:.0%}",
                mend="look at load, stolen time, clocks and other processes above; more sessions narrow intervals",
            )
        )
    return found
