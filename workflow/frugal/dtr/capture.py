"""Logs of what a program did, recorded by the runtime: the simulator replays them under any budget."""

from __future__ import annotations

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
        """An operator that is in the graph from now on."""
        shapes, _, dtypes, _ = zip(*(self._specs.geometries[node.meta] for node in op.outputs), strict=True)
        row = Instruction(
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
            phase=self.phase,
        )
        self._rows.append((row, op))

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
        rows = [row if op is None else row._replace(cost_ns=op.cost) for row, op in self._rows]
        return Log.of(rows, **metadata)
