"""Experiment `training`: the loss over steps of SGD with momentum, untiled and planned, from the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from frugal.sft import methods, offered
from frugal.sft.cases import Training, plan_settings
from frugal.sft.offered import MIB, Method, Subject
from frugal.sft.rows import Result, Say, attempted
from frugal.timing import Device

TIGHT = 1.1  # of the smallest budget that works
TURNS = 4  # the image is turned another way at each step


def results(machine: Device, say: Say, shard: str, sft: Mapping[str, object], photographs: str) -> Iterator[Result]:
    """Networks whose batch norms take the statistics of the image."""
    for network in offered.TRAINED.get(sft["preset"], offered.TRAINED_MORE):
        side = offered.TRAINING_SIZE.get(sft["preset"], min(sft["sizes"]))
        subject = Subject(network, sft["width_divisor"], 1, side, side, norms="train")
        training = Training(subject, photographs, machine.kind, sft["seed"])
        for method in (Method("vanilla"), Method("planned", {"budget_mib": None})):
            say(f"{network} {side}: {offered.TRAINING_STEPS} steps, {method.name}")
            yield from _trained(training, method)


def _trained(training: Training, method: Method) -> Iterator[Result]:
    losses: list[float] = []

    def train() -> dict[str, object]:
        chosen, model = method, training.network()
        if "budget_mib" in method.settings:
            budget = int(TIGHT * training.least_budget()) // MIB + 1
            chosen = Method(method.name, {"budget_mib": budget})
        with training.setup.flags():
            forward = training.forward(model, chosen)
            optimiser = methods.sgd(model)
            for number in range(offered.TRAINING_STEPS):
                step = training.step(model, forward, number % TURNS, chosen, optimiser)
                losses.append(float(step()))
        return {"method": chosen, "settings": plan_settings(forward)}

    subject = training.subject
    done = attempted(Result("training", subject, Method(method.name), metrics=("loss",)), train)
    for number in range(offered.TRAINING_STEPS):
        at = dataclasses.replace(subject, more=(("step", number),))
        values = {"loss": losses[number]} if done.fault is None else {}
        yield dataclasses.replace(done, subject=at, values=values)
