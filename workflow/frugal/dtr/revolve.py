"""Revolve: optimal checkpoints on a chain.

A. Griewank, A. Walther, "Algorithm 799: Revolve", ACM TOMS 26(1), 2000. To go back through l states, of which the first
is held and of which s may be held at once, takes t(l, s) forward steps: with β(s, r) = (s+r)! / (s! r!) and r such that
β(s, r-1) < l ≤ β(s, r),

    t(l, s) = r·l - β(s+1, r-1)

which is the least of k + t(l-k, s-1) + t(k, s) over k, with t(1, ·) = 0 and t(l, 1) = l(l-1)/2. Layers of different
cost take the same recursion over segments with the cost of a step in place of 1. Slots count states, whatever their
bytes.

On a static graph the first state is what comes before the first layer, which is always there: s states are s - 1
layers' values beside those that an operator works on. On the chain of `frugal.dtr.chain` those are three (what b_j
reads, and b_j), so that a budget of B units holds B - 3 values, which are B - 2 states. A value that two backward
operators in a row read is held from one to the other.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from itertools import pairwise

import numba
import numpy as np

from frugal.dtr.static import StaticGraph, StaticPlan, cheapest, replay

MOST_UNEVEN = 160  # layers of different cost: the table of the recursion has this many cubed entries

# (state that is held, state to go to, free slots) → steps to the next state to hold
Split = Callable[[int, int, int], int]


def binomial(s: int, r: int) -> int:
    """β(s, r) = (s+r)! / (s! r!): the longest chain that s slots reverse with at most r forward runs of each step."""
    return math.comb(s + r, s) if r >= 0 else 0


def forward_steps(states: int, slots: int) -> int:
    """t(l, s), in closed form. Raises ValueError for fewer than one of either."""
    if states < 1 or slots < 1:
        raise ValueError(f"states={states} and slots={slots} must be at least 1")
    r = 0
    while binomial(slots, r) < states:
        r += 1
    return r * states - binomial(slots + 1, r - 1)


def plan_revolve(graph: StaticGraph, budget: int) -> StaticPlan:
    """The schedule of the most slots that fits on a chain of even costs and sizes, else the cheapest that fits."""
    refused = _refused(graph)
    if refused:
        return StaticPlan("revolve", budget, "unsupported", refused)
    top = _top(graph)
    costs, sizes = graph.cost[: top + 1], graph.size[: top + 1]
    if len(np.unique(costs)) > 1 or len(np.unique(sizes)) > 1:
        splits = _uneven(costs)
        return cheapest(graph, "revolve", budget, [schedule(graph, slots, splits) for slots in range(top + 1)])
    split = _even(top + 2)
    slots = bisect.bisect_right(range(top + 1), budget, key=lambda slots: _peak(graph, slots, split))
    return cheapest(graph, "revolve", budget, [schedule(graph, max(0, slots - 1), split)])


def _peak(graph: StaticGraph, slots: int, split: Split) -> int:
    return replay(graph, schedule(graph, slots, split))[1]


def schedule(graph: StaticGraph, slots: int, split: Split) -> np.ndarray:
    """Nodes of a chain in order of execution, with so many layers' values held beside what an operator reads."""
    layers = graph.n_forward
    reads = [[i for i in graph.inputs(node).tolist() if i < layers] for node in range(layers, len(graph))]
    order: list[int] = []
    held = [-1]  # -1 is what comes before the first layer

    def advance(to: int) -> None:
        while len(held) <= slots and held[-1] < to:
            step = split(held[-1], to, slots + 1 - len(held))
            order.extend(range(held[-1] + 1, held[-1] + step + 1))
            held.append(held[-1] + step)
        order.extend(range(held[-1] + 1, to + 1))

    there: set[int] = set()  # values beside the held ones
    top = _top(graph)
    advance(top)
    order.extend(range(top + 1, layers))
    reading = [at for at, read in enumerate(reads) if read]
    if reading:
        there = {i for i in reads[reading[0]] if i >= top}
    following = dict(pairwise(reading))
    for at, read in enumerate(reads):
        if read:
            while held[-1] > read[0]:
                there.add(held.pop())
            if read[0] not in there:
                if held[-1] != read[0]:
                    advance(read[0])
                there.add(read[0])
            for i in read:
                if i not in there:
                    order.extend(range(max(j for j in there if j < i) + 1, i + 1))
                    there.add(i)
            there = set(read) & set(reads[following[at]]) if at in following else set()
        order.append(layers + at)
    return np.array(order, np.int64)


def _refused(graph: StaticGraph) -> str:
    """Why a graph is no chain; empty for one."""
    for node in range(graph.n_forward):
        if graph.inputs(node).tolist() != ([node - 1] if node else []):
            return f"not a chain: forward operator {node} reads {graph.inputs(node).tolist()}"
    lowest = [int(graph.inputs(node)[0]) for node in range(graph.n_forward, len(graph)) if len(graph.inputs(node))]
    lowest = [i for i in lowest if i < graph.n_forward]
    if any(after > before for before, after in pairwise(lowest)):
        return "not a chain: the backward pass does not go through the layers in the opposite order"
    top = _top(graph)
    if len(np.unique(graph.cost[: top + 1])) > 1 and top + 1 > MOST_UNEVEN:
        return f"{top + 1} layers of different cost; the table is made for {MOST_UNEVEN} at most"
    return ""


def _top(graph: StaticGraph) -> int:
    """The highest layer that some backward operator goes back to, -1 where none reads any."""
    backward = graph.in_ptr[graph.n_forward : -1][np.diff(graph.in_ptr)[graph.n_forward :] > 0]
    lowest = graph.in_node[backward]
    return int(lowest[lowest < graph.n_forward].max(initial=-1))


def _even(states: int) -> Split:
    """Splits where every step costs the same, from the closed form."""
    tables: dict[int, np.ndarray] = {}

    def table(slots: int) -> np.ndarray:
        if slots not in tables:
            lengths, r = np.arange(states + 1), np.zeros(states + 1, np.int64)
            offsets = [0]
            while binomial(slots, len(offsets) - 1) < states:
                r[lengths > binomial(slots, len(offsets) - 1)] = len(offsets)
                offsets.append(binomial(slots + 1, len(offsets) - 1))
            tables[slots] = r * lengths - np.array(offsets)[r]
        return tables[slots]

    def split(held: int, to: int, free: int) -> int:
        length = to - held + 1
        steps = np.arange(1, length)
        return 1 + int(np.argmin(steps + table(free)[length - steps] + table(free + 1)[steps]))

    return split


def _uneven(costs: np.ndarray) -> Split:
    """Splits of the recursion over segments."""
    best = _table(np.concatenate([[0], np.cumsum(costs)]))
    return lambda held, to, free: int(best[free, held + 1, to + 1])


@numba.njit(cache=True)
def _table(total):
    """[free slots, state held, state to go to] → steps to the next state to hold. total: cost up to each state."""
    n = len(total)
    best = np.ones((n, n, n), np.int16)
    before = np.zeros((n, n), np.int64)  # with one slot less
    for first in range(n):
        for last in range(first + 1, n):
            before[first, last] = before[first, last - 1] + total[last] - total[first]
    for free in range(1, n):
        cost = np.zeros((n, n), np.int64)
        for length in range(1, n):
            for first in range(n - length):
                last = first + length
                least = np.int64(2**62)
                for step in range(1, length + 1):
                    middle = first + step
                    found = total[middle] - total[first] + before[middle, last] + cost[first, middle - 1]
                    if found < least:
                        least = found
                        best[free, first, last] = step
                cost[first, last] = least
        before = cost
    return best
