"""Static planners: schedules that know the whole graph beforehand, for comparison with the runtime, which does not.

One graph form for all of them, a node an operator in a fixed order of first execution; a schedule is the list of nodes
that run, in order of time. A value is there from its computation to its last use before it is computed again, so cost
and peak follow from the list alone (`replay`), whatever a planner's own arithmetic says.

| method | source |
|---|---|
| `chen_sqrt`, `chen_sqrt_linear` | T. Chen et al., arXiv 1604.06174: every √n-th candidate is a checkpoint |
| `chen_greedy`, `chen_greedy_linear` | the same, algorithm 3: a checkpoint whenever a sum of bytes is passed |
| `revolve` | A. Griewank, A. Walther, ACM TOMS 26(1), 2000; chains only |
| `milp` | P. Jain et al., "Checkmate", MLSys 2020, section 4: the optimum over frontier-advancing schedules |
| `lp_rounding` | the same, section 5.1 |
| `lp_bound` | a lower bound: of `frugal.dtr.bound`, and on small graphs of Checkmate's relaxation |

Candidates of Chen's are the articulation points of the forward graph; with `_linear`, all forward nodes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numba
import numpy as np

from frugal.dtr.errors import DtrError
from frugal.dtr.graph import PIN
from frugal.dtr.logs import Instruction, Log

METHODS = (
    "chen_sqrt", "chen_sqrt_linear", "chen_greedy", "chen_greedy_linear", "revolve", "milp", "lp_rounding", "lp_bound",
)  # fmt: skip
SMALL = 0.01  # of an operator's largest result, below which another stays once it is made


@dataclass(frozen=True, eq=False)
class StaticGraph:
    """T operators in their order of first execution; int64 arrays.

    cost [T]: ns. size [T]: bytes of results that are freed when nothing reads them any more. resident [T]: bytes that
    stay once they are made (gradients of parameters, what the program returns, batch statistics). in_ptr [T + 1] and
    in_node: compressed rows of the distinct nodes whose `size` a node reads, all before it. n_forward: the first nodes
    are the forward pass. fixed_bytes: of constants, there all the time.
    """

    cost: np.ndarray
    size: np.ndarray
    resident: np.ndarray
    in_ptr: np.ndarray
    in_node: np.ndarray
    n_forward: int
    fixed_bytes: int = 0

    def __len__(self) -> int:
        return len(self.cost)

    def inputs(self, node: int) -> np.ndarray:
        """The nodes that a node reads, in increasing order."""
        return self.in_node[self.in_ptr[node] : self.in_ptr[node + 1]]

    @cached_property
    def users(self) -> tuple[tuple[int, ...], ...]:
        """The nodes that read each node, in increasing order."""
        found: list[list[int]] = [[] for _ in range(len(self))]
        for node in range(len(self)):
            for source in self.inputs(node).tolist():
                found[source].append(node)
        return tuple(map(tuple, found))

    @property
    def base_cost(self) -> int:
        """ns of a run that computes every node once."""
        return int(self.cost.sum())

    @cached_property
    def plain_peak(self) -> int:
        """Bytes of that run."""
        return replay(self, np.arange(len(self)))[1]

    def log(self) -> Log:
        """The same program as a log, for `simulate`: names are released after their last use."""
        rows = [Instruction("constant", "constant", results=(0,), sizes=(self.fixed_bytes,), phase="forward")]
        last = [max(self.users[node], default=node) for node in range(len(self))]
        for node in range(len(self)):
            phase = "forward" if node < self.n_forward else "backward"
            results, sizes = (1 + 2 * node,), (int(self.size[node]),)
            if self.resident[node]:
                results, sizes = (*results, 2 + 2 * node), (*sizes, int(self.resident[node]))
            args, cost = tuple(1 + 2 * source for source in self.inputs(node).tolist()), int(self.cost[node])
            rows.append(Instruction("call", "f", cost, args, results, sizes, (-1,) * len(sizes), phase=phase))
            rows += [Instruction("pin", args=(name,), phase=phase) for name in results[1:]]
            done = [source for source in (*self.inputs(node).tolist(), node) if last[source] == node]
            rows += [Instruction("release", args=(1 + 2 * source,), phase=phase) for source in done]
        return Log.of(rows, model="static graph")


@dataclass(frozen=True)
class StaticPlan:
    """What a planner found under a budget.

    status: ok; oom (it has no schedule that fits, `reason` says why); timeout (none was found in time); unsupported
    (not for this graph). order: nodes in order of execution, int64, None where there is none. cost_ns: of it; overhead:
    over a run that computes every node once; peak_bytes: of it, constants included.
    bound_ns: no schedule within the budget is cheaper, of those that run new nodes in order and, between two new nodes,
    others in order and once; gap: (cost - bound) / cost; both None where the method has no bound. optimal: the gap is
    within what was asked for.
    """

    method: str
    budget_bytes: int
    status: str
    reason: str = ""
    order: np.ndarray | None = None
    cost_ns: int | None = None
    overhead: float | None = None
    peak_bytes: int | None = None
    bound_ns: int | None = None
    gap: float | None = None
    optimal: bool = False


def static_graph(log: Log) -> StaticGraph:
    """The graph of a log: views belong to what they are views of (their cost is dropped), an operator's results are
    one node, constants are `fixed_bytes`, and what is pinned is `resident` once it is made (a simulated run may evict
    what is pinned only at the end). Results below SMALL of the largest one beside them are resident too: one node would
    otherwise hold a batch norm's output for as long as its statistics are needed."""
    graph = log.graph
    maker = graph.tensor_op[graph.member[graph.member_ptr[:-1]]]  # storage -> operator
    largest = np.zeros(len(graph.op_cost), np.int64)
    np.maximum.at(largest, maker, graph.storage_size)
    stays = graph.storage_size < SMALL * largest[maker]
    stays[graph.tensor_storage[graph.target[graph.action == PIN]]] = True  # constants among them
    constant = graph.op_constant[maker]
    makes = np.zeros(len(graph.op_cost), np.bool_)
    makes[maker[~constant]] = True
    ops = np.flatnonzero(makes)
    number = np.cumsum(makes) - 1

    def summed(which: np.ndarray) -> np.ndarray:
        made = np.zeros(len(ops), np.int64)
        np.add.at(made, number[maker[which]], graph.storage_size[which])
        return made

    rows = []
    for op in ops.tolist():
        read = graph.tensor_storage[graph.op_in[graph.op_in_ptr[op] : graph.op_in_ptr[op + 1]]]
        rows.append(number[maker[read[~stays[read]]]])
    backward = np.array([phase != "forward" for phase in log.table.column("phase").to_pylist()], np.bool_)
    return _graph(
        graph.op_cost[ops],
        summed(~stays),
        summed(stays & ~constant),
        rows,
        n_forward=int(np.argmax(np.append(backward[graph.op_row[ops]], True))),
        fixed_bytes=int(graph.storage_size[constant].sum()),
    )


