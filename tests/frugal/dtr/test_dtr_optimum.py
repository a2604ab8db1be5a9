"""The mixed-integer program against exhaustive search, its bound and roundings, and Revolve against its closed form."""

import functools
import math

import numpy as np
import pytest
import static_graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from frugal.dtr import chain, layer_graph, simulate, static_graph, static_plan
from frugal.dtr.bound import lower_bound, needs
from frugal.dtr.lp import MOST_NODES
from frugal.dtr.revolve import MOST_UNEVEN, forward_steps


@settings(max_examples=40, deadline=None)
@given(static_graphs.networks(3), st.floats(0.4, 1.0))
def test_the_optimum_is_the_one_of_exhaustive_search(graph, fraction):
    budget = max(1, int(fraction * graph.plain_peak))
    plan, known = static_plan(graph, "milp", budget), static_graphs.least(graph, budget, staged=True)
    assert (plan.status, plan.cost_ns) == (("oom", None) if known is None else ("ok", known))
    if known is not None:
        assert static_graphs.judged(graph, plan.order) == (plan.cost_ns, plan.peak_bytes)
        assert plan.peak_bytes <= budget
        assert (plan.optimal, plan.bound_ns) == (True, known)


@pytest.mark.parametrize("budget", [5, 6, 7, 8, 9])
@pytest.mark.parametrize("inputs", [None, [[], [0], [1], [0, 2]]], ids=["chain", "skip"])
def test_the_optimum_of_four_layers(inputs, budget):
    graph = layer_graph([1, 2, 1, 3], [2, 1, 2, 1], inputs, gradient_bytes=[0, 1, 0, 0])
    known = static_graphs.least(graph, budget, staged=True)
    assert static_plan(graph, "milp", budget).cost_ns == known


@settings(max_examples=25, deadline=None)
@given(static_graphs.networks(8), st.floats(0.4, 1.0))
def test_bound_optimum_and_schedules_stand_in_order(graph, fraction):
    budget = max(1, int(fraction * graph.plain_peak))
    bound, best = (static_plan(graph, method, budget, time_limit_s=20) for method in ("lp_bound", "milp"))
    if best.status != "ok":
        return
    assert graph.base_cost <= bound.bound_ns <= best.cost_ns
    for method in ("lp_rounding", "chen_sqrt", "chen_sqrt_linear", "chen_greedy", "chen_greedy_linear", "revolve"):
        plan = static_plan(graph, method, budget)
        if plan.status == "ok":
            assert static_graphs.judged(graph, plan.order) == (plan.cost_ns, plan.peak_bytes)
            assert plan.peak_bytes <= budget
            assert plan.cost_ns >= best.cost_ns or not best.optimal


@settings(max_examples=25, deadline=None)
@given(static_graphs.networks(3), st.floats(0.4, 1.0), st.sampled_from(["h_dtr", "h_dtr_eq", "h_lru"]))
def test_no_heuristic_is_below_the_optimum(graph, fraction, heuristic):
    budget = max(1, int(fraction * graph.plain_peak))
    run = simulate(graph.log(), heuristic, budget, overhead_limit=math.inf)
    if run.status == "ok":
        assert run.clock - 1 >= static_graphs.least(graph, budget, staged=False)


@settings(max_examples=40, deadline=None)
@given(static_graphs.networks(3), st.floats(0.4, 1.0))
def test_the_bound_is_one_for_every_schedule(graph, fraction):
    budget = max(1, int(fraction * graph.plain_peak))
    bound, known = (
        lower_bound(graph, budget, time_limit_s=20, gap=1e-4),
        static_graphs.least(graph, budget, staged=False),
    )
    assert known is None or graph.base_cost <= bound <= known


@settings(max_examples=40, deadline=None)
@given(static_graphs.networks(12), st.floats(0.4, 1.0), st.sampled_from(["h_dtr", "h_dtr_eq", "h_size"]))
def test_no_simulated_run_is_below_the_bound(graph, fraction, heuristic):
    budget = max(1, int(fraction * graph.plain_peak))
    run = simulate(graph.log(), heuristic, budget, overhead_limit=math.inf)
    if run.status == "ok":
        assert graph.base_cost <= lower_bound(graph, budget, time_limit_s=20, gap=1e-4) <= run.clock - 1


def test_the_bound_is_close():
    graph = static_graphs.unit_chain(12)
    assert max(needs(graph)) == graph.plain_peak
    bounds = [lower_bound(graph, budget, time_limit_s=20, gap=1e-4) for budget in (6, 9, 12, graph.plain_peak)]
    # schedules of these costs are found, so that bounds that reach them are the optimum
    assert bounds[1:] == [static_plan(graph, "milp", budget).cost_ns for budget in (9, 12, graph.plain_peak)]
    assert 0.95 * 46 <= bounds[0] <= 46
    assert lower_bound(graph, 3, time_limit_s=20, gap=1e-4) is None
    assert static_plan(graph, "lp_bound", 3).status == "oom"


def test_rounding_finds_schedules_below_the_plain_peak():
    graph = static_graphs.unit_chain(12)
    plan, bound = static_plan(graph, "lp_rounding", 9), static_plan(graph, "lp_bound", 9)
    assert (plan.status, bound.status, bound.order) == ("ok", "ok", None)
    assert plan.peak_bytes <= 9 < graph.plain_peak
    assert graph.base_cost < bound.bound_ns <= static_plan(graph, "milp", 9).cost_ns <= plan.cost_ns


