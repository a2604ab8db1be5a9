"""Experiment `fragmentation`: what a GPU's allocator holds over one step, with and without expandable segments.

How segments grow is decided when CUDA starts, so that each arm has a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from frugal.dtr import offered
from frugal.dtr.offered import Method, Subject
from frugal.jobs.counted import Result, Say
from frugal.memory import in_fresh_process
from frugal.timing import Device
from frugal.timing.faults import Fault, one_line

METRICS = ("allocated", "reserved", "largest_hole")
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"


def results(machine: Device, say: Say, shard: str, dtr: Mapping[str, object], logs: str) -> Iterator[Result]:
    """Each program of the shard with the arms of `fragmentation`; a row a moment."""
    for subject in offered.subjects(dtr, machine.kind):
        if shard not in ("all", subject.network):
            continue
        for method in offered.fragmentation_methods():
            say(f"{subject.network}: {method.arm}")
            yield from _watched(subject, method, dtr, logs)


def _watched(subject: Subject, method: Method, dtr: Mapping[str, object], logs: str) -> Iterator[Result]:
    settings = {key: value for key, value in method.settings.items() if key != "expandable"}
    given = {
        "network": subject.network, "sizes": dict(subject.sizes), "method": method.name, "settings": settings,
        "logs": logs, "seed": dtr["seed"], "heuristic": dtr["heuristic"], "moments": offered.MOMENTS,
    }  # fmt: skip
    with _allocator(bool(method.settings["expandable"])):
        done = in_fresh_process("frugal.dtr.probe:allocator_moments", given)
    fault = None if done.status == "ok" else Fault(done.status, one_line(done.reason or done.status))
    seen = done.value["moments"] if fault is None else [None]
    for moment, values in enumerate(seen):
        at = subject.having(moment=moment)
        yield Result(
            experiment="fragmentation", axes=at.axes(), columns=at.columns(), arm=method.arm, role=method.role,
            settings=dict(method.settings), metrics=METRICS, fault=fault,
            values=dict(zip(METRICS, values, strict=True)) if values else {},
        )  # fmt: skip


@contextmanager
def _allocator(expandable: bool) -> Iterator[None]:
    """The setting that processes started within find."""
    before = os.environ.get(ALLOCATOR)
    os.environ[ALLOCATOR] = f"expandable_segments:{expandable}"
    try:
        yield
    finally:
        if before is None:
            del os.environ[ALLOCATOR]
        else:
            os.environ[ALLOCATOR] = before
