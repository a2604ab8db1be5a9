"""Between steps: what nobody can ask for any more leaves the graph, and at the end of a block everything does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frugal.dtr.policy import Node, Storage

if TYPE_CHECKING:
    from frugal.dtr.runtime import Runtime


def sweep(runtime: Runtime) -> None:
    """Forget operators and constants that no live wrapper needs; holding the lock, between operators.

    A live tensor that was made from a constant that has been changed since (an optimiser's step) cannot be made again:
    it stays as a constant itself, and if it is evicted its use will raise ReplayError.
    """
    changed = _freeze_changed(runtime)
    if changed:
        runtime.tallies.begin_step()
    needed: set[Node] = {node for storage in _storages(runtime) if storage.refs for node in _live(storage)}
    kept = []
    for op in reversed(runtime.ops):
        if any(node in needed for node in op.outputs):
            needed.update(op.inputs)
            needed.update(op.outputs)
            kept.append(op)
    storages = _storages(runtime)
    runtime.ops = kept[::-1]
    for storage in storages:
        _shrink(runtime, storage, needed)


def close(runtime: Runtime, keep: bool) -> None:
    """End of a block. keep: live tensors are made, in order of creation, and stay; else all are dropped."""
    with runtime.lock:
        runtime.settle()
        try:
            if keep:
                for node in _in_order(runtime):
                    runtime.pin(node)
                enough = runtime.tallies.peak if not runtime.tallies.n_evictions else runtime.given
                known = runtime.settings.known_bytes
                if enough is not None:
                    runtime.settings.known_bytes = enough if known is None else min(known, enough)
        finally:
            live = {node for storage in _storages(runtime) for node in _live(storage)}
            for storage in _storages(runtime):
                for node in storage.nodes:
                    node.children = []
                    node.op = None
                    if node not in live:
                        node.value = None
            runtime.ops, runtime.constants, runtime.outside = [], {}, {}
            runtime.policy.pool.clear()
            runtime.closed = True


def _in_order(runtime: Runtime) -> list[Node]:
    found = {node for storage in _storages(runtime) if storage.refs for node in _live(storage)}
    return sorted((node for node in found if not node.storage.pinned), key=lambda node: node.name)


def _live(storage: Storage) -> list[Node]:
    """The nodes that wrappers stand for."""
    return [handle.node for reference in storage.handles if (handle := reference()) is not None]


def _storages(runtime: Runtime) -> list[Storage]:
    found = {node.storage: None for op in runtime.ops for node in (*op.outputs, *op.inputs)}
    found.update(dict.fromkeys(runtime.constants.values()))
    return list(found)


def _freeze_changed(runtime: Runtime) -> bool:
    """Whether constants were changed by others since they were taken; what was made from them becomes constant."""
    tainted: set[Node] = set()
    for storage in runtime.constants.values():
        for node in storage.nodes:
            if node.version is not None and node.value is not None and node.value._version != node.version:
                node.stale = True
                tainted.add(node)
    if not tainted:
        return False
    kept = []
    for op in runtime.ops:
        if tainted.isdisjoint(op.inputs):
            kept.append(op)
            continue
        for node in op.outputs:
            tainted.add(node)
            node.op = None
            storage = node.storage
            if storage.material and not storage.pinned:
                storage.pinned = True
                runtime.policy.pool.pop(storage, None)
                runtime.constants[id(storage)] = storage
    runtime.ops = kept
    return True


def _shrink(runtime: Runtime, storage: Storage, needed: set[Node]) -> None:
    """Drop the nodes that are not needed; a storage without any gives its bytes back."""
    storage.nodes = [node for node in storage.nodes if node in needed or _kept_outside(runtime, storage)]
    for node in storage.nodes:
        node.children = [child for child in node.children if child in needed]
    storage.score = None
    if storage.nodes or storage in runtime.outside:
        return
    if storage.material:
        storage.material = False
        runtime.mem -= storage.size
        runtime.policy.pool.pop(storage, None)
        runtime.policy.forgotten(storage)
    for key, known in list(runtime.constants.items()):
        if known is storage:
            del runtime.constants[key]


def _kept_outside(runtime: Runtime, storage: Storage) -> bool:
    return storage in runtime.outside
