"""The smallest budgets: what no runtime can go below, and where a heuristic still finishes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frugal.dtr.errors import BudgetError
from frugal.dtr.graph import COMPUTE, PIN
from frugal.dtr.logs import Log
from frugal.dtr.sim import simulate


@dataclass(frozen=True)
class MinBudget:
    """lower_bytes: no schedule fits into less: at `lower_op` (a name; `the end` for what must be there then) inputs,
    outputs and pinned constants are there at once. heuristic, bytes: the heuristic asked for finishes with this budget,
    and does not with one byte less; None where none was asked for."""

    lower_bytes: int
    lower_op: str
    heuristic: str | None = None
    bytes: int | None = None


def minimum_budget(log: Log, *, heuristic: str | None = None, overhead_limit: float = 2.0) -> MinBudget:
    """The smallest budgets of a log, in bytes; with a heuristic, under dealloc="evict" and the overhead limit.

    Whether a run finishes need not be monotone in the budget; bisection finds one edge of it. Raises BudgetError for a
    program of no bytes at all, which has no budget.
    """
    lower, op = _lower(log)
    if heuristic is None:
        return MinBudget(lower, op)

    def finishes(budget: int) -> bool:
        return simulate(log, heuristic, budget, overhead_limit=overhead_limit).status == "ok"

    works = simulate(log, heuristic).max_memory
    if works == 0:
        raise BudgetError(
            "the log has no bytes: there is no budget to look for", op=op, required_bytes=0, short_bytes=0
        )
    fails = max(lower - 1, 0)
    while works - fails > 1:
        middle = (works + fails) // 2
        if finishes(middle):
            works = middle
        else:
            fails = middle
    return MinBudget(lower, op, heuristic, works)


def _lower(log: Log) -> tuple[int, str]:
    """The most bytes that must be there at once, and where."""
    graph = log.graph
    pinned = np.zeros(len(graph.storage_size), np.bool_)
    held, most, where = 0, 0, -1  # held: bytes that are pinned so far
    for action, target in zip(graph.action.tolist(), graph.target.tolist(), strict=True):
        if action == COMPUTE:
            inputs = graph.op_in[graph.op_in_ptr[target] : graph.op_in_ptr[target + 1]]
            read = np.unique(graph.tensor_storage[inputs])
            need = held + int(graph.storage_size[read[~pinned[read]]].sum()) + int(graph.op_total[target])
            if need > most:
                most, where = need, int(graph.op_row[target])
        elif action == PIN:
            storage = graph.tensor_storage[target]
            held += 0 if pinned[storage] else int(graph.storage_size[storage])
            pinned[storage] = True
    if held > most:
        return held, "the end"
    return most, log.table.column("op")[where].as_py() if where >= 0 else "the end"
