"""Operators that write in place, and their views.

A constant's memory is written truly, since the user sees it. Of other tensors: truly, where nothing else can read the
memory, now or in a replay (the write is then a view operator of that storage); else the operator that writes nothing
(`relu` for `relu_`), where there is one; else on a copy of the whole storage, to which all its wrappers move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from frugal.dtr.errors import Unsupported
from frugal.dtr.operators import Operator, describe
from frugal.dtr.policy import Node, Storage
from frugal.dtr.specs import Out
from frugal.dtr.wrapper import Managed

if TYPE_CHECKING:
    from frugal.dtr.runtime import Runtime

_as_strided = torch.ops.aten.as_strided.default


def write(
    runtime: Runtime, operator: Operator, args: tuple, recipe: list, named: dict, inputs: list[Node], key: tuple
) -> object:
    """Run an operator that writes arguments; what it returns is the argument itself, as in PyTorch."""
    if operator.reshapes:
        return _reshape(runtime, operator, args, recipe, named, inputs, key)
    if operator.writes_lists or len(operator.writes) > 1:
        return _constants_only(runtime, operator, args, recipe, named, inputs)
    position = operator.writes[0]
    target = recipe[position]
    assert type(target) is Node
    if target.storage.pinned or type(args[position]) is not Managed:
        _constant(runtime, operator, recipe, named, inputs, key, position)
    elif _unread(target.storage, inputs):
        op, _ = runtime.call(operator, operator.run, recipe, named, inputs, (operator.name, key))
        runtime.rebind(args[position].handle, op.outputs[0])
    elif _replaced(runtime, operator, args, recipe, named, inputs, key, target):
        pass
    else:
        _on_a_copy(runtime, operator, args, recipe, named, inputs, key, position)
    return args[position]


def _reshape(
    runtime: Runtime, operator: Operator, args: tuple, recipe: list, named: dict, inputs: list[Node], key: tuple
) -> object:
    """`transpose_` and its like: the wrapper stands for the view that `transpose` makes, and takes on its shape."""
    if operator.functional is not None and type(args[0]) is Managed:
        form = describe(operator.functional)
        op, _ = runtime.call(form, operator.functional, recipe, named, inputs, (form.name, key))
        runtime.rebind(args[0].handle, op.outputs[0])
    with torch._C._DisableTorchDispatch():
        operator.run(*args, **named)
    return args[0]


def _unread(storage: Storage, inputs: list[Node]) -> bool:
    """Nothing but the one wrapper reads a storage, now or in a replay."""
    if storage.refs != 1 or sum(node.storage is storage for node in inputs) != 1:
        return False
    return not any(child.storage is not storage for node in storage.nodes for child in node.children)


def _replaced(
    runtime: Runtime, operator: Operator, args: tuple, recipe: list, named: dict, inputs: list[Node], key: tuple,
    target: Node,
) -> bool:  # fmt: skip
    """The functional form into a new storage, where it makes a tensor of the very same geometry."""
    functional, storage = operator.functional, target.storage
    if functional is None or storage.refs != 1:
        return False
    form = describe(functional)
    whole = (form.name, key)
    spec = runtime.specs.known.get(whole) or runtime.predicted(whole, functional, recipe, named, inputs)
    if spec is None or spec.outs[0].meta != target.meta or spec.outs[0].alias >= 0:
        return False
    op, _ = runtime.call(form, functional, recipe, named, inputs, whole)
    # A slice at an offset becomes a tensor of its own, which a wrapper's offset would belie.
    handle = args[operator.writes[0]].handle
    runtime.rebind(handle, op.outputs[0])
    return True


def _on_a_copy(
    runtime: Runtime, operator: Operator, args: tuple, recipe: list, named: dict, inputs: list[Node], key: tuple,
    position: int,
) -> None:  # fmt: skip
    """Copy on write: a new storage of the old one's size, and every wrapper of the old one becomes a view of it."""
    target: Node = recipe[position]
    storage = target.storage
    handles = [handle for reference in storage.handles if (handle := reference()) is not None]
    dtype = runtime.specs.geometries[target.meta][2]
    for handle in handles:
        if runtime.specs.geometries[handle.node.meta][2] != dtype:
            raise Unsupported(
                f"{operator.name} writes a tensor that has views of other dtypes: write to a clone", op=operator.name
            )
    count = storage.size // dtype.itemsize
    run = _copying(operator.run, position, count)
    whole = (f"copy+{operator.name}", (*key, ("", storage.size)))
    if whole not in runtime.specs.known:
        meta = runtime.specs.number((count,), (1,), dtype, storage.device)
        runtime.specs.given(whole, run, recipe, named, inputs, [Out(storage.size, -1, meta, storage.device)])
    op, _ = runtime.call(operator, run, recipe, named, inputs, whole)
    root = op.outputs[0]
    for handle in handles:
        shape, strides, _, _ = runtime.specs.geometries[handle.node.meta]
        view = [root, list(shape), list(strides), handle.offset]
        name = ("aten.as_strided.default", (root.meta, ("", (shape, strides, handle.offset))))
        moved, _ = runtime.call(describe(_as_strided), _as_strided, view, {}, [root], name)
        runtime.rebind(handle, moved.outputs[0])
    if runtime.recorder is not None:
        runtime.recorder.release(root.name)


def _copying(run: Callable, position: int, count: int) -> Callable:
    """The operator on a copy of its target's whole storage; it returns the copy, flat, of `count` elements."""

    def copied(*args: Any, **kwargs: Any) -> torch.Tensor:
        target = args[position]
        filled = target.untyped_storage().nbytes() // target.element_size()
        whole = torch.empty(count, dtype=target.dtype, device=target.device)
        whole[:filled].copy_(target.as_strided((filled,), (1,), 0))
        new = whole.as_strided(target.shape, target.stride(), target.storage_offset())
        run(*args[:position], new, *args[position + 1 :], **kwargs)
        return whole

    return copied


def _constant(
    runtime: Runtime, operator: Operator, recipe: list, named: dict, inputs: list[Node], key: tuple, position: int
) -> None:
    from frugal.dtr.runtime import noted

    before: Node = recipe[position]
    target = runtime.writable(before)
    recipe[position] = target
    inputs[inputs.index(before)] = target
    op, _ = runtime.call(operator, operator.run, recipe, named, inputs, (operator.name, key))
    noted(target.storage)
    if runtime.recorder is not None:
        runtime.recorder.release(op.outputs[0].name)


def _constants_only(
    runtime: Runtime, operator: Operator, args: tuple, recipe: list, named: dict, inputs: list[Node]
) -> object:
    from frugal.dtr.recipes import rebuild
    from frugal.dtr.runtime import noted

    written = [n for i in operator.writes for n in (recipe[i] if type(recipe[i]) is list else [recipe[i]])]
    if not all(type(node) is Node and node.storage.pinned for node in written):
        raise Unsupported(
            f"{operator.name} writes several managed tensors at once: use the form that returns its results",
            op=operator.name,
        )
    if any(child.storage is not n.storage for w in written for n in w.storage.nodes for child in n.children):
        for node in written:
            runtime.writable(node)
    with runtime.held(inputs):
        operator.run(
            *rebuild(recipe, lambda n: n.value),
            **dict(zip(named, rebuild(named.values(), lambda n: n.value), strict=True)),
        )
    for node in written:
        noted(node.storage)
    return args[operator.writes[0]] if len(operator.writes) == 1 else None
