"""Which jobs SFT's campaign is cut into: small ones, each of which is finished or done again by itself.

Read while planning: no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from frugal.sft import offered
from frugal.sft.offered import COUNTED, STEPS, Method, Subject

T = TypeVar("T")

COUNTED_JOB = "counted"  # in `smoke`: all that is not timed
MOST_S = 600.0  # of one job on a GPU
START_S = 60.0  # of it: the process, the controls, the ceilings
# How long a step takes is only reckoned, to cut jobs: FLOP a second of an H200 in whole steps, runs of an arm in a
# session (first calls, estimates, warm-ups, six samples, checks), and multiply-adds over the untiled step's, of the
# published schedule and of one segment as frugal.sft.ratios has them for sizes from 10240 on.
RATES = {"fp32": 4.7e13, "tf32": 1.9e14, "bf16": 3.4e14}
RUNS = 15
RECOMPUTED = 1.5
COSTS = {"vgg16": {"sft_artifact": 2.6, "tiled_1seg": 1.8}, "darknet19": {"sft_artifact": 4.1, "tiled_1seg": 2.2}}


def steps(sft: Mapping[str, object], kind: str) -> list[str]:
    """Names of the jobs that time steps, one session each: in `smoke` one does all, so that little time goes to starts.

    Elsewhere `<experiment>-<network>-<precision>-<size>`, and where that takes a GPU long `…-part<i>of<n>`, each with
    some of the arms (`dealt`), whose times are then compared across processes.
    """
    asked = [name for name in STEPS if name in sft["experiments"]]
    if sft["preset"] == "smoke":
        return ["all"] if asked else []
    groups: dict[str, list[tuple[str, Subject]]] = {}
    for experiment in asked:
        for each in offered.step_subjects(experiment, sft, kind):
            groups.setdefault(f"{experiment}-{_label(each)}", []).append((experiment, each))
    found = []
    for name, cases in groups.items():
        counts = [offered.arm_count(experiment, sft, each, kind) for experiment, each in cases]
        together = max(1, int((MOST_S - START_S) / sum(_seconds(each) for _, each in cases)))
        parts = min(min(counts), math.ceil(max(counts) / together)) if kind == "cuda" else 1
        found += [name] if parts == 1 else [f"{name}-part{i}of{parts}" for i in range(1, parts + 1)]
    return found


def of_steps(name: str, sft: Mapping[str, object], kind: str) -> list[tuple[str, Subject]]:
    """(experiment, case) of a job of `steps`."""
    whole = name.partition("-part")[0]
    return [
        (experiment, each)
        for experiment in STEPS
        if experiment in sft["experiments"]
        for each in offered.step_subjects(experiment, sft, kind)
        if whole in ("all", f"{experiment}-{_label(each)}")
    ]


def dealt(name: str, arms: Sequence[T]) -> list[T]:
    """Of a case's arms those that a job of `steps` times."""
    i, _, parts = name.partition("-part")[2].partition("of")
    return list(arms)[int(i) - 1 :: int(parts)] if i else list(arms)


def too_long(method: Method, subject: Subject, kind: str) -> bool:
    """Whether one arm alone would take a GPU longer than a job may: the published schedule in fp32 on the largest image
    of VGG-16, which is timed in the other precisions."""
    cost = COSTS.get(subject.network.removesuffix("_bn"), {}).get(method.name, RECOMPUTED)
    return kind == "cuda" and cost / RECOMPUTED * _seconds(subject) > MOST_S


def counted(sft: Mapping[str, object], kind: str) -> list[tuple[str, str]]:
    """(job, shard) of what is not timed: a job an experiment; on a GPU `memory` has a shard a network, precision and
    size, and one for each case of `pareto`, `largest` one a network, precision and cap.

    In `smoke` one job, COUNTED_JOB, has all experiments: most of each would be its start.
    """
    asked = [name for name in COUNTED if name in sft["experiments"]]
    if sft["preset"] == "smoke":
        return [(COUNTED_JOB, "all")] if asked else []
    parts = {name: ["all"] for name in asked}
    if kind == "cuda":
        parts["memory"] = list(dict.fromkeys(_label(each) for each in offered.subjects(sft, kind)))
        if "pareto" in sft["experiments"]:
            cases = offered.step_subjects("pareto", sft, kind)
            parts["memory"] += dict.fromkeys(f"pareto-{_label(each)}" for each in cases)
        parts["largest"] = [
            f"{network}-{precision}-{cap:g}"
            for network in sft["networks"]
            for precision in offered.precisions(sft, kind)
            for cap in sft["caps_gib"]
        ]
    return [(name, shard) for name in asked for shard in parts[name]]


def experiments(job: str, sft: Mapping[str, object]) -> list[str]:
    """The experiments of a job of `counted`."""
    return [name for name in COUNTED if name in sft["experiments"]] if job == COUNTED_JOB else [job]


def has_memory(shard: str, experiment: str, subject: Subject) -> bool:
    """Whether a shard of `memory` has a case, its own or one of `pareto`."""
    return shard in ("all", ("pareto-" if experiment == "pareto" else "") + _label(subject))


def has_largest(shard: str, subject: Subject, cap_gib: float) -> bool:
    """Whether a shard of `largest` has a cap of a case."""
    return shard in ("all", f"{subject.network}-{subject.precision}-{cap_gib:g}")


def _label(subject: Subject) -> str:
    side = f"{subject.h}" if subject.h == subject.w else f"{subject.h}x{subject.w}"
    batch = f"-b{subject.batch}" if subject.batch > 1 else ""
    more = "".join(f"-{value}" for _, value in subject.more)
    return f"{subject.network}-{subject.precision}-{side}{batch}{more}"


def _seconds(subject: Subject) -> float:
    """Of an arm in a session on a GPU, on average."""
    macs, pixels = offered.PIXEL[subject.network][0], subject.batch * subject.h * subject.w
    flop = 2.0 * 3 * macs * pixels / subject.width_divisor**2
    return RUNS * RECOMPUTED * flop / RATES[subject.precision]
