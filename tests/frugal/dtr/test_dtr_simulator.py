"""The compiled simulator against the plain one on random programs, and properties of its runs."""

import math
import os
from pathlib import Path

import pyarrow as pa
import pytest
import reference
import replaying
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frugal.dtr import HEURISTICS, Instruction, Log, chain, minimum_budget, read_log, simulate, sweep
from frugal.dtr.sim import DEALLOCS, E_STARS, remat_limit

PUBLISHED = Path(os.environ.get("FRUGAL_TEST_DATA", "")) / "dtr" / "logs"
needs_published = pytest.mark.skipif(
    not (os.environ.get("FRUGAL_TEST_DATA") and PUBLISHED.is_dir()),
    reason="FRUGAL_TEST_DATA names no folder with dtr/logs (the artifact's logs, which may not be redistributed)",
)


SMALL = st.integers(0, 9)


@st.composite
def programs(draw, costs=SMALL, sizes=SMALL):
    """Random programs: shared and repeated inputs, several outputs, views of views, mutations, names that come, go."""
    rows, names, known = [], [], 0
    for _ in range(draw(st.integers(1, 3))):
        rows.append(Instruction("constant", "constant", results=(known,), sizes=(draw(sizes),)))
        names.append(known)
        known += 1
    some = st.lists(st.sampled_from(range(64)), max_size=3)
    for _ in range(draw(st.integers(3, 30))):
        what = draw(st.sampled_from(["call"] * 5 + ["mutate", "copy", "copy_from", "release", "release"]))
        args = tuple(names[i % len(names)] for i in draw(some))
        if what == "call":
            count = draw(st.integers(1, 3))
            aliases = tuple(draw(st.integers(-1, len(args) - 1)) for _ in range(count))
            results = tuple(range(known, known + count))
            rows.append(
                Instruction("call", "f", draw(costs), args, results, tuple(draw(sizes) for _ in results), aliases)
            )
            names += results
            known += count
        elif what == "mutate" and args:
            mutated = tuple(draw(st.lists(st.integers(0, len(args) - 1), min_size=1, max_size=2)))
            rows.append(Instruction("mutate", "f_", draw(costs), args, mutated=mutated))
        elif what == "copy" and args:
            rows.append(Instruction("copy", args=args[:1], results=(known,)))
            names.append(known)
            known += 1
        elif what == "copy_from" and len(args) > 1:
            rows.append(Instruction("copy_from", args=args[:1], results=args[1:2]))
        elif what == "release" and args:
            rows.append(Instruction("release", args=args[:1]))
    return rows


HEURISTIC = st.sampled_from(sorted(HEURISTICS))


def both(rows, name, fraction, dealloc, seed, e_star, limit=3.0):
    """Run both simulators at a fraction of the unbudgeted need; returns their findings in the same form."""
    log = Log.of(rows)
    need = simulate(log, "h_local", dealloc="ignore").max_memory
    budget = max(1, int(need * fraction))
    result = simulate(log, name, budget, dealloc=dealloc, seed=seed, overhead_limit=limit, e_star=e_star, trace=True)
    plain = reference.Simulator(
        name, budget, limit=remat_limit(log.baseline().compute, limit), dealloc=dealloc, seed=seed, e_star=e_star
    )
    status, failed, short, trace = replaying.replay(plain, rows)
    ours = (
        result.status, result.failed_op, result.short_bytes, result.trace, result.clock, result.model_compute,
        result.remat_compute, result.max_memory, result.final_memory, result.ops_executed, result.evictions,
        result.eager_evictions, result.remats, result.heuristic_evals,
    )  # fmt: skip
    theirs = (
        status, failed, short, trace, plain.clock, plain.model, plain.remat, plain.max_memory, plain.mem, plain.ops,
        plain.evictions, plain.eager, plain.remats, plain.evals,
    )  # fmt: skip
    return ours, theirs, result.tensor_accesses, plain.accesses


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), HEURISTIC, st.floats(0.1, 1.1), st.sampled_from(DEALLOCS), st.integers(0, 3), st.booleans())
def test_random_programs_run_alike(rows, name, fraction, dealloc, seed, lazy):
    heuristic = HEURISTICS[name]
    if dealloc == "banish" and not heuristic.banishes:
        dealloc = "evict"
    ours, theirs, accesses, plain = both(rows, name, fraction, dealloc, seed, "lazy" if lazy else "maintained")
    assert ours == theirs
    # Numerators that are computed on demand are computed for all candidates, also behind one of cost 0 where the scan
    # stops; searches in a forest are as long as the ones before them left it.
    if "Ẽ" not in heuristic.formula and not (lazy and heuristic.searches):
        assert accesses == plain


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), st.sampled_from(["h_dtr", "h_msps", "ab.e.size"]), st.floats(0.1, 1.0))
def test_kept_searches_decide_as_new_ones(rows, name, fraction):
    log = Log.of(rows)
    budget = max(1, int(simulate(log, dealloc="ignore").max_memory * fraction))
    lazy, cached = (
        simulate(log, name, budget, overhead_limit=3.0, e_star=how, trace=True) for how in ("lazy", "cached")
    )
    assert (lazy.trace, lazy.status, lazy.heuristic_evals) == (cached.trace, cached.status, cached.heuristic_evals)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(st.integers(1000, 9000)), HEURISTIC, st.floats(0.1, 1.0), st.integers(2, 1000), st.integers(2, 1000))
