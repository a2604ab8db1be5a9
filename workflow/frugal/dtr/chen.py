"""Chen's planners: checkpoints are kept, the rest of the forward pass is dropped and computed again segment by segment.

T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174. What comes
after the last checkpoint is kept, as its backward pass follows at once.
"""

from __future__ import annotations

import math
from functools import lru_cache

import networkx
import numba
import numpy as np

from frugal.dtr.static import StaticGraph, StaticPlan, cheapest

SEARCHED = 300  # thresholds of the greedy planner


def plan_chen(graph: StaticGraph, method: str, budget: int) -> StaticPlan:
    """The schedule of √n checkpoints, or the cheapest that fits of all that the greedy planner finds."""
    linear = method.endswith("_linear")
    orders = _greedy(graph, linear) if method.startswith("chen_greedy") else (_sqrt(graph, linear),)
    return cheapest(graph, method, budget, orders)


def candidates(graph: StaticGraph, linear: bool) -> np.ndarray:
    """Forward nodes that may be checkpoints, in order: all, or the articulation points of the forward graph, at which
    it falls apart."""
    if linear:
        return np.arange(graph.n_forward)
    undirected = networkx.Graph()
    for node in range(graph.n_forward):
        undirected.add_edges_from((source, node) for source in graph.inputs(node).tolist())
    return np.array(sorted(networkx.articulation_points(undirected)), np.int64)


def checkpointed(graph: StaticGraph, checkpoints: np.ndarray) -> np.ndarray:
    """The schedule that keeps these forward nodes."""
    kept = np.zeros(len(graph), np.bool_)
    kept[checkpoints] = True
    start = int(checkpoints.max(initial=-1)) + 1  # of the last segment
    return _order(graph.n_forward, kept, start, graph.in_ptr, graph.in_node)


def _sqrt(graph: StaticGraph, linear: bool) -> np.ndarray:
    among = candidates(graph, linear)
    every = max(1, math.isqrt(len(among)))
    return checkpointed(graph, among[every - 1 :: every])


@lru_cache(maxsize=8)
def _greedy(graph: StaticGraph, linear: bool) -> tuple[np.ndarray, ...]:
    """A schedule for each set of checkpoints that some threshold gives; thresholds are of 1604.06174's search range."""
    among = np.zeros(graph.n_forward, np.bool_)
    among[candidates(graph, linear)] = True
    middle = graph.size[: graph.n_forward].sum() / math.sqrt(max(1, graph.n_forward))
    sets: dict[tuple[int, ...], None] = {}
    for step in range(SEARCHED):
        sets[_passed(graph, among, middle * step * 3 / SEARCHED)] = None
    return tuple(checkpointed(graph, np.array(chosen, np.int64)) for chosen in sets)


def _passed(graph: StaticGraph, among: np.ndarray, threshold: float) -> tuple[int, ...]:
    """The candidates at which the bytes since the last checkpoint pass a threshold."""
    chosen, held = [], 0
    for node, size in enumerate(graph.size[: graph.n_forward].tolist()):
        held += size
        if among[node] and held > threshold:
            chosen.append(node)
            held = 0
    return tuple(chosen)


@numba.njit(cache=True)
def _order(n_forward, kept, start, in_ptr, in_node):
    """Nodes in order of execution; kept: checkpoints; start: of the segment that is kept whole."""
    nodes = len(kept)
    last_forward, last = np.full(nodes, -1, np.int64), np.full(nodes, -1, np.int64)
    for node in range(nodes):
        for i in range(in_ptr[node], in_ptr[node + 1]):
            last[in_node[i]] = node
            if node < n_forward:
                last_forward[in_node[i]] = node
    have, wanted = np.zeros(nodes, np.bool_), np.zeros(nodes, np.bool_)
    stack, again = np.empty(len(in_node) + 1, np.int64), np.empty(nodes, np.int64)
    order, length = np.empty(4 * nodes + 16, np.int64), 0
    for now in range(nodes):
        # what is missing, and what is missing for that
        stack[0], depth, count = now, 1, 0
        while depth:
            depth -= 1
            node = stack[depth]
            for i in range(in_ptr[node], in_ptr[node + 1]):
                source = in_node[i]
                if not have[source] and not wanted[source]:
                    wanted[source] = True
                    again[count], stack[depth] = source, source
                    count += 1
                    depth += 1
        again[:count].sort()
        again[count] = now
        if length + count + 1 > len(order):
            order = np.concatenate((order, np.empty(len(order) + nodes, np.int64)))
        for j in range(count + 1):
            order[length] = again[j]
            length += 1
            have[again[j]], wanted[again[j]] = True, False
        # what is dropped
        for j in range(-1 - count, in_ptr[now + 1] - in_ptr[now]):
            node = again[-1 - j] if j < 0 else in_node[in_ptr[now] + j]
            ends = last[node] if now >= n_forward or node >= start else last_forward[node]
            if ends <= now and not kept[node]:
                have[node] = False
    return order[:length].copy()
