"""One job file of an experiment that no session times: its cases one after the other, every attempt with its rows."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from frugal import provenance
from frugal.clock import SystemClock
from frugal.records import Measurement, canonical_json, case_id, write_job
from frugal.sft import shards
from frugal.sft.errors import BudgetError, SftError
from frugal.sft.offered import Method, Subject
from frugal.timing import device_of
from frugal.timing.faults import Fault, fault_of, one_line

Say = Callable[[str], None]

UNITS = {
    "peak_live": "B", "peak_total": "B", "peak_allocated": "B", "peak_reserved": "B", "workspace": "B",
    "peak_predicted": "B", "time_forward": "s", "time_backward": "s", "time_step": "s", "time_predicted": "s",
}  # fmt: skip
HIGHER_IS_BETTER = ("size_max", "fits")
# The function of each experiment: of (machine, say, shard, sft, photographs) to its Results.
EXPERIMENTS = {
    "memory": "frugal.sft.count_memory:results",
    "largest": "frugal.sft.count_largest:results",
    "macs": "frugal.sft.count_macs:results",
    "prediction": "frugal.sft.count_prediction:results",
    "exactness": "frugal.sft.count_exactness:results",
    "training": "frugal.sft.count_training:results",
}


@dataclass(frozen=True)
class Result:
    """What one arm of one case gave: {metric: value}, or why it gave nothing.

    axes: of the case, where they are not the subject's. settings: the arm's own, for the row. metrics: what a fault
    takes the place of. reason: what is to be known beside a value.
    """

    experiment: str
    subject: Subject
    method: Method
    values: Mapping[str, float] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    fault: Fault | None = None
    axes: Mapping[str, object] | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    base_bytes: int | None = None
    flop: float | None = None
    reason: str | None = None


def attempted(result: Result, body: Callable[[], Mapping[str, object]]) -> Result:
    """The result with the fields that `body` gives, or with the fault that its exception is."""
    try:
        return dataclasses.replace(result, **body())
    except BudgetError as problem:
        return dataclasses.replace(result, fault=Fault("oom", one_line(str(problem))))
    except SftError as problem:
        return dataclasses.replace(result, fault=Fault("unsupported", one_line(str(problem))))
    except Exception as error:
        return dataclasses.replace(result, fault=fault_of(error))


def write(
    *,
    experiment: str,
    shard: str,
    sft: Mapping[str, object],
    photographs: str,
    device: str | Path,
    preset: str,
    threads: int,
    config_json: str,
    campaign_id: str | None,
    log: str,
    out: str | Path,
    say: Say = print,
) -> None:
    """Run a shard of a job (frugal.sft.shards.counted) and write its job file (frugal.records) to `out`.

    experiment: the job's name. sft: that section of the configuration (frugal.config.sft). photographs: the folder of
    the images. device: the device file, whose machine computes. Raises FrugalError where this machine is another one.
    """
    clock = SystemClock()
    started = clock.ns()
    provenance.check_device(device)
    machine = device_of(json.loads(Path(device).read_text(encoding="utf-8")))
    torch.set_num_threads(threads)
    run = provenance.collect(
        machine, experiment=experiment, preset=preset, session=0, sessions_planned=1, threads=threads,
        config_json=config_json, campaign_id=campaign_id,
    )  # fmt: skip
    rows: list[Measurement] = []
    for each in shards.experiments(experiment, sft):
        module, _, name = EXPERIMENTS[each].partition(":")
        source = provenance.source_hash(module)
        found: Iterable[Result] = getattr(importlib.import_module(module), name)(machine, say, shard, sft, photographs)
        rows += [row for result in found for row in _rows(result, run.run_id, source, log, int(sft["seed"]))]
    run.finished_at = clock.now()
    run.wall_s = (clock.ns() - started) * 1e-9
    write_job(out, run, rows, {})
    faults = sum(row.status != "ok" for row in rows)
    say(
        f"{experiment}: {len(rows)} rows"
        + (f", {faults} of them of what does not fit or is not supported" * bool(faults))
    )


def _rows(result: Result, run_id: str, source: str, log: str, seed: int) -> list[Measurement]:
    subject, method = result.subject, result.method
    axes = subject.axes() if result.axes is None else dict(result.axes)
    settings = {**method.settings, **result.settings}
    names = result.metrics if result.fault else tuple(result.values)
    return [
        Measurement(
            run_id=run_id,
            case_id=case_id("sft", result.experiment, axes),
            session=0,
            system="sft",
            experiment=result.experiment,
            network=subject.network,
            arm=method.arm,
            role=method.role,
            axes_json=canonical_json(axes),
            arm_json=canonical_json(settings) if settings else None,
            dtype={"bf16": "bfloat16", "fp64": "float64"}.get(subject.precision, "float32"),
            tf32=subject.precision == "tf32",
            layout="nhwc" if subject.channels_last else "nchw",
            seed=seed,
            source_hash=source,
            metric=metric,
            unit=UNITS.get(metric, "1"),
            higher_is_better=metric in HIGHER_IS_BETTER,
            conditional=True,
            n_samples=int(result.fault is None),
            n_blocks=int(result.fault is None),
            n_discarded=0,
            n_mild=0,
            n_severe=0,
            order_seed=seed,
            value=None if result.fault else float(result.values[metric]),
            base_bytes=result.base_bytes if metric == "peak_live" else None,
            flop=result.flop,
            status=result.fault.status if result.fault else "ok",
            reason=result.fault.reason if result.fault else result.reason,
            log=log,
            **{name: value for name, value in subject.columns().items() if axes.get(name, value) == value},
        )
        for metric in names
    ]
