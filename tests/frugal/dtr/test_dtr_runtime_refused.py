"""In-place operators and views, what cannot run under a budget, and what a user is told."""

import gc
import warnings

import pytest
import torch
import torch.nn.functional as F
from small_networks import made
from torch import nn

from frugal.dtr.budget import Budget, budgeted_step
from frugal.dtr.costs import CostTable
from frugal.dtr.errors import BudgetError, DtrError, ReplayError, ThrashError, Unsupported
from frugal.dtr.runtime import Runtime
from frugal.dtr.sizes import bound, parse_bytes


def base_and_views(x):
    y = x * 2
    rows = y[1:]
    column = y[:, 0]
    rows.mul_(3)  # seen through y and through column
    column.add_(y[:, 1])
    y[0].copy_(x[1])
    y.t()[2] = 7
    return y.sum() + (rows * column[1:, None]).sum() + y.square().sum()


def chained(x):
    y = x.sin()
    y.add_(1).relu_().mul_(y)
    z = y.clone().fill_(2.0)
    z.view(-1)[::2] += 5
    kept = y  # a second reader of what is written
    w = kept * z
    kept.exp_()
    return (w + kept).sum()


def forget_everything(monkeypatch):
    """After each operator all that may go goes, so that whatever is read is made again."""
    dispatch = Runtime.dispatch

    def forgetting(self, *call):
        out = dispatch(self, *call)
        for storage in list(self.policy.pool):
            self.evict(storage, "E")
        return out

    monkeypatch.setattr(Runtime, "dispatch", forgetting)


@pytest.mark.parametrize("program", [base_and_views, chained])
@pytest.mark.parametrize("debug", [False, True])
def test_writes_in_place_are_seen_wherever_pytorch_shows_them(program, debug, monkeypatch):
    x = torch.linspace(-1, 2, 24).reshape(4, 6)
    expected = program(x.clone())
    for forgetful in (False, True):
        if forgetful:
            forget_everything(monkeypatch)
        with Budget(None, cost="flops", thrash=1e9, debug=debug) as budget:
            found = budget.release(program(budget.manage(x.clone())))
        assert torch.equal(expected, found)
    assert budget.report().n_remats > 20


