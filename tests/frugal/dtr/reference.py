"""The simulator's rules in plain Python: lists, sets and recursion, nothing shared with the compiled one.

Written from the rules alone (operators, tensors, storages; choosing, evicting, deallocating; heuristics) to be an
independent judge of `frugal.dtr.simulate`: equal traces, counters and ends. Slow, and as short as can be.
"""

import math
import random
from dataclasses import dataclass, field


class End(Exception):
    """The run ends: (status, operator, bytes short)."""


@dataclass(eq=False)
class Op:
    number: int
    cost: int
    outputs: list = field(default_factory=list)

    @property
    def total(self):
        return sum(t.size for t in self.outputs)


@dataclass(eq=False)
class Tensor:
    id: int
    op: Op
    storage: "Storage"
    size: int
    parents: list
    children: list = field(default_factory=list)
    defined: bool = False


@dataclass(eq=False)
class Region:
    interior: set = field(default_factory=set)
    frontier: set = field(default_factory=set)
    compute: int = 0


@dataclass(eq=False)
class Storage:
    size: int
    tensors: list = field(default_factory=list)
    material: bool = False
    ran: bool = False
    pinned: bool = False
    locks: int = 0
    refs: int = 0
    last: int = 0
    banished: bool = False
    waiting: set = field(default_factory=set)
    node: "Node" = None
    regions: tuple = field(default_factory=lambda: (Region(), Region()))

    @property
    def c(self):
        return sum(op.cost for op in {t.op for t in self.tensors})

    def edges(self, direction):
        """Storages of children (0) or parents (1), an entry an edge."""
        lists = [t.children if direction == 0 else t.parents for t in self.tensors]
        return [t.storage for of in lists for t in of]


@dataclass(eq=False)
class Node:
    value: int
    up: "Node" = None


NAMED = {
    "h_dtr": ("e", "size_stale"), "h_dtr_eq": ("eq", "size_stale"), "h_local": ("local", "size_stale"),
    "h_msps": ("ancestors", "size"), "h_size": ("one", "size"), "h_lru": ("last", "none"), "h_rand": ("one", "none"),
    "h_dtr_unopt": ("unoptimised", "size_stale"),
}  # fmt: skip


