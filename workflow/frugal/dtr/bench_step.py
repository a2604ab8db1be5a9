"""Steps of training to be timed: experiments `budgets` and `arms`; and what DTR itself takes: `operators`, `simulator`.

A step is forward and backward; an optimiser stands outside. Weights, inputs and dropout are those of the turn in every
call, so that the last one of a block can still be compared: with the loss and the gradients of plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from frugal.dtr import bench_runtime, captures, methods, offered
from frugal.dtr.cases import Step, outputs, step
from frugal.dtr.offered import COMPILED, Method, Subject
from frugal.dtr.programs import Program, program
from frugal.provenance import source_hash
from frugal.timing import Arm, Case, Device, Inputs, Prepared, Reference
from frugal.timing.flags import flags

Say = Callable[[str], None]

PHASES = ("verify", "warm", "timed", "recheck")  # of a session: each has inputs of its own
# Relative L2 of each output to plain PyTorch's: what is recomputed is the same to the bit, but on a GPU sums of
# gradients have no fixed order, and what is compiled fuses and rounds otherwise.
NORM = {"eager": 1e-4, "compiled": 1e-2}


def cases(
    machine: Device,
    record: Mapping[str, object],
    say: Say,
    *,
    shard: str,
    dtr: Mapping[str, object],
    logs: str,
) -> Iterator[tuple[Case, list[Arm]]]:
    """The cases of one shard (frugal.dtr.offered) with their arms (frugal.jobs.Job.cases).

    dtr: that section of the configuration (frugal.config.dtr). logs: the folder of the captured logs.
    """
    for experiment, subject in offered.of_shard(shard, dtr, machine.kind):
        methods = offered.step_methods(experiment, dtr, subject, machine.kind)
        yield case(experiment, subject, machine, dtr), [arm(subject, each, machine, dtr, logs) for each in methods]
    asked = offered.timed_experiments(dtr)
    if shard in ("all", "operators") and "operators" in asked:
        yield from bench_runtime.operators(machine, dtr)
    if shard in ("all", "simulator") and "simulator" in asked:
        yield from bench_runtime.simulators(machine, dtr, logs)


def case(experiment: str, subject: Subject, machine: Device, dtr: Mapping[str, object]) -> Case:
    """A program as a timing case. Its input is the number of a turn."""

    def inputs(seed: int, phase: str) -> Inputs:
        return {"turn": torch.tensor([PHASES.index(phase)], device=machine.kind)}

    def reference(given: Inputs) -> list[Reference]:
        made = _program(subject, machine, dtr)
        with flags(tf32=False, autotune=False):
            right = outputs(made, step(made, Method("plain"), None, "").run(int(given["turn"])))
        return [Reference(y=value.double()) for value in right]

    columns = {name: value for name, value in subject.columns().items() if name != "network"}
    return Case(
        system="dtr",
        experiment=experiment,
        axes=subject.axes(),
        inputs=inputs,
        reference=reference,
        network=subject.network,
        columns=columns,
    )


def arm(subject: Subject, method: Method, machine: Device, dtr: Mapping[str, object], logs: str) -> Arm:
    """A method on a program, which is made at the first call and kept. A step of `dtr` knows all costs beforehand."""
    compiled = method.name in COMPILED
    settings: dict[str, object] = {**method.settings, **methods.settings_of(method.name)}
    made: list[tuple[Program, Step]] = []

    def prepare(inputs: Inputs) -> Prepared:
        if not made:
            capture = captures.read(subject.network, logs)
            own = _program(subject, machine, dtr)
            made.append((own, step(own, method, capture, str(dtr["heuristic"]))))
            if made[0][1].budget is not None:
                settings["budget_bytes"] = made[0][1].budget.budget_bytes
        own, found = made[0]
        turn = int(inputs["turn"])
        return Prepared(run=lambda: outputs(own, found.run(turn)), keep=(own,))

    return Arm(
        name=method.arm,
        role=method.role,
        prepare=prepare,
        tf32=False,
        layout="nchw",
        compiled=compiled,
        regimes=("wall",),  # whoever trains waits for a step, its launches included
        source_hash=source_hash("frugal.dtr.cases"),  # the runtime and a user's methods
        settings=settings,
        # another algorithm at the replay would give other bits: all arms have the same
        context=lambda: flags(tf32=False, autotune=False),
        tolerance="norm",
        norm_bound=NORM["compiled" if compiled else "eager"],
    )


def _program(subject: Subject, machine: Device, dtr: Mapping[str, object]) -> Program:
    return program(subject.network, dict(subject.sizes), machine.kind, int(dtr["seed"]))
