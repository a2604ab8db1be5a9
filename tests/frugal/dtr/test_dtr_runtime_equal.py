"""Under any budget that suffices: loss, gradients, buffers and random numbers are plain PyTorch's, bit by bit."""

import pytest
import torch
import torch.nn.functional as F
from small_networks import NETWORKS, made
from torch import nn

from frugal.dtr.budget import Budget, budgeted_step
from frugal.dtr.errors import BudgetError
from frugal.dtr.replay import Replay
from frugal.memory import LiveBytes


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would be other bits
    yield
    torch.set_num_threads(before)


def plain_steps(name, seed, steps):
    model, x, y = made(name, seed)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return losses, model, torch.get_rng_state()


def managed_steps(name, seed, steps, budget, budget_bytes):
    model, x, y = made(name, seed)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses, reports = [], []
    for _ in range(steps):
        optimiser.zero_grad()
        with budget:
            budget.set_budget(budget_bytes)
            loss = F.cross_entropy(budget.wrap(model)(x), y)
            loss.backward()
            losses.append(budget.release(loss).detach())
            del loss
        reports.append(budget.report())
        assert all(type(p.grad) is torch.Tensor for p in model.parameters())
        optimiser.step()
    return losses, model, torch.get_rng_state(), reports


def assert_equal(plain, managed):
    for expected, found in zip(plain[0], managed[0], strict=True):
        assert torch.equal(expected, found)
    for (key, expected), found in zip(plain[1].state_dict().items(), managed[1].state_dict().values(), strict=True):
        assert torch.equal(expected, found), key
    for (key, expected), found in zip(plain[1].named_parameters(), managed[1].parameters(), strict=True):
        assert torch.equal(expected.grad, found.grad), key
    assert torch.equal(plain[2], managed[2])


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_three_steps_at_every_budget_are_bit_equal(name, seed):
    plain = plain_steps(name, seed, 3)
    budget = Budget(None, cost="flops", thrash=1000.0)
    unlimited = managed_steps(name, seed, 3, budget, None)
    assert_equal(plain, unlimited)
    peak = max(report.peak_managed_bytes for report in unlimited[3])
    replays = 0
    for ratio in (1.0, 0.8, 0.6, 0.5, 0.4, 0.3) if seed == 0 else (0.7, 0.45):
        try:
            managed = managed_steps(name, seed, 3, budget, int(peak * ratio))
        except BudgetError:
            break
        assert_equal(plain, managed)
        assert all(report.peak_managed_bytes <= peak * ratio for report in managed[3])
        replays += sum(report.n_remats for report in managed[3])
    if not name.startswith("fused"):  # of which most must stay
        assert replays > 0


@pytest.mark.parametrize("name", ["convolutional", "attention", "lstm", "shaped"])
def test_what_is_counted_is_what_lives(name, monkeypatch):
    """LiveBytes below the wrappers, at every operator: the real tensors' bytes are the Budget's, and within it."""
    model, x, y = made(name)
    with Budget(None, cost="flops") as budget:
        F.cross_entropy(budget.wrap(model)(x), y).backward()
    limit = int(budget.report().peak_managed_bytes * 0.7)
    model, x, y = made(name)
    live = LiveBytes(collect=False)
    live.track((model, x, y))
    execute, differences = Replay.execute, []

    def watched(self, op, again=False):
        differences.append(live.base + live.live - self.mem)
        with live:
            return execute(self, op, again)

    monkeypatch.setattr(Replay, "execute", watched)
    with Budget(limit, cost="flops", thrash=1000.0) as budget:
        y = budget.manage(y)
        F.cross_entropy(budget.wrap(model)(x), y).backward()
    assert budget.report().n_remats > 0
    assert len(differences) > 20
    assert set(differences) == {0}
    assert live.peak_total <= limit


def smallest(name):
    """The smallest budget of a step, by bisection."""
    model, x, y = made(name)
    good = budgeted_step(model, lambda out: F.cross_entropy(out, y), x, budget_bytes=None, cost="flops")
    low, high = 1, good.report.peak_managed_bytes
    while high - low > 1:
        middle = (low + high) // 2
        try:
            attempt(name, middle)
            high = middle
        except BudgetError:
            low = middle
    return high


def attempt(name, budget_bytes):
    model, x, y = made(name)
    loss = lambda out: F.cross_entropy(out, y)  # noqa: E731
    return budgeted_step(model, loss, x, budget_bytes=budget_bytes, cost="flops", thrash=1e9).report


@pytest.mark.parametrize("name", ["convolutional", "lstm"])
def test_a_byte_below_the_smallest_budget_is_an_error_that_says_so(name):
    least = smallest(name)
    assert attempt(name, least).peak_managed_bytes <= least
    with pytest.raises(BudgetError, match=r"needs .* budget .* short") as caught:
        attempt(name, least - 1)
    assert caught.value.short_bytes >= 1
    assert caught.value.op.startswith("aten.")


def test_after_a_budget_error_the_network_is_as_before():
    model, x, y = made("convolutional")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(BudgetError), Budget(20_000, cost="flops") as budget:
        budget.wrap(model)(x)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    F.cross_entropy(model(x), y).backward()


def test_evaluation_without_gradients():
    model, x, _ = made("convolutional")
    model.eval()
    with torch.no_grad():
        expected = model(x)
        with Budget(None, cost="flops") as budget:
            net = budget.wrap(model)
            found = [budget.release(net(x)) for _ in range(3)]
            mem = budget.runtime.mem
            for _ in range(5):
                net(x)
            assert budget.runtime.mem <= mem  # nothing of earlier calls stays
    assert all(torch.equal(expected, out) for out in found)


def test_double_backward():
    def penalty(net, x):
        out = net(x).square().sum()
        (slope,) = torch.autograd.grad(out, x, create_graph=True)
        return out + slope.square().sum()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    x = torch.randn(3, 5, requires_grad=True)
    penalty(model, x).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with Budget(2000, cost="flops", thrash=1000.0) as budget:
        penalty(budget.wrap(model), budget.manage(x)).backward()
    assert all(torch.equal(e, p.grad) for e, p in zip(expected, model.parameters(), strict=True))


def test_autocast_and_channels_last():
    def run(net, x, y):
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(net(x).float(), y)

    plain, x, y = made("convolutional")
    plain, x = plain.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    run(plain, x, y).backward()
    model, _, _ = made("convolutional")
    model = model.to(memory_format=torch.channels_last)
    with Budget(110_000, cost="flops", thrash=1000.0) as budget:
        run(budget.wrap(model), x, y).backward()
    assert budget.report().n_remats > 0
    for expected, found in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(expected.grad, found.grad)
        assert expected.grad.stride() == found.grad.stride()
