"""Experiment `prediction`: plans under random budgets, and what a step of each really took."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping
from statistics import median

import torch
from torch import nn

from frugal.clock import SystemClock
from frugal.memory import LiveBytes, peak_cuda
from frugal.sft import offered
from frugal.sft.cases import Training
from frugal.sft.offered import MIB, Method, Subject
from frugal.sft.planner import plan
from frugal.sft.plans import Plan
from frugal.sft.rows import Result, Say, attempted
from frugal.sft.segments import SegmentedSequential
from frugal.timing import Device

METRICS = {
    "cpu": ("peak_predicted", "peak_total"),
    "cuda": ("peak_predicted", "peak_total", "peak_allocated", "time_predicted", "time_step"),
}
STEPS = 3
SLACK = 1.05  # of the smallest budget that works: the least that is drawn


def results(machine: Device, say: Say, shard: str, sft: Mapping[str, object], photographs: str) -> Iterator[Result]:
    """So many networks, sizes and budgets as the preset says, drawn from the seed."""
    draw = random.Random(int(sft["seed"]))
    count = offered.PLANS[sft["preset"]]
    for number in range(count):
        subject = drawn(draw, number, sft, machine.kind)
        # On a CPU tensors are counted where there are none: the numbers are the same, and nothing is computed.
        training = Training(subject, photographs, "cuda" if machine.kind == "cuda" else "meta", sft["seed"])
        share = draw.random()
        low, high = SLACK * training.least_budget(), float(training.untiled_peak())
        budget = round(low * max(1.0, high / low) ** share)
        method = Method("planned", {"budget_mib": -(-budget // MIB)})
        say(f"[{number + 1}/{count}] {subject.network} {subject.h} × {subject.w}: {method.arm}")

        planned: list[Plan] = []

        def measured(training: Training = training, method: Method = method, planned: list[Plan] = planned):
            return _measured(training, int(method.settings["budget_mib"]) * MIB, machine.kind, planned)

        found = attempted(Result("prediction", subject, method, metrics=METRICS[machine.kind]), measured)
        yield found
        if planned:
            yield from fits(found, int(method.settings["budget_mib"]) * MIB)


def fits(found: Result, budget: int) -> Iterator[Result]:
    """`fits`: 1 where a plan's step stayed within its budget, 0 where it did not or ran out of memory."""
    if found.fault is None:
        taken = found.values.get("peak_allocated", found.values["peak_total"])
        yield dataclasses.replace(found, values={"fits": float(taken <= budget)})
    elif found.fault.status == "oom":
        yield dataclasses.replace(found, values={"fits": 0.0}, fault=None, reason=found.fault.reason)


def drawn(draw: random.Random, number: int, sft: Mapping[str, object], kind: str) -> Subject:
    """A random case: any of the campaign's networks and precisions, any size up to the largest, not only squares."""
    network, largest = draw.choice(list(sft["networks"])), max(sft["sizes"])
    precision = draw.choice(list(offered.precisions(sft, kind)))
    h, w = (32 * draw.randint(2, largest // 32) for _ in range(2))
    return Subject(
        network, sft["width_divisor"], 1, h, w, precision, offered.layouts(sft, precision)[0], "device",
        offered.norms(sft, network), (("plan", number),),
    )  # fmt: skip


def _measured(training: Training, budget: int, kind: str, planned: list[Plan]) -> dict[str, object]:
    """planned: gets the plan, unless the budget is refused."""
    model = training.network()
    with training.setup.flags():
        made = _planned(training, model, budget)
        planned.append(made)
        return {"values": _step(training, model, made, kind), "settings": {"segments": len(made.segments)}}


def _planned(training: Training, model: nn.Module, budget: int) -> Plan:
    setup = training.setup
    return plan(model, training.subject.image_shape, budget, autocast=setup.autocast, channels_last=setup.channels_last)


def _step(training: Training, model: nn.Module, made: Plan, kind: str) -> dict[str, float]:
    """What the plan says, and what forward and backward pass took beside gradients that are already there."""
    forward, x = SegmentedSequential(model, made), training.image(0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)

    def run() -> None:
        with training.setup.casting(x.device.type):
            y = forward(x)
        y.backward(torch.ones_like(y))

    live = LiveBytes(512 if kind == "cuda" else 1)
    live.track([*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters()), x])
    with live:
        run()
    found = {"peak_predicted": float(made.predicted_peak_bytes or 0), "peak_total": float(live.peak_total)}
    if kind == "cuda":
        allocated, _ = peak_cuda(run)
        clock, times = SystemClock(), []
        for _ in range(STEPS):
            torch.cuda.synchronize()
            began = clock.ns()
            run()
            torch.cuda.synchronize()
            times.append((clock.ns() - began) * 1e-9)
        found |= {"peak_allocated": float(allocated.bytes), "time_step": median(times)}
        if made.predicted_time_s is not None:
            found["time_predicted"] = made.predicted_time_s
    return found
