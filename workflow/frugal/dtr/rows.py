"""The job files of DTR's experiments that no session times (frugal.dtr.cases has the table)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from frugal import provenance
from frugal.jobs import counted
from frugal.jobs.counted import Result, Say
from frugal.timing import Device

UNITS = {
    "peak": "B", "constants": "B", "bottleneck": "B", "smallest": "B", "time_compute": "s",
    "peak_total": "B", "peak_managed": "B", "over_budget": "B", "peak_predicted": "B",
    "peak_allocated": "B", "peak_reserved": "B", "allocated": "B", "reserved": "B", "largest_hole": "B",
    "time_base": "s", "time_remat": "s", "time_search": "s", "time_cost_model": "s", "time_dispatch": "s",
    "time_per_sample": "s",
}  # fmt: skip
HIGHER_IS_BETTER = ("max_size",)
# The function of each experiment: of (machine, say, shard, dtr, logs) to its Results.
EXPERIMENTS = {
    "simulate": "frugal.dtr.count_simulate:results",
    "chain": "frugal.dtr.count_chain:results",
    "static": "frugal.dtr.count_static:results",
    "memory": "frugal.dtr.count_memory:results",
    "reach": "frugal.dtr.count_reach:results",
    "fragmentation": "frugal.dtr.count_fragmentation:results",
}


def write(
    *,
    experiment: str,
    shard: str,
    dtr: Mapping[str, object],
    logs: str | Path,
    device: str | Path,
    preset: str,
    threads: int,
    config_json: str,
    campaign_id: str | None,
    log: str,
    out: str | Path,
    say: Say = print,
) -> None:
    """Run an experiment's shard (frugal.dtr.offered.counted_shards) and write its job file (frugal.records) to `out`.

    dtr: that section of the configuration (frugal.config.dtr). logs: the folder of the captured logs, or a published
    log. device: the device file, whose machine computes. Raises FrugalError where this machine is another one, and
    LogError for a log that is damaged.
    """
    module, _, name = EXPERIMENTS[experiment].partition(":")
    source, results = provenance.source_hash(module), getattr(importlib.import_module(module), name)

    def found(machine: Device) -> Iterator[tuple[str, Result]]:
        for result in results(machine, say=say, shard=shard, dtr=dtr, logs=str(logs)):
            yield source, result

    counted.write(
        found,
        system="dtr",
        experiment=experiment,
        units=UNITS,
        higher_is_better=HIGHER_IS_BETTER,
        seed=int(dtr["seed"]),
        device=device,
        preset=preset,
        threads=threads,
        config_json=config_json,
        campaign_id=campaign_id,
        log=log,
        out=out,
        say=say,
    )