def layer_graph(
    cost: Sequence[int],
    size: Sequence[int],
    inputs: Sequence[Sequence[int]] | None = None,
    *,
    backward_cost: int = 2,
    loss_cost: int = 0,
    loss_size: int = 0,
    gradient_bytes: Sequence[int] | None = None,
    fixed_bytes: int = 0,
) -> StaticGraph:
    """A network's n layers, a loss and their backward pass: forward 0 … n - 1, loss n, backward of i at 2n - i.

    cost [n]: ns; size [n]: bytes of the output, and of its gradient; inputs [n]: layers that a layer reads, a chain
    where None. The loss reads every layer that no other reads. The gradient of i is made from i, from the outputs and
    the gradients of the layers that read it, in `backward_cost` times i's cost. gradient_bytes [n]: of the parameters'
    gradients, which stay. DtrError for lists that do not fit, and for a layer that reads one at or after itself.
    """
    n = len(cost)
    reads = [[i - 1] if i else [] for i in range(n)] if inputs is None else [list(row) for row in inputs]
    stay = [0] * n if gradient_bytes is None else list(gradient_bytes)
    if n == 0 or not n == len(size) == len(reads) == len(stay):
        raise DtrError(
            f"a layer graph needs a cost, a size and inputs for each layer, at least one; given are {n}, {len(size)}, "
            f"{len(reads)} and {len(stay)} gradients"
        )
    wrong = [(i, j) for i in range(n) for j in reads[i] if not 0 <= j < i]
    if wrong:
        raise DtrError(f"layer {wrong[0][0]} reads layer {wrong[0][1]}: a layer reads layers before it, from 0 on")
    users: list[list[int]] = [[] for _ in range(n)]
    for i, row in enumerate(reads):
        for j in row:
            users[j].append(i)
    ends = [i for i in range(n) if not users[i]]
    for i in ends:
        users[i].append(n)
    gradient = {n: n} | {i: 2 * n - i for i in range(n)}  # the loss is where gradients begin
    rows = [*reads, ends] + [[i, *users[i], *(gradient[user] for user in users[i])] for i in range(n - 1, -1, -1)]
    return _graph(
        np.array([*cost, loss_cost, *(backward_cost * cost[i] for i in range(n - 1, -1, -1))], np.int64),
        np.array([*size, loss_size, *size[::-1]], np.int64),
        np.array([0] * (n + 1) + stay[::-1], np.int64),
        [np.array(row, np.int64) for row in rows],
        n_forward=n + 1,
        fixed_bytes=fixed_bytes,
    )