class Simulator:
    def __init__(self, heuristic, budget=math.inf, *, limit=math.inf, dealloc="evict", seed=0, e_star="maintained"):
        self.above, self.below = NAMED.get(heuristic) or tuple(heuristic.split(".")[1:])
        self.random = random.Random(seed) if (self.above, self.below) == ("one", "none") else None
        self.budget, self.limit, self.dealloc, self.e_star = budget, limit, dealloc, e_star
        self.regions = self.above in ("e", "ancestors") and e_star == "maintained"
        self.clock, self.mem, self.max_memory, self.model, self.remat = 1, 0, 0, 0, 0
        self.ops = self.evictions = self.eager = self.remats = self.evals = self.accesses = 0
        self.pool, self.tensors, self.trace, self.created = [], [], [], 0

    # ---- the schedule ------------------------------------------------------------------------------------------------

    def compute(self, inputs, cost, outputs):
        """outputs: (size, index of the input it is a view of, or -1); returns the new tensors."""
        op = Op(self.created, cost)
        self.created += 1
        for size, alias in outputs:
            storage = inputs[alias].storage if alias >= 0 else Storage(size, node=Node(0))
            tensor = Tensor(len(self.tensors), op, storage, 0 if alias >= 0 else size, list(inputs))
            self.tensors.append(tensor)
            op.outputs.append(tensor)
            storage.tensors.append(tensor)
            storage.refs += 1
        for p in inputs:
            p.children += op.outputs
            p.storage.waiting |= {t for t in op.outputs if t.storage is not p.storage}
        self.materialise(op.outputs[0], False)
        for t in op.outputs:
            t.storage.last = self.clock
        return op.outputs

    def release(self, t):
        s = t.storage
        if self.dealloc == "ignore":
            return
        s.refs -= 1
        if s.refs == 0 and self.dealloc == "banish":
            self.try_banish(s)
        elif s.refs == 0 and s.material and not s.pinned:
            self.evict(s, "D")

    def pin(self, t):
        if not t.defined:
            self.materialise(t, True)
        if not t.storage.pinned:
            self.lock(t.storage)
            t.storage.pinned = True

    # ---- running -----------------------------------------------------------------------------------------------------

    def lock(self, s):
        if s in self.pool:
            self.pool.remove(s)
        s.locks += 1

    def unlock(self, s):
        s.locks -= 1
        if s.locks == 0 and s not in self.pool:
            self.pool.append(s)

    def materialise(self, t, again):
        for p in t.parents:
            if self.dealloc != "banish" or p.storage.refs > 0:
                p.storage.last = self.clock
        for p in t.parents:
            if p.defined:
                self.lock(p.storage)
        for p in [p for p in t.parents if not p.defined]:
            if not p.defined:
                self.materialise(p, True)
            self.lock(p.storage)
        op = t.op
        while self.mem + op.total > self.budget:
            if not self.pool:
                raise End("oom", op, self.mem + op.total - self.budget)
            self.evict(self.choose(), "E")
        self.clock += op.cost
        self.mem += op.total
        self.max_memory = max(self.max_memory, self.mem)
        self.remat += op.cost if again else 0
        self.model += 0 if again else op.cost
        self.remats += again
        self.ops += not again
        self.trace.append(f"{'R' if again else 'C'}{t.id};")
        new = []
        for u in [u for u in op.outputs if u is not t] + [t]:
            self.mem -= u.size if u.defined else 0
            u.defined = True
            if not u.storage.material:
                u.storage.material = u.storage.ran = True
                new.append(u.storage)
        self.pool += [s for s in new if s not in self.pool and s.locks == 0]
        self.bookkeeping(new)
        if self.dealloc == "banish":
            at = 0
            while at < len(t.parents):  # by index on a list that a banish shortens
                s = t.parents[at].storage
                self.unlock(s)
                s.waiting -= {u for u in op.outputs if u.storage is not s}
                self.try_banish(s)
                at += 1
        else:
            for p in t.parents:
                self.unlock(p.storage)
        if self.remat > self.limit:
            raise End("thrash", op, None)

    def evict(self, s, kind):
        self.trace.append(f"{kind}{s.tensors[0].id};")
        self.evictions += kind == "E"
        self.eager += kind == "D"
        if s in self.pool:
            self.pool.remove(s)
        s.material = False
        self.mem -= s.size
        for t in s.tensors:
            t.defined = False
            for p in t.parents:
                p.storage.waiting |= {t} if p.storage is not s else set()
        if self.above == "eq":
            self.merge(s)
        elif self.regions:
            self.absorb(s)

    def try_banish(self, s):
        if s.refs > 0 or s.waiting or s.banished:
            return
        if s.material:
            s.locks = 0
            self.evict(s, "D")
        for t in s.tensors:
            for p in t.parents:
                if p.storage is not s:
                    p.storage.waiting.discard(t)
                    if t in p.children:
                        p.children.remove(t)
            for c in t.children:
                if c.storage is not s:
                    if t in c.parents:
                        c.parents.remove(t)
                    if not c.storage.pinned:
                        self.lock(c.storage)
                        c.storage.pinned = True
        s.banished = True

    # ---- choosing ----------------------------------------------------------------------------------------------------

    def choose(self):
        if self.random:
            self.evals += 1
            self.accesses += 1
            return self.pool[self.random.randrange(0, len(self.pool))]
        best, victim = math.inf, None
        for s in self.pool:
            cost = self.cost(s)
            if cost <= best:
                best, victim = cost, s
            if cost == 0:
                break
        return victim

    def cost(self, s):
        self.evals += 1
        self.accesses += 1
        age = self.clock - s.last
        if self.above == "unoptimised":
            near = self.search(s, 0).interior | self.search(s, 1).interior
            above = s.c + sum(other.c for other in near)
            age = self.clock - max([s.last, *(other.last for other in near)])
        elif self.above in ("e", "ancestors"):
            found = s.regions if self.regions else [self.search(s, d, only_ran=True) for d in self.directions]
            above = s.c + sum(region.compute for region in (found if self.above == "e" else found[-1:]))
        elif self.above == "eq":
            roots = {id(root): root for root in map(self.find, self.neighbours(s))}
            above = s.c + sum(root.value for root in roots.values())
        else:
            above = {"local": s.c, "one": 1, "last": s.last}[self.above]
        below = (s.size if "size" in self.below else 1) * (age if "stale" in self.below else 1)
        return above / below if below else math.inf

    @property
    def directions(self):
        return (0, 1) if self.above == "e" else (1,)

    # ---- neighbourhoods ----------------------------------------------------------------------------------------------

    def search(self, base, direction, only_ran=False):
        region, stack = Region(), [base]
        while stack:
            for other in stack.pop().edges(direction):
                self.accesses += 1
                if other.material:
                    region.frontier |= {other} - {base}
                elif other not in region.interior and (other.ran or not only_ran):
                    region.interior.add(other)
                    region.compute += other.c
                    stack.append(other)
        return region

    def rebuild(self, s, direction):
        s.regions = tuple(self.search(s, d) if d == direction else s.regions[d] for d in (0, 1))

    def bookkeeping(self, new):
        if self.above == "eq":
            for s in new:
                self.find(s.node, count=True)
                self.find(s.node).value -= s.c
                s.node = None
        elif self.regions and new:
            for s in new:
                self.rebuild(s, 0)
                self.rebuild(s, 1)
            before, after = ({q for s in new for q in s.regions[d].frontier} for d in (1, 0))
            for q in before:
                self.rebuild(q, 0)
            for q in after:
                self.rebuild(q, 1)

    def absorb(self, s):
        for d in (0, 1):
            for q in sorted(s.regions[1 - d].frontier, key=lambda q: q.tensors[0].id):
                into, of = q.regions[d], s.regions[d]
                into.frontier.discard(s)
                into.frontier |= of.frontier
                gained = (of.interior - into.interior) | {s}
                self.accesses += len(gained)
                into.compute += sum(other.c for other in gained)
                into.interior |= gained
        s.regions = (Region(), Region())

    def find(self, node, count=True):
        path = [node]
        while path[-1].up is not None:
            path.append(path[-1].up)
        self.accesses += len(path) if count else 0
        for passed in path[:-1]:
            passed.up = path[-1]
        return path[-1]

    def neighbours(self, s):
        """The nodes of distinct evicted neighbours."""
        found = {}
        for t in s.tensors:
            for other in [p.storage for p in t.parents] + [c.storage for c in t.children]:
                self.accesses += 1
                if other is not s and not other.material:
                    found[other] = other.node
        return list(found.values())

    def merge(self, s):
        s.node = Node(s.c)
        for node in self.neighbours(s):
            root, other = self.find(s.node), self.find(node)
            if other is not root:
                other.up = root
                root.value += other.value
