"""Experiment `largest`: the largest square image that a step of an arm fits on, under emulated caps of memory.

On a CPU the step runs on the meta device and its tensors are counted (frugal.memory.LiveBytes), which is exact and
costs no time; there, and before anything runs on a GPU, a size is looked for so. On a GPU sizes around it are then
tried in fresh processes whose allocator may hand out the cap less what the CUDA context takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache

from frugal.errors import out_of_memory
from frugal.memory import Fit, LiveBytes, MaxSize, Probe, cuda_probe, in_fresh_process, max_size
from frugal.sft import methods, offered, shards
from frugal.sft.cases import Training
from frugal.sft.errors import BudgetError
from frugal.sft.offered import GIB, MIB, Method, Subject
from frugal.sft.rows import Result, Say, attempted
from frugal.timing import Device

STEP = 32  # pixels: what the deepest network divides a side by
AROUND = (0.85, 1.1)  # of the counted size: between them the one that runs is looked for
PROBES = 32  # sizes between them: five steps of bisection
SHARE = 0.95  # of a GPU's cap: what a plan may use, the rest being the allocator's


def results(machine: Device, say: Say, shard: str, sft: Mapping[str, object], photographs: str) -> Iterator[Result]:
    """Each cap, network and precision with the arms of `largest`; in `smoke` the first network alone."""
    subjects = list(offered.largest_subjects(sft, machine.kind))
    for subject in subjects[:1] if sft["preset"] == "smoke" else subjects:
        for cap_gib in (each for each in sft["caps_gib"] if shards.has_largest(shard, subject, each)):
            cap = int(cap_gib * GIB)
            for method in offered.largest_methods(sft, subject, cap // MIB):
                axes = subject.axes() | {"cap_gib": cap_gib, "device": "cuda" if machine.kind == "cuda" else "meta"}
                del axes["h"], axes["w"]
                result = Result("largest", subject, method, metrics=("size_max",), axes=axes)

                def searched(subject: Subject = subject, method: Method = method, cap: int = cap) -> dict:
                    return _fields(_searched(machine, subject, method, cap, sft, photographs))

                found = attempted(result, searched)
                size = found.values.get("size_max")
                say(f"{subject.network}, {cap_gib:g} GiB: {method.arm}: {size or found.fault.status}")
                yield found


def _fields(found: MaxSize) -> dict[str, object]:
    probes = {"probes": {str(size): fit.fits for size, fit in found.probes.items()}}
    if found.size is None:
        raise MemoryError("not even the smallest image fits")
    reason = "the largest size that was tried fitted" if found.at_limit else None
    return {"values": {"size_max": found.size}, "settings": probes, "reason": reason}


def _searched(
    machine: Device, subject: Subject, method: Method, cap: int, sft: Mapping[str, object], photographs: str
) -> MaxSize:
    step = STEP * int(method.settings.get("tiles", 1)) if method.name == "sft_artifact" else STEP
    greatest = offered.LARGEST_HIGH.get(sft["preset"], offered.LARGEST_HIGH_MORE)
    counted = max_size(_counting(subject, method, cap, photographs), step, greatest, step)
    if machine.kind != "cuda" or counted.size is None:
        return counted
    given = {
        "subject": dataclasses.asdict(subject), "method": method.name, "photographs": photographs, "device": "cuda",
        "settings": dict(method.settings), "seed": sft["seed"],
    }  # fmt: skip
    if "budget_mib" in method.settings:
        given["settings"] = dict(method.settings) | {"budget_mib": int(SHARE * cap) // MIB}
    probe = cuda_probe("frugal.sft.probe:step_once", given, cap - _context_bytes())
    low, high = (max(step, int(share * counted.size) // step * step) for share in AROUND)
    high, coarse = min(high, greatest), max(step, (high - low) // PROBES // step * step)
    found = max_size(probe, low, high, coarse)
    return max_size(probe, step, low, step) if found.size is None else found


def _counting(subject: Subject, method: Method, cap: int, photographs: str) -> Probe:
    """Whether a step's tensors stay below a cap, on the meta device."""

    @cache
    def training(size: int) -> Training:
        return Training(dataclasses.replace(subject, h=size, w=size), photographs, "meta", 0)

    def probe(size: int) -> Fit:
        own = training(size)
        if "budget_mib" in method.settings:
            return _plan_fits(own, method)
        model = own.network()
        forward = own.forward(model, method)
        optimiser = methods.sgd(model)
        live = LiveBytes(limit=cap, collect=False)
        try:
            state = [value for each in optimiser.state.values() for value in each.values() if value is not None]
            live.track([*model.parameters(), *model.buffers(), *state, own.image(0)])
            with live:
                own.step(model, forward, 0, method, optimiser)()
        except Exception as error:
            if not out_of_memory(error):
                raise
            return Fit(False, str(error), live.peak_total)
        return Fit(True, None, live.peak_total)

    return probe


def _plan_fits(training: Training, method: Method) -> Fit:
    host = int(method.settings.get("host_mib", 0)) * MIB
    try:
        made = training.planned(int(method.settings["budget_mib"]) * MIB, host_budget_bytes=host)
    except BudgetError as problem:
        return Fit(False, str(problem))
    return Fit(True, None, made.predicted_peak_bytes)


@cache
def _context_bytes() -> int:
    return int(in_fresh_process("frugal.sft.probe:context_bytes", {}).expect_ok("context_bytes").value)
