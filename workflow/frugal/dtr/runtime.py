"""The runtime: every operator on managed tensors comes here, runs within the budget, and may run again.

One instance a `Budget`. The order of what happens in a step (refresh, lock, restore parents, make room, run, put into
the pool) is the published simulator's, event by event; `frugal.dtr.policy` chooses what goes. Here is how an operator
comes into the graph; `frugal.dtr.room` makes and gives up bytes, `frugal.dtr.writes` is what writes in place.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

from frugal.dtr import rng
from frugal.dtr.errors import Unsupported
from frugal.dtr.operators import Operator, describe
from frugal.dtr.policy import Node, Op, Storage
from frugal.dtr.recipes import flatten, rebuild
from frugal.dtr.replay import Replay
from frugal.dtr.sizes import bound, flat, rounded
from frugal.dtr.specs import Spec
from frugal.dtr.wrapper import Handle, Managed, wrapper
from frugal.dtr.writes import write


class Runtime(Replay):
    """Tensors, storages and operators under one budget: the doors that wrappers and a `Budget` come in by."""

    # ---- operators -------------------------------------------------------------------------------------------------

    def dispatch(self, func: Any, args: tuple, kwargs: dict) -> object:
        """Run an overload on arguments of which some are wrappers; what it returns has wrappers for its tensors."""
        if self.closed:
            plain = _plain(args)
            return func(*plain, **dict(zip(kwargs, _plain(kwargs.values()), strict=True)))
        operator = describe(func)
        if operator.refused:
            raise Unsupported(f"{operator.name}: {operator.refused}", op=operator.name)
        began = self.host.ns()
        with self.lock:
            self.settle()
            if self.settings.device_scope:
                self.narrow()
            try:
                if operator.detach and type(args[0]) is Managed:
                    return self._share(args[0])
                recipe, named, inputs, key = flatten(args, kwargs, self.node_of)
                if operator.writes:
                    return write(self, operator, args, recipe, named, inputs, key)
                if operator.stats:
                    return self._batch_norm(operator, args, recipe, named, inputs, key)
                if operator.opaque or operator.silent:
                    return self._once(operator, recipe, named, inputs)
                op, result = self.call(operator, operator.run, recipe, named, inputs, (operator.name, key))
                return self.wrapped(op, result)
            finally:
                self.settle()
                self.tallies.dispatch += self.host.ns() - began

    def call(
        self,
        operator: Operator,
        run: Callable,
        recipe: list,
        named: dict,
        inputs: list[Node],
        key: tuple,
        stats: dict[int, torch.Tensor] | None = None,
    ) -> tuple[Op, object]:
        """Put an operator into the graph and run it for the first time; its nodes, and the real result."""
        op = Op()
        op.operator, op.run, op.args, op.kwargs, op.inputs, op.stats = operator, run, recipe, named, inputs, stats
        op.replays, op.checks, op.outputs, op.module = 0, None, [], self.module
        if not self.module and inputs and inputs[0].op is not None:
            op.module = inputs[0].op.module
        op.rng = self._stand(inputs, named) if operator.random else None
        spec = self.specs.known.get(key)
        if spec is None and self.budget is not None and not operator.dynamic:
            spec = self.predicted(key, run, recipe, named, inputs)
        op.spec = spec
        if spec is None:
            return op, self._blind(op, key)
        total = spec.total + spec.workspace
        if (self.budget is None or self.mem + total <= self.budget) and all(n.value is not None for n in inputs):
            result = self.execute(op)
            outs = flat(result)
            self._into_graph(op, spec)
            self._arrived(op, outs)
            return op, result
        self._into_graph(op, spec)
        for node in op.outputs:
            if node.storage.root_id == node.id:
                self.policy.waits(node.storage)
        for node in inputs:
            node.storage.score = None
        try:
            result = self.materialise(op.outputs[0], again=False)
        except BaseException:
            self._retract(op)
            raise
        for node in op.outputs:
            node.storage.last = self.clock
        return op, result

    def wrapped(self, op: Op, result: Any) -> object:
        """The result with wrappers in place of its tensors."""
        if isinstance(result, torch.Tensor):
            return self.wrap(op.outputs[0])
        nodes = iter(op.outputs)
        return type(result)(self.wrap(next(nodes)) if isinstance(p, torch.Tensor) else p for p in result)

    def wrap(self, node: Node, name: int | None = None) -> Managed:
        """A wrapper of a node that is defined now."""
        value, storage = node.value, node.storage
        handle = Handle(self, node, node.name if name is None else name, value.storage_offset())
        storage.refs += 1
        storage.handles.append(weakref.ref(handle))
        return wrapper(handle, value.shape, value.stride(), value.dtype, value.device)

    def _blind(self, op: Op, key: tuple) -> object:
        """First run of a key whose outputs are not known: inputs held, room made by a bound, and learned from it."""
        need = 0
        if self.budget is not None:
            shapes = [self.specs.geometries[node.meta] for node in op.inputs]
            need = bound(op.operator.name, [(shape, dtype.itemsize) for shape, _, dtype, _ in shapes])
            if need is None:
                need = self.settings.reserve_bytes or self.most_needed
        with self.held(op.inputs):
            if self.budget is not None and self.mem + need > self.budget:
                self.free(need, op)
            result = self.execute(op)
        outs = flat(result)
        spec = self.specs.learn(key, op.run, op.args, op.kwargs, op.inputs, outs)
        if self.last_ns and spec.samples is not None:
            spec.cost = spec.samples.add(self.last_ns)
        op.spec = spec
        spec.workspace = self.last_workspace
        if op.operator.dynamic:
            del self.specs.known[key]
        self._into_graph(op, spec)
        self._arrived(op, outs)
        if self.budget is not None and self.mem > self.budget:
            with self.held(op.outputs):
                self.free(0, op)
        return result

    def _into_graph(self, op: Op, spec: Spec) -> None:
        """Nodes and storages of the outputs, children of the inputs; nothing is material yet."""
        op.cost, op.total = spec.cost, spec.total
        seen = []
        for out in spec.outs:
            storage = op.inputs[out.alias].storage if out.alias >= 0 else Storage(out.size, self.n_tensors, out.device)
            if storage not in seen:
                seen.append(storage)
                storage.cost += op.cost
                storage.score = None
            node = Node(self.n_tensors, op, storage, out.meta, self.new_name())
            self.n_tensors += 1
            storage.nodes.append(node)
            op.outputs.append(node)
        for node in op.inputs:
            node.children.extend(op.outputs)
        self.ops.append(op)
        if self.recorder is not None:
            self.recorder.call(op)

    def _retract(self, op: Op) -> None:
        """Take an operator that could not run out of the graph again."""
        self.ops.remove(op)
        for node in op.inputs:
            del node.children[len(node.children) - len(op.outputs) :]
        for node in op.outputs:
            node.storage.nodes.remove(node)
            if node.storage.nodes:
                node.storage.cost -= op.cost
            node.storage.score = None
        if self.recorder is not None:
            self.recorder.retract()

    def _arrived(self, op: Op, outs: list[torch.Tensor]) -> None:
        """The events of a first run that needed no room and no parents."""
        pool = self.policy.pool
        for node in op.inputs:
            node.storage.last = self.clock
            pool.pop(node.storage, None)
        self.ran(op, op.outputs[0], outs, again=False)
        for node in op.inputs:
            storage = node.storage
            if storage.material and not storage.pinned and not storage.locks:
                pool.pop(storage, None)
                pool[storage] = None
        for node in op.outputs:
            node.storage.last = self.clock

    def _stand(self, inputs: list[Node], named: dict) -> rng.Kept:
        device = self.specs.geometries[inputs[0].meta][3]
        return rng.keep(rng.generator_of(device, named.get("generator")))

    def copied(self, node: Node) -> Node:
        """A copy of a tensor, as an operator of the graph."""
        clone = torch.ops.aten.clone.default
        op, _ = self.call(describe(clone), clone, [node], {}, [node], ("aten.clone.default", (node.meta,)))
        return op.outputs[0]

    # ---- what is not simply called -----------------------------------------------------------------------------------

    def _share(self, tensor: Managed) -> Managed:
        """`detach` and its like: another wrapper of the same tensor, which stays evicted if it is."""
        node = tensor.handle.node
        name = self.new_name()
        if self.recorder is not None:
            self.recorder.copy(tensor.handle.name, name)
        handle = Handle(self, node, name, tensor.storage_offset())
        node.storage.refs += 1
        node.storage.handles.append(weakref.ref(handle))
        return wrapper(handle, tensor.shape, tensor.stride(), tensor.dtype, tensor.device)

    def _once(self, operator: Operator, recipe: list, named: dict, inputs: list[Node]) -> object:
        """An operator that must not run again, or that makes no tensor: its results stay as constants."""
        with self.held(inputs):
            result = operator.run(
                *rebuild(recipe, lambda n: n.value),
                **dict(zip(named, rebuild(named.values(), lambda n: n.value), strict=True)),
            )
        outs = flat(result)
        if operator.opaque:
            self.tallies.opaque[operator.name] += 1
        if not outs:
            return result
        made = iter([self.wrap(self.constant(out)) for out in outs])
        if isinstance(result, torch.Tensor):
            return next(made)
        return type(result)(next(made) if isinstance(part, torch.Tensor) else part for part in result)

    def _batch_norm(
        self, operator: Operator, args: tuple, recipe: list, named: dict, inputs: list[Node], key: tuple
    ) -> object:
        """Running statistics change at the first run alone: a replay gets copies of them, and throws those away."""
        training = operator.training is None or bool(args[operator.training])
        stats: dict[int, torch.Tensor] = {}
        written: list[Storage] = []
        if training:
            for position in operator.stats:
                node = recipe[position]
                if type(node) is Node:
                    inputs.remove(node)
                    recipe[position] = None
                    node = self.writable(node)
                    written.append(node.storage)
                    stats[position] = node.value
        op, result = self.call(operator, operator.run, recipe, named, inputs, (operator.name, key), stats)
        for storage in written:
            noted(storage)
        return self.wrapped(op, result)

    # ---- constants ---------------------------------------------------------------------------------------------------

    def node_of(self, tensor: torch.Tensor) -> Node:
        """The node of a wrapper, or of a plain tensor, which becomes a constant."""
        if type(tensor) is Managed:
            handle = tensor.handle
            if handle.runtime is self:
                return handle.node
            if not handle.runtime.closed:
                raise Unsupported(
                    "a tensor of another open Budget met one of this: use one Budget a thread", op="mixed"
                )
            return self.constant(handle.runtime.value(tensor))
        if tensor.requires_grad and torch.is_grad_enabled() and not tensor.is_leaf:
            raise Unsupported(
                "a plain tensor that requires grad met managed ones: take it in with Budget.manage first", op="manage"
            )
        return self.constant(tensor)

    def constant(self, tensor: torch.Tensor) -> Node:
        """The pinned node of a plain tensor; its bytes count from now on. Storages are told by identity."""
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
            raise Unsupported(
                f"a tensor of layout {tensor.layout}{', quantised' if tensor.is_quantized else ''} cannot be managed: "
                "make it dense first", op="manage",
            )  # fmt: skip
        plain = tensor.detach()
        storage = self.constants.get(plain.untyped_storage()._cdata)
        meta = self.specs.geometry(plain)
        if storage is not None:
            for node in storage.nodes:
                same = node.op is None and node.meta == meta and not node.stale
                if same and node.value.storage_offset() == plain.storage_offset():
                    if node.version == plain._version:
                        return node
                    node.stale = True  # what was computed from the old values cannot be computed again
            return self._constant_node(storage, meta, plain)
        size = rounded(plain.untyped_storage().nbytes(), plain.device)
        if self.budget is not None and self.mem + size > self.budget:
            self.free(size, None)
        storage = Storage(size, self.n_tensors, plain.device)
        storage.material = storage.pinned = True
        self.constants[plain.untyped_storage()._cdata] = storage
        self.grow(size, "constant")
        return self._constant_node(storage, meta, plain)

    def constant_wrapper(self, tensor: torch.Tensor) -> Managed:
        """A wrapper of a plain tensor's memory."""
        with self.lock:
            self.settle()
            return self.wrap(self.constant(tensor))

    def _constant_node(self, storage: Storage, meta: int, value: torch.Tensor) -> Node:
        node = Node(self.n_tensors, None, storage, meta, self.new_name())
        node.value, node.version = value, value._version
        self.n_tensors += 1
        storage.last = self.clock
        storage.nodes.append(node)
        if self.recorder is not None:
            self.recorder.constant(node)
            self.trace.append(f"C{node.id};")
        return node

    def writable(self, node: Node) -> Node:
        """A constant node whose memory may be written: what other operators read of it is kept as a copy."""
        storage = node.storage
        if not storage.pinned:
            self.pin(node)
        if not any(child.storage is not storage for n in storage.nodes for child in n.children):
            return node
        old = storage.nodes
        if self.budget is not None and self.mem + storage.size > self.budget:
            self.free(storage.size, None)
        fresh = Storage(storage.size, self.n_tensors, storage.device)
        fresh.material = fresh.pinned = True
        self.constants[node.value.untyped_storage()._cdata] = fresh
        self.grow(storage.size, "constant")
        kept: dict[Node, Node] = {n: self._constant_node(fresh, n.meta, n.value) for n in old if n.value is not None}
        whole = node.value.untyped_storage().clone()
        for n in old:
            if n.value is not None:
                n.value = torch.empty(0, dtype=n.value.dtype, device=n.value.device).set_(
                    whole, n.value.storage_offset(), n.value.shape, n.value.stride()
                )
                n.version = n.value._version if n.op is None else None
        for reference in storage.handles:
            if (handle := reference()) is not None:
                self.rebind(handle, kept[handle.node])
        return kept[node]


def noted(storage: Storage) -> None:
    """A constant storage was written by an operator of ours: its values are the good ones from now on."""
    for node in storage.nodes:
        if node.version is not None and not node.stale:
            node.version = node.value._version


def _plain(values: Any) -> list:
    """Arguments with plain tensors in place of wrappers whose Budget is closed."""
    return [
        value.handle.runtime.value(value)
        if type(value) is Managed
        else type(value)(_plain(value))
        if type(value) in (list, tuple)
        else value
        for value in values
    ]
