"""Experiment `memory`, and the memory of `pareto`: what a step of each arm takes.

On a GPU each step has a process of its own. On a CPU nothing is computed: tensors are counted on the meta device, where
they are the same to the byte.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from frugal.memory import in_fresh_process
from frugal.sft import offered, shards
from frugal.sft.bench_step import arms_of
from frugal.sft.cases import Training
from frugal.sft.offered import Method, Subject
from frugal.sft.probe import step_peaks
from frugal.sft.rows import Result, Say, attempted
from frugal.timing import Device
from frugal.timing.faults import Fault, one_line

METRICS = {
    "cpu": ("peak_live", "macs"),
    "cuda": (
        "peak_live", "peak_allocated", "peak_reserved", "workspace", "time_forward", "time_backward", "macs",
    ),
}  # fmt: skip


def results(machine: Device, say: Say, shard: str, sft: Mapping[str, object], photographs: str) -> Iterator[Result]:
    """All arms of `sizes` under the name of `memory`, and those of `pareto` under its own."""
    wanted = [("memory", each) for each in offered.subjects(sft, machine.kind)]
    if "pareto" in sft["experiments"]:
        wanted += [("pareto", each) for each in offered.step_subjects("pareto", sft, machine.kind)]
    for experiment, subject in wanted:
        if not shards.has_memory(shard, experiment, subject):
            continue
        training = Training(subject, photographs, machine.kind, sft["seed"])
        if experiment == "memory":
            methods = offered.methods(sft, subject, machine.kind)
        else:
            methods = arms_of("pareto", training, sft, machine.kind)
        for method in methods:
            found = _measured(experiment, machine.kind, subject, method, sft, photographs)
            peak = found.values.get("peak_live")
            say(
                f"{subject.network} {subject.h}: {method.arm}: "
                + (f"{peak / 2**20:.1f} MiB" if peak else found.fault.status)
            )
            yield found


def _measured(
    experiment: str, kind: str, subject: Subject, method: Method, sft: Mapping[str, object], photographs: str
) -> Result:
    given = {
        "subject": dataclasses.asdict(subject), "method": method.name, "settings": dict(method.settings),
        "photographs": photographs, "device": "cuda" if kind == "cuda" else "meta", "seed": sft["seed"],
    }  # fmt: skip
    result = Result(experiment, subject, method, metrics=METRICS[kind])
    if kind == "cpu":
        return attempted(result, lambda: _fields(step_peaks(**given), kind))
    done = in_fresh_process("frugal.sft.probe:step_peaks", given)
    if done.status != "ok":
        return dataclasses.replace(result, fault=Fault(done.status, one_line(done.reason or done.status)))
    return attempted(result, lambda: _fields(done.value, kind))


def _fields(found: Mapping[str, object], kind: str) -> dict[str, object]:
    """Of what a probe found, the fields of a Result."""
    if "unsupported" in found:
        return {"fault": Fault("unsupported", one_line(str(found["unsupported"])))}
    return {
        "values": {name: found[name] for name in METRICS[kind]},
        "settings": found["plan"],
        "base_bytes": found["base_bytes"],
        "flop": 2.0 * found["macs"],
    }