def test_a_solver_that_is_stopped_says_so():
    graph = static_graphs.unit_chain(16)
    plan = static_plan(graph, "milp", 6, time_limit_s=0.05)
    # what Chen's or Revolve's planner knows stands; that it is the optimum is not said
    assert (plan.status, plan.optimal) == ("ok", False)
    assert "not solved to the end in 0.05 s" in plan.reason
    assert plan.peak_bytes <= 6
    assert plan.gap is None or plan.gap > 0
    skipping = layer_graph([1] * 16, [1] * 16, [*([i - 1] if i else [] for i in range(15)), [13, 0]])
    assert static_plan(skipping, "milp", 6, time_limit_s=0.05).status in ("ok", "timeout")
    assert static_plan(skipping, "lp_rounding", 6, time_limit_s=1e-6).status == "timeout"
    bound = static_plan(skipping, "lp_bound", 6, time_limit_s=1e-6)  # what is stopped bounds less closely
    assert skipping.base_cost <= bound.bound_ns <= static_plan(skipping, "lp_bound", 6, time_limit_s=4).bound_ns


def test_a_graph_that_is_too_large_is_refused_in_words():
    plan = static_plan(chain(MOST_NODES), "milp", 50)
    assert (plan.status, plan.order) == ("unsupported", None)
    assert f"{2 * MOST_NODES} nodes" in plan.reason


@functools.cache
def recursion(states, slots):
    if states == 1:
        return 0
    if slots == 1:
        return states * (states - 1) // 2
    return min(k + recursion(states - k, slots - 1) + recursion(k, slots) for k in range(1, states))


def test_revolves_closed_form_is_its_recursion():
    for slots in range(1, 8):
        for states in range(1, 50):
            assert forward_steps(states, slots) == recursion(states, slots)
    assert forward_steps(10**6, 20) == 8 * 10**6 - math.comb(21 + 7, 21)  # β(20, 7) < 10⁶ ≤ β(20, 8)
    with pytest.raises(ValueError, match="at least 1"):
        forward_steps(0, 1)


@pytest.mark.parametrize("n", [5, 8, 16, 64, 257])
def test_revolves_schedules_cost_what_the_closed_form_says(n):
    graph = static_graph(chain(n))
    for budget in (3, 4, 5, 8, 14):
        plan = static_plan(graph, "revolve", budget)
        if n <= 16:
            assert static_graphs.judged(graph, plan.order) == (plan.cost_ns, plan.peak_bytes)
        assert plan.peak_bytes == min(budget, n)
        # states: before f_0, and f_0 … f_{n-3}, which b_{n-2} reads; the first n - 2 steps are no repetition
        assert plan.cost_ns - 2 * n == forward_steps(n - 1, min(budget, n) - 2) - (n - 2)


@pytest.mark.parametrize(("n", "budget"), [(4, 3), (5, 3), (5, 4), (6, 3), (6, 4), (7, 4), (8, 3), (8, 4), (8, 5)])
def test_revolve_is_the_optimum_of_the_chain(n, budget):
    graph = static_graph(chain(n))
    assert static_plan(graph, "revolve", budget).cost_ns == static_graphs.least(graph, budget, staged=False)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(2, 6))
def test_uneven_layers_take_the_recursion_over_segments(costs, budget):
    n = len(costs) + 2
    base = static_graph(chain(n))
    graph = type(base)(
        np.array([*costs, 1, 1] + [1] * n), base.size, base.resident, base.in_ptr, base.in_node, base.n_forward
    )

    @functools.cache
    def steps(first, last, slots):
        if first == last:
            return 0
        if slots == 1:
            return sum(sum(costs[first:to]) for to in range(first + 1, last + 1))
        return min(
            sum(costs[first:k]) + steps(k, last, slots - 1) + steps(first, k - 1, slots)
            for k in range(first + 1, last + 1)
        )

    plan = static_plan(graph, "revolve", budget + 1)
    assert static_graphs.judged(graph, plan.order) == (plan.cost_ns, plan.peak_bytes)
    assert plan.cost_ns - graph.base_cost == steps(0, n - 2, min(budget + 1, n) - 2) - sum(costs)


def test_revolve_on_layers_whose_backward_reads_outputs():
    # a gradient reads its layer and the next one; two values in a row are held from one operator to the other
    graph = static_graphs.unit_chain(64)
    peaks = [static_plan(graph, "revolve", budget) for budget in (8, 12, 20, 70)]
    assert [plan.status for plan in peaks] == ["ok"] * 4
    assert [plan.cost_ns for plan in peaks] == sorted((plan.cost_ns for plan in peaks), reverse=True)
    assert peaks[-1].cost_ns == graph.base_cost
    assert peaks[1].cost_ns < static_plan(graph, "chen_greedy_linear", 24).cost_ns + 64


def test_what_is_no_chain_is_refused_in_words():
    skip = layer_graph([1] * 4, [1] * 4, [[], [0], [1], [0, 2]])
    assert "forward operator 3 reads [0, 2]" in static_plan(skip, "revolve", 9).reason
    uneven = layer_graph([1, 2] * MOST_UNEVEN, [1] * 2 * MOST_UNEVEN)
    assert "layers of different cost" in static_plan(uneven, "revolve", 9).reason
