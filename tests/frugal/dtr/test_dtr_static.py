"""Graphs of the static planners, replayed schedules, and Chen's planners against closed forms."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import static_graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from frugal.dtr import Instruction, Log, chain, layer_graph, read_log, simulate, static_graph, static_plan
from frugal.dtr.chen import candidates
from frugal.dtr.errors import DtrError
from frugal.dtr.static import METHODS, replay

PUBLISHED = Path(os.environ.get("FRUGAL_TEST_DATA", "")) / "dtr" / "logs"
needs_published = pytest.mark.skipif(
    not (os.environ.get("FRUGAL_TEST_DATA") and PUBLISHED.is_dir()),
    reason="FRUGAL_TEST_DATA names no folder with dtr/logs (the artifact's logs, which may not be redistributed)",
)


def test_the_graph_of_a_log():
    call = lambda name, args, results, sizes, aliases=None, **more: Instruction(  # noqa: E731
        "call", name, 10, args, results, sizes, aliases or (-1,) * len(results), **more
    )
    log = Log.of(
        [
            Instruction("constant", "constant", results=(0,), sizes=(100,)),
            call("pool", (0,), (1, 2), (800, 200)),
            call("view", (1,), (3,), (0,), (0,)),
            Instruction("mutate", "relu_", 5, (3,), mutated=(0,)),
            Instruction("release", args=(1,)),
            call("norm", (3,), (6, 7), (800, 7)),
            call("grad", (2, 7, 3, 0), (4, 5), (800, 500), phase="backward"),
            *(Instruction("release", args=(name,)) for name in (2, 3, 4, 6, 7)),
        ]
    )
    graph = static_graph(log)
    # pool with both results; the copy that relu_ writes, of the size of the storage; norm, whose 7 bytes stay; grad, of
    # which 500 bytes stay
    assert graph.cost.tolist() == [10, 5, 10, 10]
    assert (graph.size.tolist(), graph.resident.tolist()) == ([1000, 800, 800, 800], [0, 0, 7, 500])
    assert [graph.inputs(node).tolist() for node in range(4)] == [[], [0], [1], [0, 1]]
    assert (graph.n_forward, graph.fixed_bytes, graph.base_cost) == (3, 100, 35)
    assert graph.plain_peak == 100 + 1000 + 800 + 7 + 1300


def test_a_layer_graph():
    graph = layer_graph([1, 2, 3], [4, 5, 6], [[], [0], [0, 1]], loss_cost=7, loss_size=8, fixed_bytes=9)
    assert graph.cost.tolist() == [1, 2, 3, 7, 6, 4, 2]
    assert graph.size.tolist() == [4, 5, 6, 8, 6, 5, 4]
    # the gradient of i: i, what reads it, and their gradients (of the loss: itself)
    reads = [[], [0], [0, 1], [2], [2, 3], [1, 2, 4], [0, 1, 2, 4, 5]]
    assert [graph.inputs(node).tolist() for node in range(7)] == reads
    assert graph.n_forward == 4


@settings(max_examples=100, deadline=None)
@given(static_graphs.networks(), st.floats(0.3, 1.0), st.sampled_from(["h_dtr", "h_lru", "h_size"]))
def test_a_replayed_schedule_costs_and_holds_what_it_does(graph, fraction, heuristic):
    log = graph.log()
    assert simulate(log).max_memory == graph.plain_peak
    budget = max(1, int(fraction * graph.plain_peak))
    run = simulate(log, heuristic, budget, overhead_limit=math.inf, trace=True)
    if run.status == "ok":
        order = static_graphs.of_trace(graph, log, run.trace)
        cost, peak = replay(graph, order)
        assert (cost, peak) == static_graphs.judged(graph, order)
        # the simulator keeps a value until it needs the room, so it never holds less
        assert (cost, peak <= run.max_memory <= budget) == (run.clock - 1, True)


@settings(max_examples=50, deadline=None)
@given(static_graphs.networks(least_size=1))  # so that no result is small beside another
def test_a_graph_is_that_of_its_log(graph):
    again = static_graph(graph.log())
    for name in ("cost", "size", "resident", "in_ptr", "in_node", "n_forward", "fixed_bytes"):
        assert np.array_equal(getattr(graph, name), getattr(again, name)), name


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [1, 0, 2, 3, 4], []])
def test_a_schedule_that_cannot_run(order):
    with pytest.raises(DtrError, match="leaves out a node of the graph, or runs one before its inputs"):
        replay(static_graphs.unit_chain(2), order)


@pytest.mark.parametrize("n", [4, 16, 64, 100, 256])
def test_chens_square_root_on_a_chain(n):
    # √n checkpoints, one more forward pass for what lies between them; the loss is the last of n + 1 forward nodes
    graph = static_graphs.unit_chain(n)
    every = math.isqrt(n + 1)
    kept = (n + 1) // every
    plan = static_plan(graph, "chen_sqrt_linear", graph.plain_peak)
    last = every * kept - 1  # the last checkpoint, a layer or the loss
    assert plan.cost_ns - 3 * n == last + 1 - kept
    # checkpoints, a segment with the value before it, and two gradients
    assert plan.peak_bytes <= kept + every + 3
    assert plan.peak_bytes < graph.plain_peak or n == 4
    assert plan.overhead == plan.cost_ns / (3 * n)


def test_articulation_points():
    # 0 → 1 → 2 → 3 with 1 read by 3 again: a residual block between 1 and 3; 4 follows, then the loss 5
    graph = layer_graph([1] * 5, [1] * 5, [[], [0], [1], [1, 2], [3]])
    assert candidates(graph, linear=False).tolist() == [1, 3, 4]
    assert candidates(graph, linear=True).tolist() == [0, 1, 2, 3, 4, 5]


@settings(max_examples=50, deadline=None)
@given(static_graphs.networks(12), st.sampled_from([m for m in METHODS if m.startswith("chen")]))
def test_chens_schedules_keep_budgets(graph, method):
    previous = 0
    for fraction in (1.0, 0.9, 0.8, 0.7):
        budget = max(1, int(fraction * graph.plain_peak))
        plan = static_plan(graph, method, budget)
        if plan.status == "ok":
            assert static_graphs.judged(graph, plan.order) == (plan.cost_ns, plan.peak_bytes)
            assert plan.peak_bytes <= budget
            # every forward node at most twice
            assert np.bincount(plan.order).max() <= 2
            assert plan.cost_ns >= previous
            previous = plan.cost_ns
        else:
            assert (plan.status, plan.order) == ("oom", None)
            assert "smallest peak" in plan.reason
    # with a checkpoint everywhere nothing is dropped
    assert static_plan(graph, "chen_greedy_linear", graph.plain_peak + 1).status == "ok"


def test_the_greedy_planner_trades_bytes_for_time():
    graph = static_graphs.unit_chain(64)
    plans = [static_plan(graph, "chen_greedy", int(graph.plain_peak * ratio)) for ratio in (1.0, 0.6, 0.4, 0.35)]
    assert [plan.status for plan in plans] == ["ok"] * 4
    # all thresholds reach up to 3 times n/√n bytes, so something is always computed again
    assert 3 * 64 < plans[0].cost_ns <= plans[1].cost_ns <= plans[2].cost_ns <= plans[3].cost_ns < 4 * 64


def test_a_log_may_stand_for_its_graph():
    log = chain(16)
    assert static_plan(log, "chen_sqrt", 12).cost_ns == static_plan(static_graph(log), "chen_sqrt", 12).cost_ns


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("chen_squared", 5), "did you mean 'chen_sqrt'"),
        (("chen_sqrt", 0), "above 0"),
        (("chen_sqrt", 1.5), "whole number of bytes"),
        (("milp", True), "whole number of bytes"),
    ],
)
def test_arguments_that_make_no_sense(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        static_plan(static_graphs.unit_chain(2), *arguments)
    for wrong in ({"gap": 0}, {"time_limit_s": math.nan}):
        with pytest.raises(ValueError, match="must be above 0"):
            static_plan(static_graphs.unit_chain(2), "milp", 5, **wrong)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([], []), "at least one"),
        (([1], [1, 2]), "for each layer"),
        (([1, 1], [1, 1], [[], [1]]), "layer 1 reads layer 1"),
        (([1, 1], [1, 1], [[], [-1]]), "layer 1 reads layer -1"),
    ],
)
def test_layers_that_make_no_graph(arguments, sentence):
    with pytest.raises(DtrError, match=sentence):
        layer_graph(*arguments)


@needs_published
@pytest.mark.parametrize("ratio", [0.8, 0.5])
def test_the_graph_of_a_published_log_costs_what_the_log_does(ratio):
    log = read_log(PUBLISHED / "resnet32.log.gz")
    graph, budget = static_graph(log), int(log.baseline().memory * ratio)
    assert graph.plain_peak == pytest.approx(log.baseline().memory, rel=1e-6)
    run = simulate(graph.log(), "h_dtr", budget)
    # views, whose time is dropped, take 0.01 % of this log's, and no decision of weight hangs on them
    assert run.overhead == pytest.approx(simulate(log, "h_dtr", budget).overhead, rel=0.002)
    bound, chen = (static_plan(graph, method, budget, time_limit_s=4) for method in ("lp_bound", "chen_greedy_linear"))
    assert bound.bound_ns <= run.clock - 1 <= 1.03 * bound.bound_ns
    assert bound.bound_ns <= chen.cost_ns
