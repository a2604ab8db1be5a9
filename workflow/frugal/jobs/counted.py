"""One job file of what no session times: results one after the other, every attempt with its rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from frugal import provenance
from frugal.clock import SystemClock
from frugal.records import Measurement, canonical_json, case_id, write_job
from frugal.timing import Device, device_of
from frugal.timing.faults import Fault, fault_of

Say = Callable[[str], None]
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one arm of one case gave: {metric: value}, or why it gave nothing.

    axes: of the case. settings: the arm's own, for the row. metrics: what a fault takes the place of. columns: further
    columns of the rows (network, n, h, w, dtype, …). base_bytes: of metric `peak_live`. reason: what is to be known
    beside a value.
    """

    experiment: str
    axes: Mapping[str, object]
    arm: str
    role: str
    settings: Mapping[str, object] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    fault: Fault | None = None
    columns: Mapping[str, object] = field(default_factory=dict)
    base_bytes: int | None = None
    reason: str | None = None


def attempted(result: R, body: Callable[[], Mapping[str, object]], fault: Callable[[Exception], Fault] = fault_of) -> R:
    """The result (a dataclass with a field `fault`) with the fields that `body` gives, or its exception's fault."""
    try:
        return dataclasses.replace(result, **body())
    except Exception as error:
        return dataclasses.replace(result, fault=fault(error))


def write(
    found: Callable[[Device], Iterable[tuple[str, Result]]],
    *,
    system: str,
    experiment: str,
    units: Mapping[str, str],
    higher_is_better: tuple[str, ...] = (),
    seed: int,
    device: str | Path,
    preset: str,
    threads: int,
    config_json: str,
    campaign_id: str | None,
    log: str,
    out: str | Path,
    say: Say = print,
) -> None:
    """Write what `found(machine)` gives, (source hash, result), as a job file (frugal.records) to `out`.

    experiment: the job's, in `runs`. units: of metrics, where they are not "1". device: the device file, whose machine
    computes. Raises FrugalError where this machine is another one.
    """
    import torch

    clock = SystemClock()
    started = clock.ns()
    provenance.check_device(device)
    machine = device_of(json.loads(Path(device).read_text(encoding="utf-8")))
    torch.set_num_threads(threads)
    run = provenance.collect(
        machine, experiment=experiment, preset=preset, session=0, sessions_planned=1, threads=threads,
        config_json=config_json, campaign_id=campaign_id,
    )  # fmt: skip
    common = {"run_id": run.run_id, "system": system, "log": log, "seed": seed}
    rows = [
        row
        for source, result in found(machine)
        for row in _rows(result, {**common, "source_hash": source}, units, higher_is_better)
    ]
    run.finished_at = clock.now()
    run.wall_s = (clock.ns() - started) * 1e-9
    write_job(out, run, rows, {})
    faults = sum(row.status != "ok" for row in rows)
    say(f"{experiment}: {len(rows)} rows" + f", {faults} of them without a value" * bool(faults))


def _rows(
    result: Result, common: Mapping[str, object], units: Mapping[str, str], higher_is_better: tuple[str, ...]
) -> Iterable[Measurement]:
    fault, measured = result.fault, int(result.fault is None)
    axes_json, named = canonical_json(dict(result.axes)), case_id(common["system"], result.experiment, result.axes)
    settings = canonical_json(dict(result.settings)) if result.settings else None
    columns = {"dtype": "float32", **result.columns}
    for metric in result.metrics if fault else result.values:
        yield Measurement(
            **common,
            **columns,
            case_id=named,
            session=0,
            experiment=result.experiment,
            arm=result.arm,
            role=result.role,
            axes_json=axes_json,
            arm_json=settings,
            metric=metric,
            unit=units.get(metric, "1"),
            higher_is_better=metric in higher_is_better,
            conditional=True,
            n_samples=measured,
            n_blocks=measured,
            n_discarded=0,
            n_mild=0,
            n_severe=0,
            order_seed=common["seed"],
            value=None if fault else float(result.values[metric]),
            base_bytes=result.base_bytes if metric == "peak_live" else None,
            status=fault.status if fault else "ok",
            reason=fault.reason if fault else result.reason,
        )
