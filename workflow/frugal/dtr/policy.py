"""What the runtime knows of tensors and storages, and which storage it gives up: the simulator's rules, one at a time.

The rules are those of the published simulator (M. Kirisame et al., "Dynamic Tensor Rematerialization", ICLR 2021,
section 4 and appendix C), so that a simulation of a captured log takes the same decisions. `Node` is a tensor of the
graph, `Storage` the bytes that it shares with its views, `Op` the run that makes it.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from heapq import nsmallest
from math import inf, isqrt
from typing import Any

from frugal.dtr.holes import Holes

NUMERATORS = ("e", "eq", "local", "one", "rev")
DENOMINATORS = ("size_stale", "size", "stale", "none")
CLOSEST = 16  # the cheapest storages, among which a hole decides


class Op:
    """One run of an operator, and what it takes to run it again.

    args, kwargs: a Node stands for a tensor. inputs, outputs: nodes in order, inputs with duplicates. cost: ns.
    total: bytes of the outputs. spec: of its key. rng: where its generator stood. positions: of the outputs in the
    operator's result. checks: sums of the outputs (debug). module: dotted path.
    """

    __slots__ = (
        "args", "checks", "cost", "inputs", "kwargs", "module", "operator", "outputs", "replays", "rng", "run", "spec",
        "stats", "total",
    )  # fmt: skip


class Node:
    """A tensor of the graph. value: the real tensor, None while evicted. meta: the key part of shape, strides, dtype.

    name: of its first wrapper. version: of a constant's value when it was taken; None for what an operator makes.
    stale: a constant whose memory has been written since, so that nothing can be computed from it again.
    """

    __slots__ = ("children", "id", "meta", "name", "op", "stale", "storage", "value", "version")

    def __init__(self, number: int, op: Op | None, storage: Storage, meta: int, name: int) -> None:
        self.id = number
        self.name = name
        self.op = op
        self.storage = storage
        self.meta = meta
        self.value: Any = None
        self.version: int | None = None
        self.stale = False
        self.children: list[Node] = []


class Storage:
    """Bytes shared by a tensor and its views, the unit of eviction. cost: ns of the distinct operators of its tensors.

    refs: wrappers that are alive, handles: weak references to theirs. last: the clock at its last use. union: its node
    in the union-find while evicted. score: its numerator, None when that must be computed again. handed: a weak
    reference to the plain memory that was given out.
    """

    __slots__ = (
        "cost", "device", "handed", "handles", "last", "locks", "mark", "material", "nodes", "pinned", "refs",
        "root_id", "score", "size", "union",
    )  # fmt: skip

    def __init__(self, size: int, root_id: int, device: object) -> None:
        self.size = size
        self.root_id = root_id
        self.device = device
        self.nodes: list[Node] = []
        self.material = self.pinned = False
        self.handed: object = None
        self.handles: list[weakref.ref] = []
        self.locks = self.refs = self.cost = 0
        self.last = 0
        self.mark = 0
        self.union: Union | None = None
        self.score: float | None = None


class Union:
    """A node of the union-find over evicted storages. value: Σ cost of its class, at the root."""

    __slots__ = ("parent", "value", "watchers")

    def __init__(self, value: int) -> None:
        self.parent: Union | None = None
        self.value = value
        self.watchers: list[Storage] = []  # whose score was computed from this class


class Policy:
    """The pool of storages that may be evicted, and the choice among them.

    numerator, denominator: of the heuristic (`NUMERATORS`, `DENOMINATORS`; `lru` as denominator: oldest first, and
    ("one", "none"): at random). sampling: None scores all, "sqrt" about √n of them, by random strides. min_bytes:
    smaller storages are passed over while there is another. contiguous: of the CLOSEST cheapest storages the one goes
    without which the largest range of memory is free; decisions then depend on addresses.
    """

    def __init__(
        self,
        numerator: str,
        denominator: str,
        seed: int,
        sampling: str | None,
        min_bytes: int,
        contiguous: bool = False,
    ) -> None:
        self.numerator, self.denominator = numerator, denominator
        self.pool: dict[Storage, None] = {}  # in the order of the published simulator's list, which decides ties
        self.evals = 0
        self._random = random.Random(seed)
        self._sampling, self._min_bytes = sampling, min_bytes
        self._holes = Holes() if contiguous else None
        self._stamp = 0
        self._classes = numerator == "eq"
        self._score = {"eq": self._equivalence, "e": self._neighbourhood, "rev": self._ancestors}.get(numerator)

    def append(self, storage: Storage) -> None:
        """Put a storage at the end of the pool, if it may be evicted and is not in it."""
        if not storage.pinned and storage.locks == 0 and storage.material:
            self.pool.setdefault(storage)

    def choose(self, clock: int) -> Storage | None:
        """The storage of least cost, the last of equal ones; one of cost 0 ends the scan. None: the pool is empty."""
        if not self.pool:
            return None
        if self.numerator == "one" and self.denominator == "none":
            self.evals += 1
            return list(self.pool)[self._random.randrange(0, len(self.pool))]
        candidates = self._candidates()
        self.evals += len(candidates)
        if self._holes is not None:
            return self._closing(candidates, clock, self._holes)
        if self.numerator in ("one", "local", "eq") and self.denominator == "size_stale":
            return self._least(candidates, clock)
        best, victim = inf, None
        for storage in candidates:
            cost = self._cost(storage, clock)
            if cost <= best:
                best, victim = cost, storage
            if cost == 0:
                break
        return victim

    def _least(self, candidates: dict[Storage, None] | list[Storage], clock: int) -> Storage | None:
        """`choose` for the heuristics in common use, with cached numerators."""
        best, victim = inf, None
        for storage in candidates:
            score = storage.score
            if score is None:
                score = storage.score = self.score(storage)
            weight = storage.size * (clock - storage.last)
            cost = score / weight if weight else inf
            if cost <= best:
                best, victim = cost, storage
            if cost == 0:
                break
        return victim

    def _closing(self, candidates: dict[Storage, None] | list[Storage], clock: int, holes: Holes) -> Storage:
        """Of the cheapest the one that leaves the largest hole, the cheapest of equal ones."""
        costs = [(self._cost(storage, clock), -at, storage) for at, storage in enumerate(candidates)]
        return max((storage for _, _, storage in nsmallest(CLOSEST, costs)), key=holes.size_without)

    def _candidates(self) -> dict[Storage, None] | list[Storage]:
        pool = self.pool
        if self._min_bytes:
            large = [storage for storage in pool if storage.size >= self._min_bytes]
            pool = large or pool
        if self._sampling is None or len(pool) <= 64:
            return pool
        listed, stride = list(pool), isqrt(len(pool))
        chosen, at = [], self._random.randint(1, stride) - 1
        while at < len(listed):
            chosen.append(listed[at])
            at += self._random.randint(1, stride)
        return chosen

    def _cost(self, storage: Storage, clock: int) -> float:
        if self.denominator == "lru":
            return storage.last
        weight = 1
        if self.denominator in ("size", "size_stale"):
            weight = storage.size
        if self.denominator in ("stale", "size_stale"):
            weight *= clock - storage.last
        return self._kept_score(storage) / weight if weight else inf

    def _kept_score(self, storage: Storage) -> float:
        if self.numerator not in ("one", "local", "eq"):  # a neighbourhood is searched anew each time
            return self.score(storage)
        if storage.score is None:
            storage.score = self.score(storage)
        return storage.score

    def score(self, storage: Storage) -> int:
        """The heuristic's numerator now."""
        if self._score is not None:
            return storage.cost + self._score(storage)
        return storage.cost if self.numerator == "local" else 1

    # ---- evicted neighbourhoods ----------------------------------------------------------------------------------

    def evicted(self, storage: Storage) -> None:
        """Bookkeeping after a storage was evicted: a class of its own, merged with those of evicted neighbours."""
        if self._holes is not None:
            self._holes.leave(storage)
        if not self._classes:
            return
        mine = storage.union = Union(storage.cost)
        for other in self._neighbours(storage):
            if other.material:
                other.score = None
            else:
                root = find(other.union)
                if root is not mine:
                    root.parent = mine
                    mine.value += root.value
                    _forget(root)
        storage.score = None

    def forgotten(self, storage: Storage) -> None:
        """Bookkeeping after a storage gave its bytes back for good."""
        if self._holes is not None:
            self._holes.leave(storage)

    def waits(self, storage: Storage) -> None:
        """Bookkeeping for the output of an operator that is about to run for the first time: it is not material yet."""
        if self._classes:
            storage.union = Union(0)

    def restored(self, storage: Storage) -> None:
        """Bookkeeping after a storage became material again, or for the first time."""
        if self._holes is not None:
            value = next(node.value for node in storage.nodes if node.value is not None)
            self._holes.take(storage, value.untyped_storage().data_ptr())
        if not self._classes or storage.union is None:
            return
        root = find(storage.union)
        root.value -= storage.cost
        storage.union = None
        _forget(root)
        storage.score = None
        for other in self._neighbours(storage):
            other.score = None

    def _neighbours(self, storage: Storage) -> list[Storage]:
        """Distinct storages of parents and children, in first-seen order."""
        self._stamp = stamp = self._stamp + 1
        storage.mark = stamp
        found = []
        for node in storage.nodes:
            for other in node.op.inputs if node.op is not None else ():
                near = other.storage
                if near.mark != stamp:
                    near.mark = stamp
                    found.append(near)
            for other in node.children:
                near = other.storage
                if near.mark != stamp:
                    near.mark = stamp
                    found.append(near)
        return found

    def _equivalence(self, storage: Storage) -> int:
        total, seen = 0, []
        for other in self._neighbours(storage):
            if not other.material and other.union is not None:
                root = find(other.union)
                if root not in seen:
                    seen.append(root)
                    root.watchers.append(storage)
                    total += root.value
        return total

    def _neighbourhood(self, storage: Storage) -> int:
        return self._closure(storage, _children) + self._closure(storage, _parents)

    def _ancestors(self, storage: Storage) -> int:
        return self._closure(storage, _parents)

    def _closure(self, storage: Storage, edges: Callable[[Node], list[Node]]) -> int:
        """Σ cost of the evicted storages that are reached through evicted ones alone; never-computed ones are not."""
        self._stamp = stamp = self._stamp + 1
        storage.mark = stamp
        total, waiting = 0, [storage]
        while waiting:
            for node in waiting.pop().nodes:
                for other in edges(node):
                    near = other.storage
                    if near.mark != stamp and not near.material and near.last:
                        near.mark = stamp
                        total += near.cost
                        waiting.append(near)
        return total


def find(union: Union | None) -> Union:
    """The root of a class; the path to it is compressed."""
    assert union is not None
    root = union
    while root.parent is not None:
        root = root.parent
    while union is not root:
        union.parent, union = root, union.parent  # type: ignore[assignment]
    return root


def _forget(root: Union) -> None:
    """The class's value changed: what was computed from it no longer holds."""
    for storage in root.watchers:
        storage.score = None
    root.watchers.clear()


def _children(node: Node) -> list[Node]:
    return node.children


def _parents(node: Node) -> list[Node]:
    return node.op.inputs if node.op is not None else []