def test_units_do_not_matter(rows, name, fraction, cost_unit, size_unit):
    # costs of 1000 and more: the clock starts at 1, which no unit changes
    log = Log.of(rows)
    budget = max(1, int(simulate(log, dealloc="ignore").max_memory * fraction))
    scaled = Log.of(
        row._replace(cost_ns=row.cost_ns * cost_unit, sizes=tuple(size * size_unit for size in row.sizes))
        for row in rows
    )
    first = simulate(log, name, budget, overhead_limit=math.inf, trace=True)
    second = simulate(scaled, name, budget * size_unit, overhead_limit=math.inf, trace=True)
    assert (first.trace, first.max_memory * size_unit) == (second.trace, second.max_memory)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), HEURISTIC)
def test_without_a_budget_nothing_is_chosen_or_run_again(rows, name):
    result = simulate(Log.of(rows), name)
    assert (result.status, result.evictions, result.heuristic_evals) == ("ok", 0, 0)
    # what a release evicted may be read again: names stay known
    assert (result.remats == 0) or result.eager_evictions
    assert simulate(Log.of(rows), name, dealloc="ignore").remats == 0


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), HEURISTIC, st.floats(0.1, 1.0))
def test_bytes_stay_within_the_budget_at_every_event(rows, name, fraction):
    log = Log.of(rows)
    budget = max(1, int(simulate(log, dealloc="ignore").max_memory * fraction))
    result = simulate(log, name, budget, overhead_limit=3.0, trace=True)
    assert held(log, result.trace, budget) == result.final_memory
    assert result.max_memory <= budget


def held(log, trace, budget):
    """Follow a trace on the graph: 0 ≤ bytes ≤ budget after every event, nothing runs again that is there; the bytes at
    the end."""
    graph, there, tensors, bytes_ = log.graph, set(), set(), 0
    storage, members = graph.tensor_storage, {}
    for t, s in enumerate(storage.tolist()):
        members.setdefault(s, []).append(t)
    for event in trace.split(";")[:-1]:
        kind, t = event[0], int(event[1:])
        s = int(storage[t])
        if kind in "ED":
            assert s in there
            there.remove(s)
            tensors.difference_update(members[s])
            bytes_ -= int(graph.storage_size[s])
        else:
            op = int(graph.tensor_op[t])
            outputs = range(int(graph.op_first[op]), int(graph.op_first[op + 1]))
            assert t not in tensors
            for u in outputs:
                if int(storage[u]) not in there:
                    there.add(int(storage[u]))
                    bytes_ += int(graph.storage_size[storage[u]])
            tensors.update(outputs)
        assert 0 <= bytes_ <= budget
    return bytes_


def test_equal_seeds_give_equal_runs_and_others_differ():
    log = chain(64)
    runs = [simulate(log, "h_rand", 20, seed=seed, overhead_limit=50, trace=True) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0].decision_sha1 != runs[2].decision_sha1


