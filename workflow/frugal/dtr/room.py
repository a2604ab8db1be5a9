"""Bytes under a budget: what is there, what is held, and how room is made."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any

import torch

from frugal.clock import SystemClock
from frugal.dtr.errors import BudgetError
from frugal.dtr.policy import Node, Op, Policy, Storage
from frugal.dtr.report import Tallies
from frugal.dtr.settings import Settings
from frugal.dtr.sizes import text
from frugal.dtr.specs import Specs
from frugal.dtr.wrapper import Handle


class Room:
    """The bytes of one budget. budget: None for no limit. mem: bytes of all managed storages now.

    clock: ns, from 1, advanced by the costs of what runs (with `wall` the machine's clock). outside: bytes that
    others hold on the device (scope `device`). lock: held while anything here changes.
    """

    def __init__(self, budget: int | None, policy: Policy, specs: Specs, settings: Settings) -> None:
        self.budget = budget
        self.policy = policy
        self.specs = specs
        self.settings = settings
        self.tallies = Tallies()
        self.clock = 1
        self.mem = 0
        self.closed = False
        self.recorder: Any = None
        self.module = ""
        self.ops: list[Op] = []
        self.constants: dict[int, Storage] = {}
        self.lock = threading.Lock()
        self.n_tensors = 0
        self.most_needed = 0
        self.last_ns = self.last_workspace = 0
        self.given = budget
        self.outside: dict[Storage, int] = {}
        self.trace: list[str] = []
        self.host = SystemClock()
        self._names = 0
        self._dropped: deque[tuple[Node | Storage, int]] = deque()

    def new_name(self) -> int:
        """The next name of the log."""
        self._names += 1
        return self._names - 1

    def smallest(self) -> int | None:
        """The smallest budget known to work: the peak of a whole step that had no need to evict; None: not known."""
        return self.settings.known_bytes

    def narrow(self) -> None:
        """Scope `device`: what others hold of the GPU's allocator is not there for managed tensors."""
        if self.given is not None:
            beside = torch.cuda.memory_allocated() - self.mem
            self.budget = max(1, self.given - max(0, beside))

    def grow(self, size: int, what: str) -> None:
        """Bytes that are there from now on."""
        self.mem += size
        if self.mem > self.tallies.peak:
            self.tallies.peak, self.tallies.peak_op = self.mem, what
        if size > self.most_needed:
            self.most_needed = size

    def free(self, need: int, op: Op | None) -> None:
        """Evict until `need` bytes fit; BudgetError when there is nothing left to evict."""
        began = self.host.ns()
        policy = self.policy
        while self.mem + need > self.budget:
            victim = policy.choose(self.clock)
            if victim is None:
                raise self.short(op, need, self.mem + need - self.budget)
            self.tallies.n_evictions += 1
            self.evict(victim, "E")
        self.tallies.search += self.host.ns() - began

    def give_up(self, need: int) -> None:
        freed = 0
        while freed < need and (victim := self.policy.choose(self.clock)) is not None:
            freed += victim.size
            self.tallies.n_evictions += 1
            self.evict(victim, "E")

    def evict(self, storage: Storage, why: str) -> None:
        """Drop a storage's real tensors; they can be made again."""
        storage.material = False
        self.mem -= storage.size
        self.policy.pool.pop(storage, None)
        for node in storage.nodes:
            node.value = None
        if self.recorder is not None:
            self.trace.append(f"{why}{storage.root_id};")
        self.policy.evicted(storage)

    def short(self, op: Op | None, need: int, short: int) -> BudgetError:
        name = op.operator.name if op is not None else "a constant"
        where = f" ({op.module})" if op is not None and op.module else ""
        inputs = sum({n.storage: n.storage.size for n in op.inputs}.values()) if op is not None else 0
        space = op.spec.workspace if op is not None and op.spec is not None else 0
        held = self.mem - inputs
        smallest = self.smallest()
        known = f"; smallest budget known to work: {text(smallest)}" if smallest is not None else ""
        return BudgetError(
            f"{name}{where} needs {text(inputs + need)}: inputs {text(inputs)}, outputs {text(need - space)}, "
            f"workspace {text(space)}; held beside them {text(held)}; budget {text(self.budget or 0)}; "
            f"{text(short)} short{known}: give a larger budget or a smaller batch",
            op=name,
            required_bytes=need,
            short_bytes=short,
            smallest_bytes=smallest,
        )

    def hold(self, storage: Storage) -> None:
        storage.locks += 1
        if storage.locks == 1:
            self.policy.pool.pop(storage, None)

    def unhold(self, storage: Storage) -> None:
        storage.locks -= 1
        if storage.locks == 0 and storage.material and not storage.pinned:
            self.policy.pool.setdefault(storage)

    def rebind(self, handle: Handle, node: Node) -> None:
        """A wrapper stands for another tensor from now on."""
        old, name = handle.node, handle.name
        handle.node, handle.name = node, node.name
        node.storage.refs += 1
        node.storage.handles.append(weakref.ref(handle))
        self._release(old, name)

    def drop(self, node: Node | Storage, name: int) -> None:
        """A wrapper died, in whatever thread and in the midst of whatever; or plain memory that was handed out."""
        self._dropped.append((node, name))
        if self.lock.acquire(blocking=False):
            try:
                self.settle()
            finally:
                self.lock.release()

    def settle(self) -> None:
        """Release what died meanwhile; holding the lock."""
        while self._dropped:
            node, name = self._dropped.popleft()
            if type(node) is Node:
                self._release(node, name)
            elif node in self.outside:
                key = self.outside.pop(node)
                if self.constants.get(key) is node:
                    del self.constants[key]
                self.mem -= node.size
                node.material = False

    def _release(self, node: Node, name: int) -> None:
        storage = node.storage
        storage.refs -= 1
        if self.recorder is not None and not (node.op is None and storage.pinned):
            self.recorder.release(name)
        if storage.refs == 0:
            storage.handles.clear()
            if storage.handed is not None:
                self.let_go(storage)
            elif self.settings.eager and storage.material and not storage.pinned:
                self.tallies.n_eager += 1
                self.evict(storage, "D")

    def let_go(self, storage: Storage) -> None:
        """Nobody here reads handed-out memory again: it lives as long as its plain tensors do."""
        if not any(child.storage is not storage for node in storage.nodes for child in node.children):
            for node in storage.nodes:
                node.value = None
