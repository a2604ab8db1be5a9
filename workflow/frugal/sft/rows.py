"""One job file of an experiment that no session times: its cases one after the other, every attempt with its rows."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from frugal import provenance
from frugal.jobs import counted
from frugal.jobs.counted import Say
from frugal.sft import shards
from frugal.sft.errors import BudgetError, SftError
from frugal.sft.offered import Method, Subject
from frugal.timing import Device
from frugal.timing.faults import Fault, fault_of, one_line

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
    return counted.attempted(result, body, _fault)


def _fault(error: Exception) -> Fault:
    if isinstance(error, BudgetError):
        return Fault("oom", one_line(str(error)))
    return Fault("unsupported", one_line(str(error))) if isinstance(error, SftError) else fault_of(error)


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

    def found(machine: Device) -> Iterator[tuple[str, counted.Result]]:
        for each in shards.experiments(experiment, sft):
            module, _, name = EXPERIMENTS[each].partition(":")
            source = provenance.source_hash(module)
            for result in getattr(importlib.import_module(module), name)(machine, say, shard, sft, photographs):
                yield source, _plain(result)

    counted.write(
        found,
        system="sft",
        experiment=experiment,
        units=UNITS,
        higher_is_better=HIGHER_IS_BETTER,
        seed=int(sft["seed"]),
        device=device,
        preset=preset,
        threads=threads,
        config_json=config_json,
        campaign_id=campaign_id,
        log=log,
        out=out,
        say=say,
    )


def _plain(result: Result) -> counted.Result:
    """The result as rows have it."""
    subject, method = result.subject, result.method
    axes = subject.axes() if result.axes is None else dict(result.axes)
    columns = {
        "network": subject.network,
        "dtype": {"bf16": "bfloat16", "fp64": "float64"}.get(subject.precision, "float32"),
        "tf32": subject.precision == "tf32",
        "layout": "nhwc" if subject.channels_last else "nchw",
        "flop": result.flop,
        **{name: value for name, value in subject.columns().items() if axes.get(name, value) == value},
    }
    return counted.Result(
        experiment=result.experiment,
        axes=axes,
        arm=method.arm,
        role=method.role,
        settings={**method.settings, **result.settings},
        values=result.values,
        metrics=result.metrics,
        fault=result.fault,
        columns=columns,
        base_bytes=result.base_bytes,
        reason=result.reason,
    )
