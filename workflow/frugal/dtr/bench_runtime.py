"""What DTR's own work takes: experiments `operators` (the runtime, on tensors too small to matter) and `simulator`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from frugal.dtr import captures, offered
from frugal.dtr.budget import Budget
from frugal.dtr.count_simulate import values_of
from frugal.dtr.offered import CAPTURED, SIMULATED_RATIO, Method, Subject
from frugal.dtr.sim import simulate
from frugal.provenance import source_hash
from frugal.timing import Arm, Case, Device, Inputs, Prepared

# class -> (shape of the tensor that goes through, one operator of it)
CLASSES: Mapping[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "add": ((8,), lambda x: x + 1.0),
    "multiply": ((8,), lambda x: x * x),
    "view": ((2, 4), lambda x: x.reshape(4, 2).reshape(2, 4)),
    "in_place": ((8,), lambda x: (x + 1.0).add_(1.0)),
    "many_results": ((8,), lambda x: torch.cat(x.chunk(2))),
    "matrix": ((2, 4), lambda x: x @ x.t() @ x),
    "dropout": ((8,), lambda x: functional.dropout(x, 0.5)),
    "convolution": ((1, 2, 2, 2), lambda x: functional.conv2d(x, torch.ones(2, 2, 1, 1, device=x.device))),
    "batch_norm": ((2, 2, 1, 1), lambda x: functional.batch_norm(x, None, None, training=True)),
}


class _Chain(nn.Module):
    """Many operators of one class, one after the other."""

    def __init__(self, one: Callable[[Tensor], Tensor], count: int) -> None:
        super().__init__()
        self.one, self.count = one, count

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.count):
            x = self.one(x)
        return x


def operators(machine: Device, dtr: Mapping[str, object]) -> Iterator[tuple[Case, list[Arm]]]:
    """A case a class, with plain PyTorch and an unlimited budget."""
    length = offered.OPERATORS.get(str(dtr["preset"]), offered.OPERATORS_MORE)
    for name in offered.operator_classes(dtr):
        shape, one = CLASSES[name]
        chain = _Chain(one, length)
        ops = _dispatched(chain, shape, machine.kind)
        subject = Subject("chain", (("layers", length),)).having(**{"class": name, "ops": ops})

        def inputs(seed: int, phase: str, shape: tuple[int, ...] = shape) -> Inputs:
            made = torch.Generator().manual_seed(seed)
            return {"x": torch.rand(shape, generator=made).to(machine.kind) * 0.01 + 0.5}

        case = Case(
            system="dtr", experiment="operators", axes=subject.axes(), inputs=inputs, reference=None, network="chain"
        )
        yield case, [_operators_arm(Method(how), chain) for how in ("plain", "dtr")]


def _dispatched(chain: _Chain, shape: tuple[int, ...], device: str) -> int:
    """Operators that a step runs, as the runtime counts them."""
    budget = Budget(None, cost="flops")
    _within(budget, chain, torch.full(shape, 0.5, device=device).requires_grad_())
    return budget.report().n_ops


def _within(budget: Budget, chain: _Chain, x: Tensor) -> Tensor:
    with budget:
        chain_of = budget.wrap(chain)
        chain_of(x).sum().backward()
    return x.grad


def _operators_arm(method: Method, chain: _Chain) -> Arm:
    budget = Budget(None, cost="flops") if method.name == "dtr" else None

    def prepare(inputs: Inputs) -> Prepared:
        x = inputs["x"].detach().clone().requires_grad_()

        def run() -> Tensor:
            torch.manual_seed(0)
            x.grad = None
            if budget is not None:
                return _within(budget, chain, x)
            chain(x).sum().backward()
            return x.grad

        return Prepared(run=run)

    return Arm(
        name=method.arm,
        role=method.role,
        prepare=prepare,
        regimes=("wall",),
        source_hash=source_hash("frugal.dtr.budget"),
    )


def simulators(machine: Device, dtr: Mapping[str, object], logs: str) -> Iterator[tuple[Case, list[Arm]]]:
    """A case a captured log: how long the simulator takes for one run."""
    for subject in offered.simulator_subjects(dtr, machine.kind):
        at = subject.having(origin=CAPTURED, ratio=SIMULATED_RATIO)
        log = captures.read(subject.network, logs).log

        def inputs(seed: int, phase: str) -> Inputs:
            return {"ratio": torch.tensor([SIMULATED_RATIO], dtype=torch.float64)}

        columns = {name: value for name, value in subject.columns().items() if name != "network"}
        case = Case(
            system="dtr", experiment="simulator", axes=at.axes(), inputs=inputs, reference=None,
            network=subject.network, columns=columns,
        )  # fmt: skip
        yield case, [_simulator_arm(method, log) for method in offered.simulator_methods()]


def _simulator_arm(method: Method, log: object) -> Arm:
    def prepare(inputs: Inputs) -> Prepared:
        ratio = float(inputs["ratio"])

        def run() -> Tensor:
            found = simulate(log, method.name, ratio=ratio, **method.settings)
            return torch.from_numpy(np.array(list(values_of(found).values()), np.float64))

        return Prepared(run=run)

    return Arm(
        name=method.arm, role="ours", prepare=prepare, dtype="float64", regimes=("wall",),
        source_hash=source_hash("frugal.dtr.sim"), settings=dict(method.settings),
    )  # fmt: skip
