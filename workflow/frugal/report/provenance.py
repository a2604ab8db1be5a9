"""Where the numbers come from: machine, software, code, configuration, sessions, and what the doctor found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from frugal.report import words
from frugal.report.inputs import Campaign
from frugal.report.tables import Table, badge, cell, number, table, without_empty

Write = Callable[[Any], str]


def _unit(unit: str) -> Write:
    return lambda value: words.quantity(value, unit)


_TEXT: Write = words.text
_FACTS: dict[str, tuple[tuple[str, str, Write], ...]] = {
    "Machine": (
        ("GPU", "gpu_name", _TEXT), ("compute capability", "compute_capability", _TEXT),
        ("SMs", "sm_count", _unit("1")),
        ("L2 cache", "l2_bytes", _unit("B")), ("GPU memory", "mem_bytes", _unit("B")),
        ("highest SM clock", "sm_hz_max", _unit("Hz")), ("power limit", "power_limit_w", _unit("W")),
        ("ECC", "ecc", _TEXT), ("MIG slice", "mig", _TEXT), ("clocks locked", "clocks_locked", _TEXT),
        ("driver", "driver", _TEXT), ("CPU", "cpu_model", _TEXT), ("cores", "cpu_cores", _unit("1")),
        ("threads", "threads", _unit("1")), ("governor", "cpu_governor", _TEXT), ("memory", "ram_bytes", _unit("B")),
        ("last-level cache", "llc_bytes", _unit("B")), ("virtualization", "virtualization", _TEXT),
        ("device key", "device_key", _TEXT),
    ),
    "Measured ceilings": (
        ("copy", "copy_bytes_per_s", _unit("B/s")), ("fp32 product", "flops_fp32", _unit("FLOP/s")),
        ("TF32 product", "flops_tf32", _unit("FLOP/s")), ("fp16 product", "flops_fp16", _unit("FLOP/s")),
        ("launch", "launch_s", _unit("s")), ("two adjacent events", "event_floor_s", _unit("s")),
        ("tick of the energy counter", "energy_tick_s", _unit("s")), ("idle power", "idle_w", _unit("W")),
        ("settled SM clock", "settled_sm_hz", _unit("Hz")), ("datasheet", "peak_source", _TEXT),
    ),
    "Software": (
        ("system", "os", _TEXT), ("kernel", "kernel", _TEXT), ("libc", "libc", _TEXT), ("Python", "python", _TEXT),
        ("torch", "torch", _TEXT), ("CUDA of torch", "torch_cuda", _TEXT), ("cuDNN", "cudnn", _TEXT),
        ("CUDA of the driver", "cuda_driver", _TEXT), ("Numba", "numba", _TEXT), ("numba-cuda", "numba_cuda", _TEXT),
        ("NumPy", "numpy", _TEXT), ("pyarrow", "pyarrow", _TEXT), ("Snakemake", "snakemake", _TEXT),
        ("container", "container_digest", _TEXT), ("installed packages", "lock_hash", lambda value: _short(value)),
    ),
    "Code and configuration": (
        ("frugal", "package_version", _TEXT), ("commit", "git_sha", lambda value: _short(value)),
        ("tracked files changed", "git_dirty", _TEXT), ("configuration", "config_hash", lambda value: _short(value)),
        ("preset", "preset", _TEXT),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """A group of (name, value) pairs about one machine."""

    title: str
    pairs: tuple[tuple[str, str], ...]


def facts(campaign: Campaign, machine: str) -> list[Facts]:
    """What the runs of a machine say, in groups; what nobody knows is left out, numbers that vary are a range."""
    runs = campaign.runs[campaign.runs["machine"] == machine]
    groups = []
    for title, wanted in _FACTS.items():
        pairs = tuple((name, _agreed(runs[column].dropna(), write)) for name, column, write in wanted)
        groups.append(Facts(title, tuple((name, value) for name, value in pairs if value)))
    return [group for group in groups if group.pairs]


def sessions(campaign: Campaign, name: str) -> Table | None:
    """One row a process; None where there is none."""
    several = len(campaign.machines) > 1
    rows = [
        [
            cell(run.experiment),
            number(run.session, lambda n: f"{n:.0f}"),
            *([cell(run.machine)] if several else []),
            number(run.started_at.timestamp(), lambda _, when=run.started_at: words.stamp(when)),
            number(run.wall_s, words.duration),
            number(run.load_1min),
            number(run.steal_fraction, words.percent),
            number(run.settled_sm_hz, _unit("Hz")),
            number(run.copy_bytes_per_s, _unit("B/s")),
            number(run.process_restarts, lambda n: f"{n:.0f}"),
            cell(run.run_id),
        ]
        for run in campaign.runs.sort_values("started_at").itertuples()
    ]
    if not rows:
        return None
    columns = ["experiment", "#session", *(["machine"] if several else []), "#started (UTC)", "#took", "#load",
               "#stolen", "#SM clock", "#copy", "#restarts", "run"]  # fmt: skip
    return without_empty(table(name, "Sessions and other jobs", columns, rows))


def findings(campaign: Campaign, name: str) -> Table | None:
    """What the doctor found wanting when the sessions began (`doctor_json`); None where it found nothing."""
    found: dict[tuple[str, str, str], int] = {}
    for text in campaign.runs["doctor_json"]:
        for check, given in json.loads(text).items():
            if given["level"] != "PASS":
                key = (given["level"], check, given["found"])
                found[key] = found.get(key, 0) + 1
    rows = [
        [badge(level), cell(check), cell(seen), number(times, lambda n: f"{n:.0f}")]
        for (level, check, seen), times in sorted(found.items())
    ]
    if not rows:
        return None
    note = "`frugal doctor` says what to type to mend each."
    return table(name, "What the doctor found when the sessions began", ["level", "check", "found", "#sessions"], rows,
                 note)  # fmt: skip


def substitutes(availability: Mapping[str, Mapping[str, Any]], name: str) -> Table | None:
    """The published files that could not be had (data/availability.json); None where each could."""
    rows = [
        [cell(file), cell(entry.get("reason"))]
        for file, entry in sorted(availability.items())
        if entry.get("where") == "none"
    ]
    if not rows:
        return None
    note = "Weights are replaced by random ones, images by the photographs that the Python packages bring."
    return table(name, "Published files that could not be had", ["file", "why"], rows, note)


def configurations(campaign: Campaign) -> list[str]:
    """The distinct configurations of the runs, as indented JSON."""
    return [json.dumps(json.loads(text), indent=1) for text in campaign.runs["config_json"].drop_duplicates()]


def _agreed(values: pd.Series, write: Write) -> str:
    """One value where all runs agree; else the range of numbers, or the first few texts."""
    distinct = list(dict.fromkeys(values.tolist()))
    if len(distinct) > 1 and all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct):
        low, high = write(min(distinct)), write(max(distinct))
        return low if low == high else f"{low} to {high}"
    return words.listing([_yes(value, write) for value in distinct], 3)


def _yes(value: Any, write: Write) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else write(value)


def _short(digest: Any) -> str:
    return words.text(digest)[:12]
