"""A lower bound on the cost of any schedule, for graphs of thousands of operators too.

Memory is looked at in a few moments alone, those of the first execution of some nodes t_1 < t_2 < …; between them it
may be anything. R[g, i] says whether node i runs between moments g-1 and g, S[g, i] whether its value is there at
moment g and after it. Minimise Σ c_i R over whole numbers subject to

    R[g, i] = 1 for t_{g-1} < i ≤ t_g, first executions;  R[g, i] = 0 for i > t_g
    S[g, i] ≤ S[g-1, i] + R[g, i];  R[g, k] ≤ R[g, i] + S[g-1, i] for edges (i, k)
    Σ m_i over t_g, what it reads, and S[g, ·] ≤ budget

Every schedule that runs new nodes in their order obeys it, however often it repeats others, since what runs several
times between two moments counts once: also the runtime's, which Checkmate's stages do not bound. A few moments bound
closely, as most of what is computed again was dropped before the middle of the step and is used once after it.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_array

from frugal.dtr.static import StaticGraph

# Numbers of moments, each a program of its own: the first is solved in seconds for a thousand nodes, and says nearly as
# much as more of them. Odd, so that the middle is one, where most is held.
MOMENTS = (3, 17)
TOLERANCE = 1e-6  # of the solver, relative to the budget and to the cost
_INFEASIBLE = 2  # OptimizeResult.status


def needs(graph: StaticGraph) -> np.ndarray:
    """int64 [T]: bytes at the first execution of each node in a run that computes every node once."""
    ends = np.array([max(graph.users[node], default=node) for node in range(len(graph))])
    held = np.cumsum(graph.size + graph.resident)
    gone = np.concatenate([[0], np.cumsum(np.bincount(ends, weights=graph.size, minlength=len(graph)))[:-1]])
    return graph.fixed_bytes + held - gone.astype(np.int64)


def lower_bound(graph: StaticGraph, budget: int, *, time_limit_s: float, gap: float) -> int | None:
    """ns that no schedule within the budget stays below; None where there is no schedule. The time is for all programs;
    one that is stopped bounds less closely."""
    best = graph.base_cost
    for moments in MOMENTS:
        found = _solve(graph, budget, moments, time_limit_s / len(MOMENTS), gap)
        if found.status == _INFEASIBLE:
            return None
        if found.get("mip_dual_bound") is not None:
            best = max(best, in_ns(graph, found.mip_dual_bound))
    return best


def in_ns(graph: StaticGraph, objective: float) -> int:
    """Whole ns of an objective in units of the base cost, less what the solver's tolerance may have added; a run costs
    its base at least, which is also what an objective that is not known says."""
    base = graph.base_cost
    return max(base, math.ceil(base * objective * (1 - TOLERANCE))) if math.isfinite(objective) else base


def _watched(graph: StaticGraph, budget: int, moments: int) -> list[int]:
    """Nodes at whose execution the budget has no room for everything: evenly many, and the last node."""
    over = np.flatnonzero(needs(graph) > budget)
    chosen = np.unique(np.linspace(0, max(0, len(over) - 1), moments).astype(np.int64)) if len(over) else []
    return [*over[chosen].tolist(), len(graph) - 1]


def _solve(graph: StaticGraph, budget: int, count: int, time_limit_s: float, gap: float) -> OptimizeResult:
    """HiGHS on the program; the objective in units of a run that computes every node once."""
    moments = _watched(graph, budget, count)
    nodes, stages = len(graph), len(moments)
    made = np.concatenate([[0], np.cumsum(graph.resident)])
    user = np.repeat(np.arange(nodes), np.diff(graph.in_ptr))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    above: list[np.ndarray] = []
    low, high = np.zeros(2 * stages * nodes), np.zeros(2 * stages * nodes)

    def at_most(bounds: np.ndarray, *terms: tuple[np.ndarray, float]) -> None:
        rows = sum(map(len, above)) + np.arange(len(bounds))
        entries.extend((rows, columns, np.full(len(rows), factor)) for columns, factor in terms)
        above.append(bounds)

    def r(g: int, i: np.ndarray) -> np.ndarray:
        return 2 * g * nodes + i

    def s(g: int, i: np.ndarray) -> np.ndarray:
        return (2 * g + 1) * nodes + i

    for g, moment in enumerate(moments):
        known = np.arange(moment + 1)
        new = known[moments[g - 1] + 1 if g else 0 :]
        high[r(g, known)] = high[s(g, known)] = 1
        low[r(g, new)] = 1
        before = [(s(g - 1, known), -1.0)] if g else []
        at_most(np.zeros(len(known)), (s(g, known), 1.0), (r(g, known), -1.0), *before)
        edges = user <= moment
        reader, read = user[edges], graph.in_node[edges]
        before = [(s(g - 1, read), -1.0)] if g else []
        at_most(np.zeros(len(read)), (r(g, reader), 1.0), (r(g, read), -1.0), *before)
        if g < stages - 1:
            there = np.append(graph.inputs(moment), moment)
            others = np.setdiff1d(known, there)
            left = budget - graph.fixed_bytes - int(made[moment + 1]) - int(graph.size[there].sum())
            row = np.full(len(others), sum(map(len, above)))
            entries.append((row, s(g, others), graph.size[others] / budget))
            above.append(np.array([left / budget]))
    row, column, factor = (np.concatenate(part) for part in zip(*entries, strict=True))
    limits = np.concatenate(above)
    matrix = csr_array((factor, (row, column)), shape=(len(limits), len(low)))
    cost = np.zeros(len(low))
    for g in range(stages):
        cost[r(g, np.arange(nodes))] = graph.cost / max(1, graph.base_cost)
    return milp(
        cost,
        integrality=np.ones(len(cost)),
        bounds=Bounds(low, high),
        constraints=LinearConstraint(matrix, -np.inf, limits),
        options={"time_limit": time_limit_s, "mip_rel_gap": gap},
    )
