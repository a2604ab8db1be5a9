"""What the simulator knows of evicted neighbourhoods against searches without any of its tables, and the adversary."""

import dataclasses
import math

import numba
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_dtr_simulator import programs

from frugal.dtr import Log, adversary, sim_regions, sim_state, simulate
from frugal.dtr.graph import COMPUTE
from frugal.dtr.heuristics import find
from frugal.dtr.sim import UNLIMITED, begun
from frugal.dtr.sim_kernels import run


@numba.njit
def rebuild(state, storage, direction):
    sim_regions.rebuild(state, storage, direction)


def stopped(log, heuristic, fraction, steps):
    """(graph, state, edges) after so many steps of a program. edges: for each storage of a tensor that exists, those of
    its children and of its parents."""
    graph = dataclasses.replace(log.graph, action=log.graph.action[:steps], target=log.graph.target[:steps])
    budget = max(1, int(simulate(log, dealloc="ignore").max_memory * fraction))
    state = begun(graph, find(heuristic), budget, UNLIMITED)
    run(state, graph.action, graph.target)
    assume(state.n[sim_state.STATUS] == sim_state.OK)
    edges = {}
    for op in graph.target[graph.action == COMPUTE]:
        made = graph.tensor_storage[graph.op_first[op] : graph.op_first[op + 1]].tolist()
        read = graph.tensor_storage[graph.op_in[graph.op_in_ptr[op] : graph.op_in_ptr[op + 1]]].tolist()
        for storage in (*made, *read):
            edges.setdefault(storage, (set(), set()))
        for parent in read:
            for child in made:
                edges[parent][0].add(child)
                edges[child][1].add(parent)
    return graph, state, edges


STEPS, FRACTIONS = st.integers(8, 60), st.floats(0.3, 0.9)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), FRACTIONS, STEPS)
def test_a_region_is_what_a_search_finds(rows, fraction, steps):
    _, state, edges = stopped(Log.of(rows), "h_dtr", fraction, steps)
    material = state.st[:, sim_state.MATERIAL].astype(bool)
    for base in edges:
        for direction in (0, 1):
            interior, reached = set(), {base}
            while reached:  # whatever is evicted beside what is reached, until nothing is new
                beside = set().union(*(edges[s][direction] for s in reached))
                reached = {s for s in beside if not material[s]} - interior
                interior |= reached
            frontier = {s for s in set().union(*(edges[s][direction] for s in {base} | interior)) if material[s]}
            rebuild(state, base, direction)
            bits = state.bits[direction, :, base].view(np.uint8)
            found = [set(np.flatnonzero(np.unpackbits(part, bitorder="little")).tolist()) for part in bits]
            assert found == [interior, frontier - {base}]
            assert state.region[direction, base, 0] == sum(int(state.st[s, sim_state.C]) for s in interior)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), FRACTIONS, STEPS)
def test_classes_are_connected_components_while_nothing_ran_again(rows, fraction, steps):
    _, state, edges = stopped(Log.of(rows), "h_dtr_eq", fraction, steps)
    assume(state.n[sim_state.REMATS] == 0)
    evicted = {s for s in edges if not state.st[s, sim_state.MATERIAL]}
    assume(evicted)

    def root(storage):
        node = state.st[storage, sim_state.NODE]
        while state.node[node, 0] != node:
            node = state.node[node, 0]
        return int(node)

    left = set(evicted)
    while left:
        part, reached = set(), {left.pop()}
        while reached:
            part |= reached
            reached = (set().union(*(edges[s][0] | edges[s][1] for s in reached)) & evicted) - part
        left -= part
        assert len({root(s) for s in part}) == 1
        assert state.node[root(min(part)), 1] == sum(int(state.st[s, sim_state.C]) for s in part)
        assert not {root(s) for s in evicted - part} & {root(s) for s in part}


@pytest.mark.parametrize("heuristic", ["h_dtr", "h_dtr_eq", "h_local", "h_lru", "h_size", "h_rand"])
@pytest.mark.parametrize(("n", "budget"), [(1, 3), (40, 3), (200, 4), (300, 16)])
def test_an_adversary_makes_every_heuristic_run_chains_again(n, budget, heuristic):
    log = adversary(n, budget, heuristic, seed=2)
    calls = [row for row in log.instructions() if row.instr == "call"]
    lengths, chain_of, again = [0] * budget, {}, 0
    for row in calls:
        parent, name = row.args[0], row.results[0]
        chain_of[name] = chain_of[parent] if parent else max(chain_of.values(), default=-1) + 1
        again += lengths[chain_of[name]]  # a chain of which nothing is there
        lengths[chain_of[name]] += 1
    assert (len(calls), max(chain_of.values()) < budget) == (n, True)
    run_of = simulate(log, heuristic, budget, seed=2, overhead_limit=math.inf)
    # the program was made while the heuristic decided; decided again, each step costs what the adversary meant it to
    assert (run_of.status, run_of.remats) == ("ok", again)
    assert run_of.remats >= n * (n / budget - 1) / 2


def test_an_adversary_needs_room():
    for n, budget in ((0, 4), (5, 2)):
        with pytest.raises(ValueError, match="n is at least 1, the budget at least 3 units"):
            adversary(n, budget)
