"""Logs of what a program did, recorded by the runtime: the simulator replays them under any budget.

Constants are parameters, buffers and inputs. Costs of a key are the median of its timed runs after the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from frugal.dtr.costs import SAMPLES, CostTable, Roofline
from frugal.dtr.logs import Instruction, Log
from frugal.dtr.policy import Node, Op
from frugal.dtr.specs import Specs


class Recorder:
    """Writes instructions while a runtime works. Costs are looked up at the end, when they are settled."""

    def __init__(self, specs: Specs) -> None:
        self._specs = specs
        self._rows: list[tuple[Instruction, Op | None]] = []
        self.phase = "forward"

    def constant(self, node: Node) -> None:
        """A constant; another view of known memory is a view operator."""
        root = node.storage.nodes[0]
        if root is node:
            size = node.storage.size
            row = Instruction("constant", results=(node.name,), sizes=(size,), aliases=(-1,), phase=self.phase)
        else:
            row = Instruction("call", "aten.alias", 0, (root.name,), (node.name,), (0,), (0,), phase=self.phase)
        self._rows.append((row, None))

    def call(self, op: Op) -> None:
        """An operator of the graph; its row is written at the end, when sizes and cost are facts."""
        self._rows.append((Instruction("call", phase=self.phase), op))

    def retract(self) -> None:
        """The last call could not run."""
        while self._rows.pop()[0].instr != "call":
            pass

    def copy(self, name: int, new: int) -> None:
        """Another wrapper of a tensor."""
        self._rows.append((Instruction("copy", args=(name,), results=(new,), phase=self.phase), None))

    def release(self, name: int) -> None:
        """A wrapper died."""
        self._rows.append((Instruction("release", args=(name,), phase=self.phase), None))

    def pin(self, node: Node) -> None:
        """A tensor that stays from now on, since its memory was handed out."""
        self._rows.append((Instruction("pin", args=(node.name,), phase=self.phase), None))

    def log(self, **metadata: str) -> Log:
        """What was recorded so far."""
        rows = [row if op is None else self._call(op, row.phase) for row, op in self._rows]
        return Log.of(rows, torch=str(torch.__version__), **metadata)

    def _call(self, op: Op, phase: str) -> Instruction:
        shapes, _, dtypes, _ = zip(*(self._specs.geometries[node.meta] for node in op.outputs), strict=True)
        return Instruction(
            "call",
            op.operator.name,
            op.cost,
            tuple(node.name for node in op.inputs),
            tuple(node.name for node in op.outputs),
            tuple(out.size for out in op.spec.outs),
            tuple(out.alias for out in op.spec.outs),
            workspace_bytes=op.spec.workspace,
            shapes=shapes,
            dtypes=tuple(str(dtype).removeprefix("torch.") for dtype in dtypes),
            random=op.operator.random,
            batch_norm=bool(op.operator.stats),
            module=op.module or None,
            phase=phase,
        )


def capture_log(
    model: torch.nn.Module,
    inputs: Any,
    loss_fn: Callable[[Any], torch.Tensor] | None = None,
    *,
    device: str | torch.device | None = None,
    steps: int = 2,
    cost: str | Path | CostTable | Roofline = "measured",
    optimizer: torch.optim.Optimizer | None = None,
    name: str | None = None,
) -> Log:
    """The log of one whole training step, forward and backward, without a budget.

    inputs: a tensor, or a sequence of arguments of `model`. loss_fn: from the model's output to a number (default: its
    sum). device: where the step runs (default: where the model is). steps: the last of them is recorded; with
    cost="measured" at least as many run as a key needs to be timed. optimizer: steps between them. name: the log's
    `model`. Gradients are None before the recorded step. ValueError for steps < 1.
    """
    from frugal.dtr.budget import Budget

    if steps < 1:
        raise ValueError(f"steps = {steps}: it must be at least 1, of which the last is recorded")
    given: Sequence[Any] = inputs if isinstance(inputs, (list, tuple)) else (inputs,)
    if device is not None:
        model = model.to(device)
        given = [value.to(device) if isinstance(value, torch.Tensor) else value for value in given]
    loss_of = loss_fn or (lambda out: out.sum())
    warm = Budget(None, cost=cost)
    before = max(steps - 1, SAMPLES + 1 if cost == "measured" else 0)
    for _ in range(before):
        _step(warm, model, given, loss_of)
        if optimizer is not None:
            optimizer.step()
    recorded = Budget(None, cost=warm.costs() if before else cost, capture=True)
    _step(recorded, model, given, loss_of)
    metadata = {"model": name or type(model).__name__, "cost_source": str(cost) if isinstance(cost, str) else "given"}
    return recorded.log(**metadata)


def _step(budget: Any, model: torch.nn.Module, inputs: Sequence[Any], loss_of: Callable) -> None:
    for parameter in model.parameters():
        parameter.grad = None
    with budget:
        loss = loss_of(budget.wrap(model)(*inputs))
        if budget.runtime.recorder is not None:
            budget.runtime.recorder.phase = "backward"
        loss.backward()
        budget.release(loss)
        del loss  # as `budgeted_step` does: what hangs on it dies within the step
