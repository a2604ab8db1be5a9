"""Bytes under a budget: how an evicted tensor is made again, and how room is made.

The steps and their order are the published simulator's (M. Kirisame et al., ICLR 2021, appendix C); recursion is an
explicit stack, since chains of thousands of operators may have to be made again.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from frugal.dtr import rng
from frugal.dtr.errors import ReplayError, ThrashError
from frugal.dtr.policy import Node, Op, Storage
from frugal.dtr.recipes import rebuild
from frugal.dtr.room import Room
from frugal.dtr.sizes import flat, rounded, text
from frugal.dtr.specs import Out, Spec
from frugal.dtr.wrapper import Managed
from frugal.timing.op_timer import timed

MOST_REPLAYS = 1000  # of one operator in a step


class _Frame:
    """An operator that waits for its parents. node: the output that is wanted. locked: in order, with duplicates."""

    __slots__ = ("again", "at", "locked", "missing", "node")

    def __init__(self, node: Node, again: bool) -> None:
        self.node = node
        self.again = again
        self.locked: list[Storage] = []
        self.missing: list[Node] | None = None
        self.at = 0


class Replay(Room):
    """A Room in which operators run, and run again."""

    def materialise(self, wanted: Node, again: bool) -> object:
        """Run the operator of a node, its missing parents first; its real result. No lock stays on errors."""
        frames = [_Frame(wanted, again)]
        result: object = None
        try:
            while frames:
                frame = frames[-1]
                op = frame.node.op
                if frame.missing is None:
                    self._refresh(frame, op)
                missing = frame.missing
                while frame.at < len(missing):
                    parent = missing[frame.at]
                    if parent.value is None:
                        frames.append(_Frame(parent, True))
                        break
                    self.hold(parent.storage)
                    frame.locked.append(parent.storage)
                    frame.at += 1
                else:
                    need = op.total + op.spec.workspace
                    if self.budget is not None and self.mem + need > self.budget:
                        self.free(need, op)
                    made = self.execute(op, frame.again)
                    self.ran(op, frame.node, flat(made), frame.again)
                    frames.pop()
                    if not frames:
                        result = made
                    del made  # outputs that were there already must not live on here
                    for node in op.inputs:
                        self.unhold(node.storage)
                    if frame.again:
                        self._limits(op)
        except BaseException:
            for frame in reversed(frames):
                for storage in frame.locked:
                    self.unhold(storage)
            raise
        return result

    def _refresh(self, frame: _Frame, op: Op | None) -> None:
        if op is None:
            raise ReplayError(
                "a tensor was evicted whose inputs have been changed since (an optimiser's step?): use its value "
                "before that, or take it out with Budget.release",
                op="constant",
            )
        for node in op.inputs:
            node.storage.last = self.clock
        for node in op.inputs:
            if node.value is not None:
                self.hold(node.storage)
                frame.locked.append(node.storage)
        frame.missing = [node for node in op.inputs if node.value is None]

    def execute(self, op: Op, again: bool = False) -> object:
        """Call the operator on real tensors; a replay has random numbers and statistics as they were."""
        args = rebuild(op.args, _value)
        kwargs = {name: _value(v) if type(v) is Node else v for name, v in op.kwargs.items()}
        for position, tensor in (op.stats or {}).items():
            optional = position in op.operator.optional
            args[position] = tensor if not again else None if optional else tensor.clone()
        if not again:
            return self._timed(op, args, kwargs)
        for node in op.inputs:
            if node.stale or (node.version is not None and node.value._version != node.version):
                raise ReplayError(
                    f"{op.operator.name}: an input was changed in place after it was used, and cannot run again: "
                    "change it after the Budget's block, or copy it first",
                    op=op.operator.name,
                )
        with ExitStack() as stack:
            stack.enter_context(torch._C._AutoDispatchBelowAutograd())
            stack.enter_context(torch._C._DisableAutocast())
            if op.rng is not None:
                stack.enter_context(rng.replayed(op.rng))
            return self._timed(op, args, kwargs)

    def _timed(self, op: Op, args: list, kwargs: dict) -> object:
        """Call it, with a clock where its key's cost is not settled yet."""
        samples = op.spec.samples if op.spec is not None else None
        self.last_ns = 0
        if not self.specs.measured or (samples is not None and samples.done):
            return self._call(op, args, kwargs)
        result, self.last_ns = timed(lambda: self._call(op, args, kwargs), self._device(op))
        if samples is not None:
            op.spec.cost = samples.add(self.last_ns)
        return result

    def _device(self, op: Op) -> torch.device:
        return self.specs.geometries[op.inputs[0].meta][3]

    def _call(self, op: Op, args: list, kwargs: dict) -> object:
        began = self.host.ns()
        try:
            if self.settings.device_scope and (op.spec is None or not op.spec.seen):
                return self._with_workspace(op, args, kwargs)
            return op.run(*args, **kwargs)
        except torch.OutOfMemoryError as problem:
            # The allocator's slack: give up twice what is needed, hand the caches back, and try once more.
            need = 2 * (op.total if op.spec is not None else self.most_needed)
            with self.held(op.inputs):
                self.give_up(need)
            torch.cuda.empty_cache()
            try:
                return op.run(*args, **kwargs)
            except torch.OutOfMemoryError:
                raise self.short(op, need, max(1, need)) from problem
        finally:
            self.tallies.kernels += self.host.ns() - began

    def _with_workspace(self, op: Op, args: list, kwargs: dict) -> object:
        """Scope `device`: the first run of a key tells what its kernel takes beside its outputs."""
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = op.run(*args, **kwargs)
        beyond = torch.cuda.max_memory_allocated() - max(before, torch.cuda.memory_allocated())
        self.last_workspace = max(0, beyond)
        if op.spec is not None:
            op.spec.workspace = self.last_workspace
        return result

    def ran(self, op: Op, wanted: Node, outs: list[torch.Tensor], again: bool) -> None:
        """The events of a run: time passes, bytes are there, the outputs are defined, new storages join the pool."""
        tallies, spec = self.tallies, op.spec
        if not spec.seen:
            self._seen(op, outs)
        if self.settings.wall:
            self.clock = max(self.clock, self.host.ns() - self.settings.zero)
        else:
            self.clock += op.cost
        self.grow(op.total, op.operator.name)
        name = op.operator.name
        if again:
            op.replays += 1
            tallies.n_remats += 1
            tallies.remat += op.cost
            tallies.step_remat += op.cost
            tallies.remats[name] += 1
        else:
            tallies.n_ops += 1
            tallies.base += op.cost
            tallies.step_base += op.cost
            tallies.ops[name] += 1
            tallies.costs[name] += op.cost
        if self.recorder is not None:
            self.trace.append(f"{'R' if again else 'C'}{wanted.id};")
        outputs = op.outputs
        if again:
            self._same(op, outs)
        elif self.settings.debug and "empty" not in name:  # whose values are nobody's
            op.checks = [_check(out) for out in outs]
        order = outputs if len(outputs) == 1 else [*(node for node in outputs if node is not wanted), wanted]
        new = []
        for node, out in zip(outputs, outs, strict=True):
            if node.value is None and node.storage.handed is None:
                node.value = out
            elif node.storage.root_id == node.id:
                self.mem -= node.storage.size
        for node in order:
            storage = node.storage
            if not storage.material and storage.handed is None:
                storage.material = True
                new.append(storage)
        pool = self.policy.pool
        for storage in new:
            if not storage.pinned and not storage.locks:
                pool.setdefault(storage)
        for storage in new:
            self.policy.restored(storage)

    def _seen(self, op: Op, outs: list[torch.Tensor]) -> None:
        """Sizes were predicted: now they are known. Meta kernels may err; a budget that this breaks is told so."""
        spec, said = op.spec, op.spec.total
        spec.seen = True
        spec.outs = [
            Out(rounded(out.untyped_storage().nbytes(), out.device) if old.alias < 0 else 0, old.alias,
                self.specs.geometry(out), out.device)
            for old, out in zip(spec.outs, outs, strict=True)
        ]  # fmt: skip
        spec.total = op.total = sum(out.size for out in spec.outs)
        for node, out in zip(op.outputs, spec.outs, strict=True):
            node.meta = out.meta
            if out.alias < 0:
                node.storage.size = out.size
        if spec.total > said and self.budget is not None and self.mem + spec.total > self.budget:
            raise self.short(op, spec.total, self.mem + spec.total - self.budget)

    def _same(self, op: Op, outs: list[torch.Tensor]) -> None:
        for node, out in zip(op.outputs, outs, strict=True):
            if out.shape != self.specs.geometries[node.meta][0]:
                raise ReplayError(f"{op.operator.name} gave another shape when it ran again", op=op.operator.name)
        if op.checks is not None and [_check(out) for out in outs] != op.checks:
            raise ReplayError(f"{op.operator.name} gave other values when it ran again", op=op.operator.name)

    def _limits(self, op: Op) -> None:
        tallies, settings = self.tallies, self.settings
        if op.replays > MOST_REPLAYS:
            raise self.thrashed(f"{op.operator.name} ran {op.replays} times")
        base = max(tallies.step_base, tallies.last_base)
        if tallies.step_remat > (settings.thrash - 1) * base:
            self.thrash()

    def thrash(self) -> None:
        """More was computed again than the limit allows: raise, warn once a step, or grow."""
        error = self.thrashed("")
        self.settings.thrashing(self, error)

    def thrashed(self, what: str) -> ThrashError:
        """The sentence: what was replayed most, and a budget that is known to do."""
        tallies = self.tallies
        most = ", ".join(f"{name} ({count} times)" for name, count in tallies.remats.most_common(3))
        smallest = self.smallest()
        known = f"; {text(smallest)} would do" if smallest is not None else ""
        return ThrashError(
            f"a budget of {text(self.budget or 0)} makes this step compute {tallies.step_remat / 1e9:.3g} s again "
            f"beside {tallies.step_base / 1e9:.3g} s{f' ({what})' if what else ''}, most of all {most}{known}: give "
            "a larger budget, or a larger limit with thrash=",
            smallest_bytes=smallest,
        )

    def predicted(self, key: tuple, run: Any, recipe: list, named: dict, inputs: list[Node]) -> Spec | None:
        """The spec of a key that has not run, from fake tensors."""
        began = self.host.ns()
        spec = self.specs.predict(key, run, recipe, named, inputs)
        self.tallies.cost_model += self.host.ns() - began
        return spec

    # ---- doors -----------------------------------------------------------------------------------------------------

    @contextmanager
    def held(self, nodes: Sequence[Node]) -> Iterator[None]:
        """All of these tensors are there, and stay, during the block."""
        locked: list[Storage] = []
        try:
            for node in nodes:
                node.storage.last = self.clock
                if node.value is None:
                    self.materialise(node, again=True)
                self.hold(node.storage)
                locked.append(node.storage)
            yield
        finally:
            for storage in locked:
                self.unhold(storage)

    def pin(self, node: Node) -> None:
        """Make a tensor if it is not there, and keep its storage for good."""
        if node.value is None:
            self.materialise(node, again=True)
        if not node.storage.pinned:
            node.storage.pinned = True
            self.policy.pool.pop(node.storage, None)
        if self.recorder is not None:
            self.recorder.pin(node)

    def hand_out(self, tensor: Managed, own: bool) -> torch.Tensor:
        """A plain tensor on a wrapper's memory, which stays counted until it dies. own: nobody else has that memory."""
        with self.lock:
            self.settle()
            node = tensor.handle.node
            storage = node.storage
            if own and (storage.handed is not None or node.version is not None or storage.refs > 1):
                node = self.copied(node)
                storage = node.storage
            self.pin(node)
            with torch._C._AutoDispatchBelowAutograd():
                plain = node.value.detach()
            for shared in storage.nodes:
                shared.version = plain._version
            if storage.handed is None and self.constants.get(plain.untyped_storage()._cdata) is not storage:
                memory = plain.untyped_storage()
                storage.handed = weakref.ref(memory, lambda _: self.drop(storage, -1))
                self.outside[storage] = memory._cdata
                self.constants[memory._cdata] = storage
            self.settle()
            if storage.refs == 0:
                self.let_go(storage)
            return plain

    def value(self, tensor: Managed) -> torch.Tensor:
        """The real tensor of a wrapper, made again if need be, for a moment's use."""
        node = tensor.handle.node
        if node.value is None and self.closed:
            raise ReplayError("this tensor was evicted when its Budget closed with an error: run the step again", op="")
        if node.value is None:
            self.materialise(node, again=True)
        return node.value

    def peek(self, tensor: Managed) -> torch.Tensor:
        """`value`, from outside an operator."""
        with self.lock:
            self.settle()
            return self.value(tensor).detach()


def _value(node: Node) -> Any:
    return node.value


def _check(out: torch.Tensor) -> float:
    return float(out.detach().to(torch.complex128).abs().sum())
