"""Steps of training to be timed: experiments `sizes`, `pareto`, `tile_rate` and `streaming` (frugal.sft.cases).

A step is forward pass, loss, backward pass and SGD with momentum. Its learning rate is 0, so that every call computes
the same and the last one of a block can still be compared: the loss and the gradients of all parameters with those of
the untiled network in float64, where that is small enough to be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from frugal.provenance import source_hash
from frugal.sft import methods, offered, shards
from frugal.sft.cases import DATASET, Training, gradients, plan_settings
from frugal.sft.offered import Method
from frugal.timing import Arm, Case, Device, Inputs, Prepared, Reference

Say = Callable[[str], None]

PHASES = ("verify", "warm", "timed", "recheck")  # of a session: each sees the image turned another way

# Relative L2 of each output: rounding in fifty layers, and batch norms of few values between them.
NORM = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 1e-1}
# Multiply-adds of the largest step that is also computed in float64.
REFERENCE_MACS = {"cpu": 2e10, "cuda": 1e13}
REFERENCE_SHARE = 1 / 3  # of the device's memory, at most, for its activations


def cases(
    machine: Device,
    record: Mapping[str, object],
    say: Say,
    *,
    shard: str,
    sft: Mapping[str, object],
    photographs: str,
) -> Iterator[tuple[Case, list[Arm]]]:
    """The cases of one shard (frugal.sft.shards.steps) with their arms (frugal.jobs.Job.cases).

    sft: that section of the configuration (frugal.config.sft). photographs: the folder of the images.
    """
    for experiment, subject in shards.of_steps(shard, sft, machine.kind):
        training = Training(subject, photographs, machine.kind, sft["seed"])
        every = arms_of(experiment, training, sft, machine.kind)
        wanted = shards.dealt(shard, [each for each in every if not shards.too_long(each, subject, machine.kind)])
        yield case(experiment, training, machine), [arm(training, method) for method in wanted]


def arms_of(experiment: str, training: Training, sft: Mapping[str, object], kind: str) -> list[Method]:
    """The arms of a case."""
    subject = training.subject
    if experiment == "sizes":
        return offered.methods(sft, subject, kind)
    if experiment == "pareto":
        beside = offered.baselines(sft, subject, kind)
        budgets = training.budgets_mib(offered.pareto_count(sft, len(beside)))
        return [*beside, *(Method("planned", {"budget_mib": budget}) for budget in budgets)]
    if experiment == "tile_rate":
        return offered.rate_methods(sft, subject, kind)
    budget = sft["budgets_gib"][0]
    streamed = [offered.budgeted("planned", sft, budget, prefetch=ahead) for ahead in offered.prefetches(sft)]
    return [*streamed, offered.budgeted("planned", sft, budget, image="device")]


def case(experiment: str, training: Training, machine: Device) -> Case:
    """A subject as a timing case. Its input is the number of a turn; the image itself all arms share."""
    subject = training.subject

    def inputs(seed: int, phase: str) -> Inputs:
        return {"turn": torch.tensor([PHASES.index(phase)], device=machine.kind)}

    def reference(given: Inputs) -> list[Reference]:
        return [Reference(y=value) for value in training.float64(_turn(given))]

    return Case(
        system="sft",
        experiment=experiment,
        axes=subject.axes(),
        inputs=inputs,
        reference=reference if _small_enough(training, machine) else None,
        network=subject.network,
        columns=subject.columns() | {"dataset": DATASET, "flop_dense_equiv": 2.0 * sum(training.macs.values())},
    )


def arm(training: Training, method: Method) -> Arm:
    """A method on a subject. Its network and optimiser are made at the first call and kept."""
    subject, setup = training.subject, training.setup
    settings: dict[str, object] = dict(method.settings)
    made: list[tuple] = []

    def prepare(inputs: Inputs) -> Prepared:
        if not made:
            model = training.network()
            optimiser = methods.sgd(model)
            optimiser.param_groups[0]["lr"] = 0.0  # the momentum is kept up and the weights are written all the same
            made.append((model, training.forward(model, method), optimiser))
            settings.update(plan_settings(made[0][1]))
        model, forward, optimiser = made[0]
        step = training.step(model, forward, _turn(inputs), method, optimiser)

        def run() -> list[torch.Tensor]:
            loss = step.forward()
            step.backward(loss)
            found = [loss.detach(), *gradients(model)]
            step.update()
            return found

        return Prepared(run=run, keep=(step,))

    return Arm(
        name=method.arm,
        role="baseline" if method.settings.get("image") == "device" else method.role,
        prepare=prepare,
        dtype="bfloat16" if subject.precision == "bf16" else "float32",
        tf32=subject.precision == "tf32",
        layout="nhwc" if subject.channels_last else "nchw",
        compiled=method.name in offered.COMPILED,
        regimes=("wall",),  # whoever trains waits for a step, its launches included
        flop=2.0 * sum(training.macs.values()) if method.name == "vanilla" else None,
        source_hash=source_hash("frugal.sft.methods"),
        settings=settings,
        context=setup.flags,
        tolerance="norm",
        norm_bound=NORM[subject.precision],
    )


def _turn(given: Inputs) -> int:
    return int(given["turn"])


def _small_enough(training: Training, machine: Device) -> bool:
    """Whether the step is also computed in float64, untiled."""
    small = sum(training.macs.values()) <= REFERENCE_MACS[machine.kind]
    return small and 2 * training.untiled_peak() <= REFERENCE_SHARE * machine.memory_bytes
