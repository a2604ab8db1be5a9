"""The runtime decides as the simulator does on its own log: every run, replay, eviction and release, in order."""

import hashlib

import pytest
import torch.nn.functional as F
from small_networks import made

from frugal.dtr import read_log, simulate
from frugal.dtr.budget import Budget
from frugal.dtr.capture import capture_log
from frugal.dtr.errors import BudgetError


def step(name, budget, budget_bytes):
    model, x, y = made(name)
    with budget:
        budget.set_budget(budget_bytes)
        y = budget.manage(y)
        F.cross_entropy(budget.wrap(model)(x), y).backward()


@pytest.mark.parametrize(
    ("name", "heuristic"),
    [(name, "h_dtr_eq") for name in ("convolutional", "attention", "lstm", "gru", "shaped")]
    + [("attention", heuristic) for heuristic in ("h_local", "h_lru", "h_size", "h_rand")],
)
def test_decisions_are_the_simulators_event_by_event(name, heuristic):
    budget = Budget(None, cost="flops", thrash=1e9, heuristic=heuristic, capture=True)
    step(name, budget, None)
    log, peak = budget.log(), budget.report().peak_managed_bytes
    assert simulate(log, heuristic, None).max_memory == peak
    remats = 0
    for ratio in (0.8, 0.6):
        limit = int(peak * ratio)
        error = None
        try:
            step(name, budget, limit)
        except BudgetError as caught:
            error = caught
        expected = simulate(log, heuristic, limit, overhead_limit=1e9, trace=True)
        assert hashlib.sha1(budget.trace().encode()).hexdigest() == expected.decision_sha1
        report = budget.report()
        assert (report.n_remats, report.n_evictions) == (expected.remats, expected.evictions)
        assert report.peak_managed_bytes == expected.max_memory
        assert (error.short_bytes if error else None) == expected.short_bytes
        remats += report.n_remats
    assert remats > 0


def test_a_captured_log_survives_its_files(tmp_path):
    budget = Budget(None, cost="flops", capture=True)
    step("convolutional", budget, None)
    log = budget.log()
    log.save(tmp_path / "small.dtrlog.parquet")
    again = read_log(tmp_path / "small.dtrlog.parquet")
    assert again.table.equals(log.table)
    limit = int(budget.report().peak_managed_bytes * 0.7)
    found = [simulate(each, "h_dtr_eq", limit, trace=True).decision_sha1 for each in (log, again)]
    assert found[0] == found[1]


def test_costs_of_one_budget_give_another_the_same_decisions(tmp_path):
    measured = Budget(None)
    step("convolutional", measured, None)
    measured.costs().save(tmp_path / "costs.json")
    first = Budget(190_000, cost=tmp_path / "costs.json", capture=True)
    second = Budget(190_000, cost=measured.costs(), capture=True)
    for budget in (first, second):
        step("convolutional", budget, 190_000)
    assert first.trace() == second.trace()
    assert "R" in first.trace()


def test_capture_log_records_a_whole_step():
    model, x, y = made("convolutional")
    log = capture_log(model, x, lambda out: F.cross_entropy(out, y), cost="flops", name="small")
    rows = list(log.instructions())
    constants = sum(row.sizes[0] for row in rows if row.instr == "constant")
    expected = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers(), x, y])
    assert constants == expected
    assert log.metadata["model"] == "small"
    assert {row.phase for row in rows} == {"forward", "backward"}
    drop = next(row for row in rows if row.op == "aten.bernoulli_.float")
    norm = next(row for row in rows if row.op == "aten.native_batch_norm.default")
    assert drop.random
    assert norm.batch_norm
    assert (norm.module, norm.shapes[0], norm.dtypes[0]) == ("norms.0", (4, 8, 16, 16), "float32")
    assert simulate(log, "h_dtr_eq", None).remats == 0


def test_measured_costs_are_captured():
    model, x, _ = made("attention")
    log = capture_log(model, x)
    assert all(row.cost_ns >= 1 for row in log.instructions() if row.instr == "call" and row.op != "aten.alias")
