"""DTR's networks under a budget: plain PyTorch's numbers bit by bit, and the simulator's decisions on their logs."""

import hashlib

import pytest
import torch
from trained_networks import NETWORKS, made

from frugal.dtr import Budget, BudgetError, ThrashError, capture_log, simulate

LONG = ("resnet1202", "densenet121")  # as resnet32 and densenet100, at a length that takes seconds


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would be other bits
    yield
    torch.set_num_threads(before)


def plain_step(model, inputs, loss_of):
    loss = loss_of(model(*inputs))
    loss.backward()
    return loss.detach()


def outcome(model, loss):
    """All that a step leaves behind: the loss, gradients, parameters and buffers, and the generator's state."""
    found = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return {"loss": loss} | found | state | {"generator": torch.get_rng_state()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def budget_at(share, model, log):
    """Bytes between what must stay, constants and gradients, and the peak without a budget."""
    must = log.baseline().const + sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    return int(must + share * (simulate(log, "h_dtr_eq", None).max_memory - must))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in NETWORKS]
)
def test_a_step_under_a_budget_is_plain_and_decides_as_the_simulator(name):
    model, inputs, loss_of = made(name)
    expected = outcome(model, plain_step(model, inputs, loss_of))

    model, inputs, loss_of = made(name)
    log = capture_log(model, inputs, loss_of, steps=1, cost="flops", name=name)
    assert_same(outcome(model, expected["loss"]), expected)
    # the fused loop holds all of its steps at once
    limit = budget_at(0.8 if name == "fused_gru" else 0.6, model, log)

    model, inputs, loss_of = made(name)
    with Budget(limit, cost="flops", capture=True) as budget:
        loss = loss_of(budget.wrap(model)(*inputs))
        loss.backward()
        released = budget.release(loss).detach()
        del loss
    assert_same(outcome(model, released), expected)
    report = budget.report()
    assert report.n_remats > 0
    assert report.peak_managed_bytes <= limit
    simulated = simulate(log, "h_dtr_eq", limit, overhead_limit=1e9, trace=True)
    assert hashlib.sha1(budget.trace().encode()).hexdigest() == simulated.decision_sha1
    assert (report.n_remats, report.peak_managed_bytes) == (simulated.remats, simulated.max_memory)


def test_a_captured_log_names_what_is_random_and_where_it_ran():
    model, inputs, loss_of = made("unet")
    log = capture_log(model, inputs, loss_of, steps=1, cost="flops", name="unet")
    rows = [row for row in log.instructions() if row.instr == "call"]
    assert {row.op for row in rows if row.random} == {"aten.bernoulli_.float"}
    norms = [row.module for row in rows if row.batch_norm and row.phase == "forward"]
    places = [f"down.{i}" for i in range(5)] + [f"up.{i}" for i in range(4)]
    assert norms == [f"{place}.{child}" for place in places for child in (1, 4)]


def steps_of(name, seed, step):
    """Three steps with SGD, of which the outcomes are kept."""
    model, inputs, loss_of = made(name, seed)
    optimiser, found = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9), []
    for _ in range(3):
        optimiser.zero_grad()
        loss = step(model, inputs, loss_of)
        found.append(outcome(model, loss) | {f"gradient {n}": p.grad.clone() for n, p in model.named_parameters()
                                             if p.grad is not None})  # fmt: skip
        optimiser.step()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seed"), [(name, seed) for name in NETWORKS for seed in ([0] if name == "resnet1202" else [0, 1, 2])]
)
def test_three_steps_of_each_network_at_every_budget(name, seed):
    expected = steps_of(name, seed, plain_step)
    model, inputs, loss_of = made(name, seed)
    log = capture_log(model, inputs, loss_of, steps=1, cost="flops")
    replays = 0
    for share in (None, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3):
        limit = share and budget_at(share, model, log)
        budget = Budget(None, cost="flops", thrash=20.0)

        def managed(model, inputs, loss_of, budget=budget, limit=limit):
            with budget:
                budget.set_budget(limit)
                loss = loss_of(budget.wrap(model)(*inputs))
                loss.backward()
                return budget.release(loss).detach()

        try:
            found = steps_of(name, seed, managed)
        except (BudgetError, ThrashError):
            assert share is not None
            assert share < 1
            break
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
        report = budget.report()
        assert limit is None or report.peak_managed_bytes <= limit
        replays += report.n_remats
    assert replays > 0
