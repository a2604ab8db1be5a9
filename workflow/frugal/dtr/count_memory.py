"""Experiment `memory`: what a step of each arm takes, what it counts, and what the simulator predicted.

On a GPU each step has a process of its own; on a CPU, where memory is counted exactly, all have one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from frugal.dtr import offered
from frugal.dtr.offered import Method, Subject
from frugal.dtr.probe import step_peaks
from frugal.jobs.counted import Result, Say, attempted
from frugal.memory import in_fresh_process
from frugal.timing import Device
from frugal.timing.faults import Fault, one_line

# What a fault takes the place of.
METRICS = {"cpu": ("peak_total", "differing"), "cuda": ("peak_total", "differing", "peak_allocated", "peak_reserved")}
DTR_METRICS = ("peak_managed", "overhead_counted")


def results(machine: Device, say: Say, shard: str, dtr: Mapping[str, object], logs: str) -> Iterator[Result]:
    """Every program of the shard with the arms of `budgets` and `arms`."""
    for subject in offered.subjects(dtr, machine.kind):
        if shard not in ("all", subject.network):
            continue
        for method in offered.memory_methods(dtr, subject, machine.kind):
            found = _measured(machine.kind, subject, method, dtr, logs)
            peak = found.values.get("peak_total") or found.values.get("peak_allocated")
            say(f"{subject.network}: {method.arm}: {f'{peak / 2**20:.1f} MiB' if peak else found.fault.status}")
            yield found


def _measured(kind: str, subject: Subject, method: Method, dtr: Mapping[str, object], logs: str) -> Result:
    given = {
        "network": subject.network, "sizes": dict(subject.sizes), "method": method.name,
        "settings": dict(method.settings), "logs": logs, "device": kind, "seed": dtr["seed"],
        "heuristic": dtr["heuristic"],
    }  # fmt: skip
    result = Result(
        experiment="memory", axes=subject.axes(), columns=subject.columns(), arm=method.arm, role=method.role,
        settings=dict(method.settings), metrics=METRICS[kind] + (DTR_METRICS if method.name == "dtr" else ()),
    )  # fmt: skip
    if kind == "cpu":
        return attempted(result, lambda: _fields(step_peaks(**given)))
    done = in_fresh_process("frugal.dtr.probe:step_peaks", given)
    if done.status != "ok":
        return dataclasses.replace(result, fault=Fault(done.status, one_line(done.reason or done.status)))
    return attempted(result, lambda: _fields(done.value))


def _fields(found: Mapping[str, object]) -> dict[str, object]:
    """Of what a probe found, the fields of a Result."""
    if "unsupported" in found:
        return {"fault": Fault("unsupported", one_line(str(found["unsupported"])))}
    if "thrash" in found:
        return {"fault": Fault("failed", one_line(f"ThrashError: {found['thrash']}"))}
    return {"values": found}