def _graph(
    cost: np.ndarray,
    size: np.ndarray,
    resident: np.ndarray,
    rows: list[np.ndarray],
    *,
    n_forward: int,
    fixed_bytes: int,
) -> StaticGraph:
    distinct = [np.unique(row) for row in rows]
    in_ptr = np.concatenate([[0], np.cumsum([len(row) for row in distinct])]).astype(np.int64)
    in_node = np.concatenate([*distinct, np.empty(0, np.int64)]).astype(np.int64)
    return StaticGraph(cost, size, resident, in_ptr, in_node, n_forward, fixed_bytes)


def replay(graph: StaticGraph, order: np.ndarray) -> tuple[int, int]:
    """(ns, peak bytes) of a schedule, whose values are freed after their last use.

    DtrError for one that leaves a node out, or runs one before its inputs.
    """
    order = np.asarray(order, np.int64)
    peak = _peak(order, graph.in_ptr, graph.in_node, graph.size, graph.resident)
    if peak < 0:
        raise DtrError("the schedule leaves out a node of the graph, or runs one before its inputs")
    return int(graph.cost[order].sum()), graph.fixed_bytes + peak


@numba.njit(cache=True)
def _peak(order, in_ptr, in_node, size, resident):
    """The most bytes at once, constants left out; -1 for a schedule that cannot run."""
    held = np.full(len(size), -1, np.int64)  # node -> where in the order its value was made
    last = np.arange(len(order))  # the last use of what was made there
    for at in range(len(order)):
        node = order[at]
        for i in range(in_ptr[node], in_ptr[node + 1]):
            if held[in_node[i]] < 0:
                return -1
            last[held[in_node[i]]] = at
        held[node] = at
    if np.any(held < 0):
        return -1
    ends = np.argsort(last, kind="mergesort")
    first = np.ones(len(size), np.bool_)
    mem = peak = freed = 0
    for at in range(len(order)):
        node = order[at]
        mem += size[node] + resident[node]
        peak = max(peak, mem)
        if not first[node]:
            mem -= resident[node]  # made a second time, and thrown away
        first[node] = False
        while freed < len(ends) and last[ends[freed]] == at:
            mem -= size[order[ends[freed]]]
            freed += 1
    return peak


def static_plan(
    graph: StaticGraph | Log, method: str, budget: int, *, time_limit_s: float = 60, gap: float = 1e-4
) -> StaticPlan:
    """A schedule of a method in METHODS that keeps the peak within a budget in bytes, constants included.

    graph: a log stands for `static_graph(log)`. time_limit_s, gap: when the solver of `milp` stops (seconds; relative
    distance of cost and bound). Raises ValueError for another method, and for a budget, time or gap not above 0.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(str(method), METHODS, 1)
        raise ValueError(
            f"method {method!r} is not known{f', did you mean {near[0]!r}' * bool(near)}: one of {METHODS}"
        )
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer) or budget <= 0:
        raise ValueError(f"budget={budget!r} is not allowed: a whole number of bytes above 0")
    if not time_limit_s > 0 or not gap > 0:
        raise ValueError(f"time_limit_s={time_limit_s!r} and gap={gap!r} must be above 0")
    given = static_graph(graph) if isinstance(graph, Log) else graph
    return _planner(method)(given, int(budget), time_limit_s=time_limit_s, gap=gap)


def _planner(method: str) -> Callable[..., StaticPlan]:
    if method.startswith("chen"):
        from frugal.dtr.chen import plan_chen

        return lambda graph, budget, **_: plan_chen(graph, method, budget)
    if method == "revolve":
        from frugal.dtr.revolve import plan_revolve

        return lambda graph, budget, **_: plan_revolve(graph, budget)
    from frugal.dtr import lp

    return {"milp": lp.plan_milp, "lp_rounding": lp.plan_rounding, "lp_bound": lp.plan_bound}[method]


def cheapest(graph: StaticGraph, method: str, budget: int, orders: Sequence[np.ndarray]) -> StaticPlan:
    """The cheapest schedule that fits, of equally cheap ones that of the lowest peak; `oom` where none fits."""
    runs = [(*replay(graph, order), i) for i, order in enumerate(orders)]
    fits = [run for run in runs if run[1] <= budget]
    if not fits:
        least = f"the smallest peak of its {len(runs)} schedules is {min(run[1] for run in runs)} bytes" if runs else ""
        return StaticPlan(method, budget, "oom", least or "it has no schedule within the budget")
    cost, peak, best = min(fits)
    plan = StaticPlan(method, budget, "ok", order=orders[best], cost_ns=cost, peak_bytes=peak)
    return replace(plan, overhead=cost / graph.base_cost if graph.base_cost else 1.0)