@pytest.mark.parametrize("name", ["convolutional", "attention", "lstm", "shaped", "fused_lstm"])
def test_a_step_that_forgets_everything_at_once_is_bit_equal(name, monkeypatch):
    forget_everything(monkeypatch)
    expected, x, y = made(name)
    F.cross_entropy(expected(x), y).backward()
    model, x, y = made(name)
    with Budget(None, cost="flops", thrash=1e9) as budget:
        F.cross_entropy(budget.wrap(model)(x), y).backward()
    assert budget.report().n_remats > 20
    for one, other in zip(expected.parameters(), model.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_write_that_autograd_refuses_is_refused():
    x = torch.randn(5, requires_grad=True)
    with Budget(None, cost="flops") as budget:
        y = budget.manage(x).exp()
        loss = y.sum()
        y.add_(1)  # exp's gradient needs y
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_constant_that_is_written_keeps_its_old_values_for_replays():
    weight, x = torch.ones(64), torch.arange(64.0)
    with Budget(None, cost="flops") as budget:
        managed = budget.manage(weight)
        y = budget.manage(x) * managed
        y2 = y + 1
        managed.add_(1)
        budget.set_budget(256 * 6)
        while budget.runtime.policy.pool:  # everything that can go
            budget.runtime.evict(next(iter(budget.runtime.policy.pool)), "E")
        found = budget.release(y2)
    assert torch.equal(found, x + 1)
    assert torch.equal(weight, torch.full((64,), 2.0))


def test_a_plain_change_of_a_constant_is_noticed():
    weight = torch.ones(64)
    with Budget(None, cost="flops") as budget:
        y = budget.manage(weight) * 2
        budget.runtime.evict(next(iter(budget.runtime.policy.pool)), "E")
        weight.add_(1)
        with pytest.raises(ReplayError, match="changed in place"):
            budget.release(y)
        del y


def test_memory_returns_without_the_garbage_collector():
    gc.disable()
    try:
        with Budget(None, cost="flops") as budget:
            y = budget.manage(torch.ones(1000)) * 2
            before = budget.runtime.mem
            for _ in range(50):
                y = y + 1
            assert budget.runtime.mem == before
            del y
            assert budget.runtime.mem == before - 4000
    finally:
        gc.enable()


def test_an_exception_inside_forward_leaves_no_locks():
    class Broken(nn.Module):
        def forward(self, x):
            y = x + 1
            y @ torch.ones(3, 3)  # 5 columns against 3 rows

    with Budget(10_000, cost="flops") as budget:
        with pytest.raises(RuntimeError, match=r"mat1 and mat2|shapes"):
            budget.wrap(Broken())(torch.ones(4, 5))
        storages = {node.storage for op in budget.runtime.ops for node in (*op.outputs, *op.inputs)}
        assert {storage.locks for storage in storages} == {0}
        assert torch.equal(budget.release(budget.manage(torch.ones(2)) * 3), torch.full((2,), 3.0))


def test_a_budget_lowered_during_a_step_holds_from_then_on():
    model, x, y = made("convolutional")
    expected, _, _ = made("convolutional")
    F.cross_entropy(expected(x), y).backward()
    model, x, y = made("convolutional")
    with Budget(None, cost="flops", thrash=1e9) as budget:
        out = budget.wrap(model)(x)
        budget.set_budget("180 kB")
        assert budget.runtime.mem <= 180_000
        F.cross_entropy(out, y).backward()
        assert budget.runtime.mem <= 180_000
    assert budget.report().n_remats > 0
    for one, other in zip(expected.parameters(), model.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    with Budget(None, cost="flops") as budget:
        budget.wrap(model)(x)
        with pytest.raises(BudgetError, match="short"):
            budget.set_budget(100)
        assert budget.runtime.budget is None


def test_thrash_is_told_apart_from_no_memory():
    def run(limit, **options):
        model, x, y = made("attention")
        loss = lambda out: F.cross_entropy(out, y)  # noqa: E731
        return budgeted_step(model, loss, x, budget_bytes=limit, cost="flops", **options).report

    limit = int(run(None).peak_managed_bytes * 0.6)
    with pytest.raises(ThrashError, match=r"compute .* s again beside .* most of all aten\."):
        run(limit, thrash=1.2)
    with pytest.warns(RuntimeWarning, match="larger budget"):
        assert run(limit, thrash=1.2, on_thrash="warn").thrash_factor > 1.2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        grown = run(limit, thrash=1.2, on_thrash="grow")
    assert grown.peak_managed_bytes > limit


def test_data_dependent_sizes_have_room_made_for_them():
    x = torch.arange(100.0) % 7
    with Budget(6000, cost="flops", thrash=1e9) as budget:
        managed = budget.manage(x)
        held = [managed + i for i in range(8)]
        where = managed.nonzero()
        few = torch.masked_select(managed, managed > 5)
        assert budget.report().peak_managed_bytes <= 6000
        assert torch.equal(budget.release(where), x.nonzero())
        assert torch.equal(budget.release(few), x[x > 5])
        assert all(torch.equal(budget.release(h), x + i) for i, h in enumerate(held))
    assert bound("aten.nonzero.default", [((10, 3), 4)]) == 10 * 3 * 2 * 8


def test_values_leave_by_the_ways_that_pytorch_has():
    with Budget(None, cost="flops") as budget:
        y = budget.manage(torch.tensor([1.0, 2.0])) * 2
        budget.runtime.evict(next(iter(budget.runtime.policy.pool)), "E")
        assert y.shape == (2,)
        assert budget.report().n_remats == 0  # shape and dtype make nothing again
        assert y.sum().item() == 6
        assert bool((y > 1).all())
        assert y.tolist() == [2.0, 4.0]
        assert y.numpy().tolist() == [2.0, 4.0]
        assert "4." in repr(y)
    assert (y + 1).tolist() == [3.0, 5.0]  # after the block


def refused(action, match):
    with Budget(None, cost="flops") as budget, pytest.raises(Unsupported, match=match):
        action(budget, budget.manage(torch.ones(3, 4)) * 2)


def test_what_cannot_run_is_named():
    refused(lambda b, y: y.data_ptr(), "data_ptr")
    refused(lambda b, y: y.resize_(2, 2), r"aten\.resize_")
    refused(lambda b, y: torch.add(y, 1, out=torch.empty(3, 4)), "out=")
    refused(lambda b, y: torch._foreach_add_([y, y + 1], 1), "several managed tensors")
    refused(lambda b, y: b.manage(torch.ones(3).to_sparse()), "make it dense")
    refused(lambda b, y: y + (torch.ones(3, 4, requires_grad=True) * 1), r"Budget\.manage")


def test_an_unknown_operator_runs_once_and_its_result_stays():
    library = torch.library.Library("frugal_dtr_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CPU")
    with Budget(None, cost="flops") as budget:
        y = torch.ops.frugal_dtr_test.twice(budget.manage(torch.ones(4)))
        assert y.tolist() == [2.0] * 4
        assert budget.report().opaque_ops == {"frugal_dtr_test.twice.default": 1}
        assert not budget.runtime.policy.pool


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget_bytes": 0}, "budget_bytes = 0"),
        ({"budget_bytes": float("nan")}, "budget_bytes = nan"),
        ({"budget_bytes": "lots"}, "with a unit"),
        ({"budget_bytes": True}, "budget_bytes = True"),
        ({"heuristic": "h_dtr_eg"}, "did you mean h_dtr_eq"),
        ({"scope": "device"}, "device="),
        ({"scope": "all"}, "'managed', 'device'"),
        ({"dealloc": "banish"}, "'evict', 'ignore'"),
        ({"cost": "guess"}, '"measured", "flops"'),
        ({"thrash": 0.5}, "at least 1"),
        ({"on_thrash": "stop"}, "'grow'"),
        ({"sampling": "half"}, "'sqrt'"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(options, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Budget(**{"budget_bytes": 1000} | options)


def test_a_budget_is_one_a_thread_and_used_inside_its_block():
    with Budget(None) as outer, pytest.raises(ValueError, match="open in this thread"), Budget(None):
        pass
    with pytest.raises(DtrError, match="block has been left"):
        outer.manage(torch.ones(1))
    with pytest.raises(DtrError, match="not been entered"):
        Budget(None).report()
    with Budget(None) as budget, pytest.raises(DtrError, match="capture=True"):
        budget.log()


def test_a_table_of_costs_must_be_one(tmp_path):
    path = tmp_path / "costs.json"
    for text in ("{", "[1]", '{"a": -1}'):
        path.write_text(text)
        with pytest.raises(DtrError, match="no table of costs"):
            CostTable.read(path)
    with (
        Budget(None, cost=CostTable()) as budget,
        pytest.raises(DtrError, match=r"lacks aten\.mul"),
    ):
        budget.manage(torch.ones(2)) * 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [(5, 5), ("6GiB", 6 * 2**30), ("6e9", 6 * 10**9), ("1.5 GB", 1_500_000_000), ("512", 512), (None, None)],
)
def test_budgets_are_read(given, expected):
    assert parse_bytes(given) == expected


def test_a_budget_that_worked_is_named_and_time_is_accounted_for():
    model, x, y = made("convolutional")
    budget = Budget(None, cost="flops")
    with budget:
        F.cross_entropy(budget.wrap(model)(x), y).backward()
    report = budget.report()
    assert report.dispatch_s > 0
    assert report.metrics()["n_ops"] == report.n_ops
    model.zero_grad()
    budget.budget_bytes = 30_000  # of the next block
    with pytest.raises(BudgetError, match="smallest budget known to work") as caught, budget:
        budget.wrap(model)(x)
    assert caught.value.smallest_bytes == report.peak_managed_bytes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
@pytest.mark.parametrize("scope", ["managed", "device"])
def test_on_a_gpu_steps_are_bit_equal_and_stay_within_the_budget(scope):
    def run(limit):
        model, x, y = made("convolutional")
        model, x, y = model.cuda(), x.cuda(), y.cuda()
        torch.cuda.manual_seed(1)
        if limit == "plain":
            F.cross_entropy(model(x), y).backward()
            return model, None
        with Budget(limit, cost="flops", thrash=1e9, device="cuda", scope=scope) as budget:
            F.cross_entropy(budget.wrap(model)(x), y).backward()
        return model, budget.report()

    torch.use_deterministic_algorithms(True)
    try:
        expected, _ = run("plain")
        _, unlimited = run(None)
        limit = int(unlimited.peak_managed_bytes * 0.8) if scope == "managed" else torch.cuda.max_memory_allocated()
        model, report = run(limit)
    finally:
        torch.use_deterministic_algorithms(False)
    assert report.peak_managed_bytes <= limit
    for one, other in zip(expected.parameters(), model.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
