"""Experiment `static`: what plans made beforehand cost, and what the runtime's heuristics cost, on one graph.

Graphs are those of the captured or published logs with their views collapsed, and chains. A planner, the simulator and
the bound get the same graph and the same budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from frugal.dtr import offered, static
from frugal.dtr.count_simulate import fault_of, logs_of
from frugal.dtr.logs import Log, chain
from frugal.dtr.offered import Method, Subject
from frugal.dtr.sim import simulate
from frugal.dtr.static import StaticGraph, StaticPlan, static_graph, static_plan
from frugal.jobs.counted import Result, Say
from frugal.timing import Device
from frugal.timing.faults import Fault, one_line

LIMIT = 10.0  # of the overhead: beyond it a run ends
METRICS = ("overhead", "peak")


def results(machine: Device, say: Say, shard: str, dtr: Mapping[str, object], logs: str) -> Iterator[Result]:
    """Every budget of every graph of the shard, with the arms of `static`."""
    for subject, graph in _graphs(shard, dtr, logs, machine.kind):
        log = graph.log()
        for ratio in offered.static_ratios(dtr):
            budget, at = int(graph.plain_peak * ratio), subject.having(ratio=ratio)
            found = [
                *(_simulated(at, name, log, budget) for name in offered.STATIC_HEURISTICS),
                *(_planned(at, name, graph, budget, float(dtr["solver_s"])) for name in static.METHODS),
            ]
            best = min((each.values["overhead"] for each in found if "overhead" in each.values), default=None)
            say(f"{subject.network}, {len(graph)} nodes, {ratio:g} of the peak: best {best and round(best, 3)}")
            yield from found


def _graphs(shard: str, dtr: Mapping[str, object], logs: str, kind: str) -> Iterator[tuple[Subject, StaticGraph]]:
    if shard in ("all", "chains"):
        for layers in offered.static_chains(dtr):
            yield Subject("chain", (("layers", layers),)).having(origin="made"), static_graph(chain(layers))
    if shard != "chains":
        for subject, log in logs_of(shard, offered.static_subjects(dtr, kind), logs):
            yield subject, static_graph(log)


def _simulated(subject: Subject, name: str, log: Log, budget: int) -> Result:
    found = simulate(log, name, budget, overhead_limit=LIMIT)
    fault = fault_of(found)
    values = {} if fault else {"overhead": found.overhead, "peak": found.max_memory}
    return _result(subject, Method(name), budget, {}, values=values, fault=fault)


def _planned(subject: Subject, name: str, graph: StaticGraph, budget: int, solver_s: float) -> Result:
    plan = static_plan(graph, name, budget, time_limit_s=solver_s)
    settings = {"optimal": plan.optimal} if name == "milp" else {}
    if plan.bound_ns is not None:
        settings["bound"] = plan.bound_ns / graph.base_cost
    if plan.gap is not None:
        settings["gap"] = plan.gap
    if plan.status != "ok":
        return _result(subject, Method(name), budget, settings, fault=Fault(plan.status, one_line(plan.reason)))
    reason = one_line(plan.reason) or None
    return _result(subject, Method(name), budget, settings, values=_values(plan, graph), reason=reason)


def _values(plan: StaticPlan, graph: StaticGraph) -> dict[str, float]:
    """Of a bound its own overhead alone."""
    if plan.cost_ns is None:
        return {"overhead": plan.bound_ns / graph.base_cost}
    return {"overhead": plan.overhead, "peak": plan.peak_bytes}


def _result(subject: Subject, method: Method, budget: int, settings: dict[str, object], **more: object) -> Result:
    metrics = METRICS[:1] if method.name == "lp_bound" else METRICS
    return Result(
        experiment="static", axes=subject.axes(), columns=subject.columns(), arm=method.arm, role=method.role,
        settings={"budget_bytes": budget, **settings}, metrics=metrics, **more,
    )  # fmt: skip
