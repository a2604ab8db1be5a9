"""Experiments `chain` and `adversary`: the chain of the paper's theorem under budgets of order √n and log n, and the
programs that an adversary makes against each heuristic.

Costs and sizes are 1: a budget is a number of values, and what is run again is counted in layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from frugal.dtr import offered
from frugal.dtr.adversaries import adversary
from frugal.dtr.count_simulate import fault_of
from frugal.dtr.logs import Log, chain
from frugal.dtr.offered import Subject
from frugal.dtr.sim import simulate
from frugal.dtr.static import static_graph, static_plan
from frugal.jobs.counted import Result, Say
from frugal.timing import Device
from frugal.timing.faults import Fault, one_line

METRICS = ("remats_per_layer", "operations_per_layer")
BOUNDS = {
    "2sqrt": lambda n: math.ceil(2 * math.sqrt(n)),
    "sqrt": lambda n: math.ceil(math.sqrt(n)),
    "log2": lambda n: math.ceil(math.log2(n)),
}
# A run ends after 100 remats a layer, as the published experiment's; first runs are two a layer.
LIMIT = 51.0


def results(machine: Device, say: Say, shard: str, dtr: Mapping[str, object], logs: str) -> Iterator[Result]:
    """Every length and bound, with the optimum where the chain is short; then the adversary."""
    for layers in offered.chain_layers(dtr):
        log = chain(layers)
        for bound in offered.CHAIN_BOUNDS:
            subject = Subject("chain", (("layers", layers),)).having(bound=bound)
            budget = BOUNDS[bound](layers)
            say(f"chain of {layers} layers, {budget} values")
            for name in offered.CHAIN_HEURISTICS:
                yield _simulated(subject, name, log, budget, layers)
            for name in (*offered.CHAIN_PLANNERS, *(["milp"] if layers <= offered.MILP_LAYERS else [])):
                yield _planned(subject, name, log, budget, layers, float(dtr["solver_s"]))
    for layers, budget in offered.adversaries(dtr):
        say(f"{layers} operators of an adversary, {budget} values")
        for name in offered.ADVERSARY_HEURISTICS:
            yield _opposed(name, layers, budget)


def _simulated(subject: Subject, name: str, log: Log, budget: int, layers: int) -> Result:
    found = simulate(log, name, budget, overhead_limit=LIMIT)
    fault = fault_of(found)
    values = {} if fault else _values(found.remats, found.ops_executed, layers)
    return _result(subject, name, "ours", {"budget_bytes": budget}, values=values, fault=fault)


def _planned(subject: Subject, name: str, log: Log, budget: int, layers: int, solver_s: float) -> Result:
    graph = static_graph(log)
    plan = static_plan(graph, name, budget, time_limit_s=solver_s)
    settings = {"budget_bytes": budget} | ({"optimal": plan.optimal} if name == "milp" else {})
    if plan.status != "ok":
        return _result(subject, name, "baseline", settings, fault=Fault(plan.status, one_line(plan.reason)))
    values = _values(plan.cost_ns - graph.base_cost, graph.base_cost, layers)
    return _result(subject, name, "baseline", settings, values=values)


def _opposed(name: str, layers: int, budget: int) -> Result:
    """A heuristic on the program that is made against it; nothing is run again in the best order."""
    found = simulate(adversary(layers, budget, name), name, budget, overhead_limit=math.inf)
    subject = Subject("adversary", (("layers", layers),)).having(bound=budget)
    return Result(
        experiment="adversary", axes=subject.axes(), columns=subject.columns(), arm=name, role="ours",
        settings={"budget_bytes": budget}, metrics=METRICS[:1], values={METRICS[0]: found.remats / layers},
    )  # fmt: skip


def _values(remats: int, first_runs: int, layers: int) -> dict[str, float]:
    return {"remats_per_layer": remats / layers, "operations_per_layer": (first_runs + remats) / layers}


def _result(subject: Subject, arm: str, role: str, settings: dict[str, object], **more: object) -> Result:
    return Result(
        experiment="chain", axes=subject.axes(), columns=subject.columns(), arm=arm, role=role, settings=settings,
        metrics=METRICS, **more,
    )  # fmt: skip
