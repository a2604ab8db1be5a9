"""Experiment `simulate`: every heuristic, way to deallocate and budget on the logs, in the simulator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from frugal.dtr import captures, offered
from frugal.dtr.logs import Log, read_log
from frugal.dtr.minbudget import minimum_budget
from frugal.dtr.offered import CAPTURED, PUBLISHED, Method, Subject
from frugal.dtr.sim import SimResult, simulate
from frugal.jobs.counted import Result, Say
from frugal.timing import Device
from frugal.timing.faults import Fault

METRICS = ("overhead", "tensor_accesses", "heuristic_evals", "remats", "evictions", "peak")


def results(machine: Device, say: Say, shard: str, dtr: Mapping[str, object], logs: str) -> Iterator[Result]:
    """The captured logs of the shard, or the published one that it names."""
    for subject, log in logs_of(shard, offered.subjects(dtr, machine.kind), logs):
        say(f"{subject.network} ({dict(subject.more)['origin']}): {len(log)} instructions")
        yield facts(subject, log)
        yield from simulated(subject, log, offered.simulated(dtr))


def logs_of(shard: str, subjects: Sequence[Subject], logs: str) -> Iterator[tuple[Subject, Log]]:
    """(program with its origin, log) of a shard: `all`, `<network>-captured`, or `<name>-published`.

    subjects: those whose logs are captured. logs: the folder of these, or a published log's path.
    """
    name, _, origin = shard.rpartition("-")
    if origin == PUBLISHED:
        yield Subject(name).having(origin=PUBLISHED), read_log(logs)
        return
    for subject in subjects:
        if shard == "all" or subject.network == name:
            yield subject.having(origin=CAPTURED), captures.read(subject.network, logs).log


def facts(subject: Subject, log: Log) -> Result:
    """What the program needs without a budget, as rows of the arm `plain`."""
    baseline, graph = log.baseline(), log.graph
    values = {
        "peak": baseline.memory,
        "constants": baseline.const,
        "bottleneck": baseline.bottleneck,
        "smallest": minimum_budget(log).lower_bytes,
        "time_compute": baseline.compute * 1e-9,
        "operators": len(graph.op_cost) - int(graph.op_constant.sum()),
        "storages": len(graph.storage_size),
    }
    return _result(subject, Method("plain"), values=values, settings={"costs": log.metadata.get("cost_source", "")})


def simulated(subject: Subject, log: Log, methods: list[Method]) -> Iterator[Result]:
    """One result an arm, in order; side by side in as many threads as torch has."""
    log.baseline()  # once, before the threads share it

    def one(method: Method) -> Result:
        given = dict(method.settings)
        found = simulate(log, method.name, **given)
        settings = {"heuristic": method.name, "budget_bytes": found.budget_bytes, **given}
        fault = fault_of(found)
        return _result(subject, method, settings=settings, fault=fault, values={} if fault else values_of(found))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(one, methods)


def values_of(found: SimResult) -> dict[str, float]:
    """METRICS of a run that ended well."""
    return {name: getattr(found, name) for name in METRICS[:-1]} | {"peak": found.max_memory}


def fault_of(found: SimResult) -> Fault | None:
    """What became of a run that did not end well."""
    if found.status == "oom":
        return Fault("oom", f"{found.failed_name}: {found.short_bytes} bytes short of {found.required_bytes}")
    if found.status == "thrash":
        return Fault("failed", f"ThrashError: recomputation passed the limit at {found.failed_name}")
    return None


def _result(subject: Subject, method: Method, **more: object) -> Result:
    return Result(
        experiment="simulate", axes=subject.axes(), columns=subject.columns(), arm=method.arm,
        role="ours", metrics=METRICS[:1], **more,
    )  # fmt: skip
