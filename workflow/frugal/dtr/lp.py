"""The optimum of a static graph as a mixed-integer program, its relaxation's bound, and schedules rounded from that.

P. Jain et al., "Checkmate: Breaking the Memory Wall with Optimal Tensor Rematerialization", MLSys 2020, sections 4 and
5.1, solved by HiGHS. Stage t ends with the first execution of node t, and within a stage nodes run in order, each at
most once. R[t, i]: node i runs in stage t; S[t, i]: its value is there when the stage begins; U[t, k]: bytes once k had
its turn; F[t, e]: the value of i is freed after the edge e = (i, k), or after its own turn (i, i). Minimise Σ c_i R
subject to

    S[t+1, i] ≤ S[t, i] + R[t, i];  R[t, k] ≤ R[t, i] + S[t, i] for edges (i, k);  R[t, t] = 1
    F[t, (i, k)] ≤ R[t, k], 1 - S[t+1, i], and 1 - R[t, j] for every later reader j of i
    U[t, k] = U[t, k-1] + m_k R[t, k] - Σ_{e to k-1} m_i F[t, e] ≤ budget

The paper's 1 - F ≤ h ≤ h_max (1 - F) says the same of whole numbers; taken apart the rows bound the relaxation more
closely, and F needs not be an integer. What stays once it is made (`resident`) is added stage by stage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_array

from frugal.dtr.bound import TOLERANCE, in_ns, lower_bound
from frugal.dtr.chen import plan_chen
from frugal.dtr.revolve import plan_revolve
from frugal.dtr.static import StaticGraph, StaticPlan, cheapest

# Variables and rows grow with the square, and time faster. Of the unit chain the program is solved to the end up to 33
# nodes within seconds where B ≥ 2√n, and the relaxation in 0.1 s at 33 nodes, 3 s at 65, 13 s at 97, 46 s at 129.
MOST_NODES, MOST_RELAXED = 200, 65
THRESHOLDS = tuple(i / 10 for i in range(1, 10))
ROUNDED_BUDGET = 0.9  # of the budget, for the relaxation that is rounded: rounding up needs room
_OPTIMAL, _INFEASIBLE = 0, 2  # OptimizeResult.status
_BOUND_S = 4  # of the time, for a bound that may show that a known schedule is the optimum
_TRIES = 3


@dataclass(frozen=True)
class _Program:
    """Where the variables of R, S, U and F stand, and the rows of a graph; U in units of the budget."""

    graph: StaticGraph

    @cached_property
    def edges(self) -> list[tuple[int, int]]:
        """(i, k): after k's turn i may be freed; only values that have bytes."""
        graph = self.graph
        pairs = [(int(i), k) for k in range(len(graph)) for i in (*graph.inputs(k), k)]
        return [(i, k) for i, k in pairs if graph.size[i]]

    def r(self, t: int, i: int) -> int:
        return t * (t + 1) // 2 + i

    def s(self, t: int, i: int) -> int:
        return self._triangle + t * (t - 1) // 2 + i

    def u(self, t: int, k: int) -> int:
        return self._triangle + self._strict + self.r(t, k)

    @property
    def _triangle(self) -> int:
        return len(self.graph) * (len(self.graph) + 1) // 2

    @property
    def _strict(self) -> int:
        return len(self.graph) * (len(self.graph) - 1) // 2

    @cached_property
    def frees(self) -> dict[tuple[int, int, int], int]:
        """(t, i, k) → variable F."""
        wanted = [(t, i, k) for t in range(len(self.graph)) for i, k in self.edges if k <= t]
        return {key: 2 * self._triangle + self._strict + n for n, key in enumerate(wanted)}

    @property
    def variables(self) -> int:
        return 2 * self._triangle + self._strict + len(self.frees)

    @cached_property
    def rows(self) -> tuple[LinearConstraint, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(rows without bytes, triplets of the equations of U: row, column, bytes)."""
        graph, nodes = self.graph, len(self.graph)
        entries: list[tuple[int, int, float]] = []
        above: list[float] = []

        def at_most(bound: float, *terms: tuple[int, float]) -> None:
            entries.extend((len(above), column, factor) for column, factor in terms)
            above.append(bound)

        for t in range(nodes):
            if t + 1 < nodes:
                for i in range(t + 1):
                    stays = ((self.s(t, i), -1.0),) if i < t else ()
                    at_most(0, (self.s(t + 1, i), 1.0), (self.r(t, i), -1.0), *stays)
            for k in range(t + 1):
                for i in graph.inputs(k).tolist():
                    at_most(0, (self.r(t, k), 1.0), (self.r(t, i), -1.0), (self.s(t, i), -1.0))
        for (t, i, k), free in self.frees.items():
            at_most(0, (free, 1.0), (self.r(t, k), -1.0))
            if t + 1 < nodes:
                at_most(1, (free, 1.0), (self.s(t + 1, i), 1.0))
            for j in graph.users[i]:
                if k < j <= t:
                    at_most(1, (free, 1.0), (self.r(t, j), 1.0))
        row, column, factor = (np.array(part) for part in zip(*entries, strict=True)) if entries else ([], [], [])
        matrix = csr_array((factor, (row, column)), shape=(len(above), self.variables))
        return LinearConstraint(matrix, -np.inf, np.array(above)), self._bytes()

    def _bytes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """U[t, k] - U[t, k-1] - m_k R[t, k] + ... = what is resident when the stage begins (k = 0), else 0."""
        graph, entries = self.graph, []
        frees: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for (t, i, k), free in self.frees.items():
            frees.setdefault((t, k), []).append((free, int(graph.size[i])))
        for t in range(len(graph)):
            for k in range(t + 1):
                row = self.r(t, k)
                entries.append((row, self.r(t, k), -int(graph.size[k] + graph.resident[k])))
                if k == 0:
                    entries += [(row, self.s(t, i), -int(graph.size[i])) for i in range(t)]
                else:
                    entries += [(row, free, size) for free, size in frees.get((t, k - 1), ())]
                    # made a second time, what is resident already is thrown away
                    entries.append((row, self.r(t, k - 1), int(graph.resident[k - 1])))
        return tuple(np.array(part) for part in zip(*entries, strict=True))

    def solve(
        self, budget: int, *, whole: bool, time_limit_s: float, gap: float, most: int | None = None
    ) -> OptimizeResult:
        """HiGHS on the program, or its relaxation; `most` ns is a cost that can be had. The objective is in units of
        a run that computes every node once."""
        graph, nodes = self.graph, len(self.graph)
        rows, (row, column, size) = self.rows
        unit, base = float(budget), max(1, graph.base_cost)
        every = np.arange(self._triangle)
        at = np.setdiff1d(every, [self.r(t, 0) for t in range(nodes)])  # rows with a k before theirs
        matrix = csr_array(
            (
                np.concatenate([size / unit, np.ones(self._triangle), -np.ones(len(at))]),
                (
                    np.concatenate([row, every, at]),
                    np.concatenate([column, self.u(0, 0) + every, self.u(0, 0) + at - 1]),
                ),
            ),
            shape=(self._triangle, self.variables),
        )
        resident = graph.fixed_bytes + np.concatenate([[0], np.cumsum(graph.resident)[:-1]])
        begins = np.zeros(self._triangle)
        begins[[self.r(t, 0) for t in range(nodes)]] = resident / unit
        cost = np.zeros(self.variables)
        for t in range(nodes):
            cost[self.r(t, 0) : self.r(t, t) + 1] = graph.cost[: t + 1] / base
        low, integer = np.zeros(self.variables), np.zeros(self.variables)
        low[[self.r(t, t) for t in range(nodes)]] = 1
        integer[: self.u(0, 0)] = whole
        constraints = [rows, LinearConstraint(matrix, begins, begins)]
        if most is not None:
            constraints.append(LinearConstraint(csr_array(cost[None]), -np.inf, most / base * (1 + TOLERANCE)))
        return milp(
            cost,
            integrality=integer,
            bounds=Bounds(low, 1),
            constraints=constraints,
            options={"time_limit": time_limit_s, "mip_rel_gap": gap},
        )

    def runs(self, solution: np.ndarray) -> np.ndarray:
        """R of a solution as a schedule."""
        chosen = [i for t in range(len(self.graph)) for i in range(t + 1) if i == t or solution[self.r(t, i)] > 0.5]
        return np.array(chosen, np.int64)

    def rounded(self, solution: np.ndarray, threshold: float) -> np.ndarray:
        """The schedule that keeps what S keeps to at least a threshold, and computes no more than that needs."""
        nodes, order = len(self.graph), []
        there: set[int] = set()
        for t in range(nodes):
            after = {i for i in range(t + 1) if t + 1 < nodes and solution[self.s(t + 1, i)] >= threshold}
            wanted = ({t} | after) - there
            for i in range(t, -1, -1):
                if i in wanted:
                    wanted |= set(self.graph.inputs(i).tolist()) - there
            order += sorted(wanted)
            there = after
        return np.array(order, np.int64)


def plan_milp(graph: StaticGraph, budget: int, *, time_limit_s: float, gap: float) -> StaticPlan:
    """The optimum, or what was found in time, with a bound; at most as dear as Chen's and Revolve's."""
    refused = _refused(graph, "milp", budget)
    if refused:
        return refused
    bound = lower_bound(graph, budget, time_limit_s=min(_BOUND_S, time_limit_s), gap=gap)
    if bound is None:
        return StaticPlan("milp", budget, "oom", "no schedule fits into the budget")
    known = [plan_chen(graph, name, budget) for name in ("chen_sqrt", "chen_greedy", "chen_greedy_linear")]
    known.append(plan_revolve(graph, budget))
    best = min((plan for plan in known if plan.status == "ok"), key=lambda plan: plan.cost_ns, default=None)
    program, asked = _Program(graph), budget
    for _ in range(_TRIES):
        if best is not None and _distance(best.cost_ns, bound) <= gap:
            break
        most = None if best is None else best.cost_ns
        found = program.solve(asked, whole=True, time_limit_s=time_limit_s, gap=gap, most=most)
        if asked == budget and found.get("mip_dual_bound") is not None:
            bound = max(bound, in_ns(graph, found.mip_dual_bound))
        if found.x is None:
            if best is None and found.status == _INFEASIBLE:
                return StaticPlan("milp", budget, "oom", "no frontier-advancing schedule fits into the budget")
            break
        plan = cheapest(graph, "milp", budget, [program.runs(found.x)])
        if plan.status == "ok":
            best = plan if best is None or plan.cost_ns < best.cost_ns else best
            break
        asked = int(asked * (1 - 10 * TOLERANCE)) - 1  # the solver's tolerance is bytes here: ask for a little less
    late = f"not solved to the end in {time_limit_s:g} s"
    if best is None:
        return StaticPlan("milp", budget, "timeout", late, bound_ns=bound)
    distance = _distance(best.cost_ns, bound)
    optimal = distance <= gap + 2 * TOLERANCE
    reason = "" if optimal else late
    return replace(best, method="milp", reason=reason, bound_ns=bound, gap=distance, optimal=optimal)


def _distance(cost: int, bound: int) -> float:
    return (cost - bound) / max(1, cost)


def plan_rounding(graph: StaticGraph, budget: int, *, time_limit_s: float, gap: float) -> StaticPlan:
    """The cheapest schedule that fits of those rounded from the relaxation at ROUNDED_BUDGET of the budget."""
    refused = _refused(graph, "lp_rounding", budget)
    if refused:
        return refused
    program = _Program(graph)
    found = program.solve(max(1, int(budget * ROUNDED_BUDGET)), whole=False, time_limit_s=time_limit_s, gap=gap)
    if found.status != _OPTIMAL:
        return _unsolved("lp_rounding", budget, found, time_limit_s)
    return cheapest(graph, "lp_rounding", budget, [program.rounded(found.x, theta) for theta in THRESHOLDS])


def plan_bound(graph: StaticGraph, budget: int, *, time_limit_s: float, gap: float) -> StaticPlan:
    """No schedule, only `bound_ns`: that of `frugal.dtr.bound`, or the relaxation's at the full budget if that is more
    and the graph is small."""
    bound = lower_bound(graph, budget, time_limit_s=time_limit_s, gap=gap)
    if bound is None:
        return StaticPlan("lp_bound", budget, "oom", "no schedule fits into the budget")
    if len(graph) <= MOST_RELAXED:
        found = _Program(graph).solve(budget, whole=False, time_limit_s=time_limit_s, gap=gap)
        if found.status == _INFEASIBLE:
            return _unsolved("lp_bound", budget, found, time_limit_s)
        if found.status == _OPTIMAL:
            bound = max(bound, in_ns(graph, found.fun))
    return StaticPlan("lp_bound", budget, "ok", bound_ns=bound)


def _refused(graph: StaticGraph, method: str, budget: int) -> StaticPlan | None:
    if len(graph) > MOST_NODES:
        reason = f"{len(graph)} nodes; the program is written for {MOST_NODES} at most: take a smaller network"
        return StaticPlan(method, budget, "unsupported", reason)
    return None


def _unsolved(method: str, budget: int, found: OptimizeResult, time_limit_s: float) -> StaticPlan:
    if found.status == _INFEASIBLE:
        return StaticPlan(method, budget, "oom", "even the relaxation has no solution within the budget")
    return StaticPlan(method, budget, "timeout", f"the relaxation was not solved in {time_limit_s:g} s")
