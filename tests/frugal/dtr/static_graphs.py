"""Small graphs for tests of the static planners, and schedules judged without any of their arithmetic."""

import heapq
import math

import numpy as np
from hypothesis import strategies as st

from frugal.dtr import layer_graph


def unit_chain(n):
    """n layers of cost and size 1, a loss that costs nothing, and their backward pass: 2n + 1 nodes."""
    return layer_graph([1] * n, [1] * n)


@st.composite
def networks(draw, most_layers=6, least_size=0):
    """Layer graphs with skips, gradients that stay, and a loss."""
    n = draw(st.integers(1, most_layers))
    numbers = lambda least, most: draw(st.lists(st.integers(least, most), min_size=n, max_size=n))  # noqa: E731
    inputs = [
        sorted(draw(st.sets(st.integers(max(0, i - 3), i - 1), min_size=1, max_size=2))) if i else [] for i in range(n)
    ]
    return layer_graph(
        numbers(0, 9), numbers(least_size, 9), inputs, backward_cost=draw(st.integers(0, 2)),
        loss_cost=draw(st.integers(0, 2)), loss_size=draw(st.integers(least_size, 2)), gradient_bytes=numbers(0, 2),
        fixed_bytes=draw(st.integers(0, 3)),
    )  # fmt: skip


def judged(graph, order):
    """(ns, peak bytes) of a schedule: at every step, what is there is what some later step reads before it is made
    again, and what has been made and stays."""
    order, cost, peak = list(order), 0, 0
    reads = [set(graph.inputs(node).tolist()) for node in range(len(graph))]
    for at, node in enumerate(order):
        there = {node}
        for other in range(len(graph)):
            made = other in order[:at]
            assert made or other not in reads[node]
            for later in order[at:]:
                if other in reads[later]:
                    there |= {other} if made else set()
                    break
                if later == other:
                    break
        stays = sum(int(graph.resident[other]) for other in set(order[:at])) + int(graph.resident[node])
        peak = max(peak, graph.fixed_bytes + stays + sum(int(graph.size[other]) for other in there))
        cost += int(graph.cost[node])
    assert set(order) == set(range(len(graph)))
    return cost, peak


def of_trace(graph, log, trace):
    """The nodes that a simulated run of `graph.log()` executed, in order."""
    events = [int(event[1:]) for event in trace.split(";")[:-1] if event[0] in "CR"]
    ops = log.graph.tensor_op[np.array(events)]
    return ops[ops > 0] - 1  # the constant is the first operator


def least(graph, budget, staged):
    """The least ns of any schedule within a budget that computes new nodes in their order, by Dijkstra's algorithm over
    what may be there; None where none fits. staged: between two new nodes, others run in order, each at most once."""
    nodes = len(graph)
    needs = [sum(1 << int(i) for i in graph.inputs(node)) for node in range(nodes)]
    size, cost = graph.size.tolist(), graph.cost.tolist()
    stays = [graph.fixed_bytes + int(graph.resident[:node].sum()) for node in range(nodes)]
    bytes_of = lambda mask: sum(size[i] for i in range(nodes) if mask >> i & 1)  # noqa: E731
    start = (0, 0, 0)  # nodes made, the first that may still run before the next new one, what is there
    best, queue, done = {start: 0}, [(0, start)], set()
    while queue:
        spent, state = heapq.heappop(queue)
        if state in done:
            continue
        done.add(state)
        made, first, there = state
        if made == nodes:
            return spent
        following = [(0, (made, first, there & ~(1 << i))) for i in range(nodes) if there >> i & 1]
        for node in range(first, made + 1):
            now = there | 1 << node
            if there & needs[node] != needs[node] or there >> node & 1:
                continue
            if stays[made] + int(graph.resident[node]) + bytes_of(now) <= budget:
                after = (made + 1, 0) if node == made else (made, node + 1 if staged else 0)
                following.append((cost[node], (*after, now)))
        for more, state in following:
            if spent + more < best.get(state, math.inf):
                best[state] = spent + more
                heapq.heappush(queue, (spent + more, state))
    return None