@pytest.mark.parametrize("n", [64, 128, 256, 512, 1024, 2048, 4096])
def test_the_chain_needs_about_n_recomputations(n):
    # The theorem of the paper's section 3: O(n) at B = 2√n. The published simulator's counts at 256 and 512; its rules
    # stay below n up to 1024, and give 1.03 n at 2048 and 4096.
    published = {256: 230, 512: 485}
    results = [
        simulate(chain(n), name, math.ceil(2 * math.sqrt(n)), overhead_limit=51) for name in ("h_dtr", "h_dtr_eq")
    ]
    for result in results:
        assert result.status == "ok"
        assert result.remats <= (n if n <= 1024 else 1.04 * n)
        assert result.remats == published.get(n, result.remats)
    assert results[0].clock == results[1].clock


def test_a_sweep_in_threads_is_a_sweep_in_series():
    log = chain(40)
    arguments = (log, ["h_dtr", "h_rand", "h_local"], [0.4, 0.6])
    threads = sweep(*arguments, seeds=(0, 1), workers=4)
    assert threads.equals(sweep(*arguments, seeds=(0, 1), workers=1))
    assert isinstance(threads, pa.Table)
    assert threads.column("heuristic").to_pylist() == ["h_dtr"] * 2 + ["h_rand"] * 4 + ["h_local"] * 2
    one = simulate(log, "h_dtr", ratio=0.6)
    row = threads.to_pylist()[1]
    assert {name: row[name] for name in ("clock", "remats", "status")} == {
        "clock": one.clock, "remats": one.remats, "status": one.status
    }  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(sizes=st.integers(1, 9)), st.sampled_from(["h_dtr_eq", "h_local"]))
def test_the_smallest_budget(rows, name):
    log = Log.of(rows)
    found = minimum_budget(log, heuristic=name)
    assert found.lower_bytes <= found.bytes
    assert simulate(log, name, found.bytes).status == "ok"
    if found.bytes > 1:
        assert simulate(log, name, found.bytes - 1).status != "ok"
    assert minimum_budget(log).lower_bytes == found.lower_bytes


def test_one_byte_short_is_said_so():
    found = minimum_budget(chain(10, size=8), heuristic="h_dtr", overhead_limit=math.inf)
    result = simulate(chain(10, size=8), "h_dtr", found.bytes - 1, overhead_limit=math.inf)
    assert (result.status, result.required_bytes, result.short_bytes) == ("oom", 8, 1)
    assert result.failed_name in ("f", "b")


@needs_published
def test_round_trips_keep_decisions(tmp_path):
    log = read_log(PUBLISHED / "resnet32.log.gz")
    log.save(tmp_path / "x.parquet")
    log.to_jsonl(tmp_path / "x.log.gz")
    hashes = {
        simulate(which, ratio=0.5, trace=True).decision_sha1
        for which in (log, read_log(tmp_path / "x.parquet"), read_log(tmp_path / "x.log.gz"))
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"heuristic": "h_dtr_eqq"}, "did you mean 'h_dtr_eq'"),
        ({"budget": 0}, "above 0"),
        ({"budget": -1}, "above 0"),
        ({"budget": 1.5}, "whole number of bytes"),
        ({"ratio": math.nan}, "above 0"),
        ({"ratio": 0.0}, "above 0"),
        ({"budget": 5, "ratio": 0.5}, "two budgets"),
        ({"dealloc": "free"}, "ignore, evict, banish"),
        ({"e_star": "exact"}, ", ".join(E_STARS)),
        ({"heuristic": "h_dtr", "dealloc": "banish"}, "allowed are h_local"),
        ({"overhead_limit": 0.5}, "at least 1"),
        ({"overhead_limit": math.nan}, "at least 1"),
        ({"heuristic": "h_rand", "proof": True}, "leave it out"),
    ],
)
def test_arguments_that_make_no_sense(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        simulate(chain(3), **arguments)


def test_published_names():
    names = {alias for heuristic in HEURISTICS.values() for alias in heuristic.published}
    assert len([name for name in HEURISTICS if name.startswith("ab.")]) == 16
    assert names >= {"DTR", "DTREqClass", "DTRLocal", "MSPS", "LRU", "LargestStorage", "RandomStorage", "DTRUnopt"}
    log = chain(20)
    for heuristic in HEURISTICS.values():
        runs = [simulate(log, name, 9, overhead_limit=9, trace=True) for name in (heuristic.name, *heuristic.published)]
        assert len({run.decision_sha1 for run in runs}) == 1
