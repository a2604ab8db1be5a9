"""Experiment `reach`: the largest batch, sequence or depth that trains under a cap of memory, and its time.

On a GPU every size is tried in a process of its own whose allocator may hand out the cap; `dtr` gets a share of it as
its budget, counts all that the allocator holds, and may recompute as much again as a step computes. On a CPU a step
runs without numbers and its tensors are counted, which is exact and takes no time; there nothing is timed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from frugal.dtr import offered
from frugal.dtr.cases import step
from frugal.dtr.offered import GIB, Method, Subject
from frugal.dtr.probe import TIMED_STEPS, counted_step
from frugal.dtr.programs import program
from frugal.errors import out_of_memory
from frugal.jobs.counted import Result, Say, attempted
from frugal.memory import Fit, LiveBytes, MaxSize, cuda_probe, in_fresh_process, max_size
from frugal.timing import Device

SHARE = 0.95  # of a GPU's cap: the budget of `dtr`, the rest being the allocator's


def results(machine: Device, say: Say, shard: str, dtr: Mapping[str, object], logs: str) -> Iterator[Result]:
    """Each program of the shard, cap and arm."""
    for subject, grows, high in offered.reach_subjects(dtr, machine.kind):
        for cap_gib in dtr["caps_gib"]:
            if shard not in ("all", offered.reach_shard(subject, cap_gib)):
                continue
            cap = min(int(cap_gib * GIB), machine.memory_bytes) if machine.kind == "cuda" else int(cap_gib * GIB)
            for method in offered.reach_methods(dtr, subject):
                found = _result(machine, subject, grows, high, cap, cap_gib, method, dtr)
                size = found.values.get("max_size")
                say(f"{subject.network}, {cap_gib:g} GiB: {method.arm}: {size or found.fault.status}")
                yield found


def _result(
    machine: Device, subject: Subject, grows: str, high: int, cap: int, cap_gib: float, method: Method,
    dtr: Mapping[str, object],
) -> Result:  # fmt: skip
    on_gpu = machine.kind == "cuda"
    more = {"grows": grows, "cap_gib": cap_gib, "device": "cuda" if on_gpu else "meta"}
    axes = {name: value for name, value in subject.axes().items() if name != grows} | more
    columns = {name: value for name, value in subject.columns().items() if grows != "batch" or name != "n"}
    result = Result(
        experiment="reach", axes=axes, columns=columns, arm=method.arm, role=method.role,
        metrics=("max_size", "time_per_sample") if on_gpu else ("max_size",),
    )  # fmt: skip

    def searched() -> dict[str, object]:
        step_size = offered.reach_step(dtr, high)
        if not on_gpu:
            return _fields(max_size(_counting(subject, grows, cap, method, dtr), step_size, high, step_size), {})
        step(program(subject.network, dict(subject.sizes), "meta", 0), method, None, "h_dtr_eq")  # Unsupported, at once
        given = _given(subject, grows, cap, method, dtr)
        found = max_size(cuda_probe("frugal.dtr.probe:grown_step", given, cap), step_size, high, step_size)
        return _fields(found, _time(subject, grows, cap, given, found.size))

    return attempted(result, searched)


def _fields(found: MaxSize, timed: Mapping[str, float]) -> dict[str, object]:
    if found.size is None:
        raise MemoryError("not even the smallest size fits")
    probes = {str(size): fit.fits for size, fit in found.probes.items()}
    reason = "the largest size that was tried fitted" if found.at_limit else None
    return {"values": {"max_size": found.size, **timed}, "settings": {"probes": probes}, "reason": reason}


def _given(subject: Subject, grows: str, cap: int, method: Method, dtr: Mapping[str, object]) -> dict[str, object]:
    settings = dict(method.settings) | ({"budget_bytes": int(SHARE * cap)} if method.name == "dtr" else {})
    return {
        "network": subject.network, "sizes": dict(subject.sizes), "grows": grows, "method": method.name,
        "settings": settings, "device": "cuda", "seed": dtr["seed"], "heuristic": dtr["heuristic"],
    }  # fmt: skip


def _time(subject: Subject, grows: str, cap: int, given: dict[str, object], size: int | None) -> dict[str, float]:
    """Seconds a sample at the largest size; nothing where none fits, or where later steps need more than the first."""
    if size is None:
        return {}
    call = "frugal.dtr.probe:grown_step"
    done = in_fresh_process(call, given | {"size": size, "steps": TIMED_STEPS}, cuda_cap_bytes=cap)
    if done.status != "ok":
        return {}
    return {"time_per_sample": float(done.value) / samples({**dict(subject.sizes), grows: size})}


def samples(sizes: Mapping[str, int]) -> int:
    """Rows of a step times steps of a sequence or nodes of a tree."""
    nodes = 2 ** (sizes["depth"] + 1) - 1 if "depth" in sizes else sizes.get("seq", 1)
    return sizes["batch"] * nodes


def _counting(subject: Subject, grows: str, cap: int, method: Method, dtr: Mapping[str, object]):
    """Whether a step's tensors stay below a cap, on the meta device."""

    def probe(size: int) -> Fit:
        made = program(subject.network, {**dict(subject.sizes), grows: size}, "meta", int(dtr["seed"]))
        settings = dict(method.settings) | ({"budget_bytes": cap} if method.name == "dtr" else {})
        live = LiveBytes(limit=cap, collect=False)
        try:
            counted_step(live, made, step(made, Method(method.name, settings), None, str(dtr["heuristic"])))
        except Exception as error:
            if not out_of_memory(error):
                raise
            return Fit(False, str(error))
        return Fit(True)

    return probe
