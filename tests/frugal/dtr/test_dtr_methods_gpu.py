"""A user's methods, and evicting for one piece of memory, on a GPU."""

import pytest
import torch
import trained_networks

from frugal.dtr import Budget
from frugal.dtr.methods import METHODS, forward_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]
# Sums of gradients have no fixed order on a GPU, and what is compiled fuses and rounds otherwise: relative L2 norms.
EAGER, COMPILED = 1e-4, 1e-2


def gradients(name, run):
    """Loss, gradients and peak bytes of `run(model, inputs, loss_of)` on a network of trained_networks."""
    model, inputs, loss_of = trained_networks.made(name, device="cuda")
    torch.cuda.manual_seed(1)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = run(model, inputs, loss_of)
    peak = torch.cuda.max_memory_allocated() - before
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)], peak


def plain(model, inputs, loss_of):
    loss = loss_of(model(*inputs))
    loss.backward()
    return loss


def by(method, **settings):
    def run(model, inputs, loss_of):
        loss = loss_of(forward_of(method, model, **settings)(*inputs))
        loss.backward()
        return loss

    return run


def near(found, expected, bound):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).double().norm() <= bound * other.double().norm() + 1e-7


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("plain", "activation_budget")])
@pytest.mark.parametrize("name", ["resnet32", "transformer"])
def test_gradients_are_plain_pytorchs_and_less_is_kept(name, method):
    gradients(name, plain)  # libraries take their workspaces at first
    found, peak = gradients(name, by(method))
    expected, most = gradients(name, plain)
    near(found, expected, EAGER)
    # what is saved on the CPU is not on the GPU, and what is computed again is not there meanwhile
    assert peak < most


@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_torchs_activation_budget_compiles(budget):
    # a network without dropout: compiled code draws other random numbers
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh()) for _ in range(4)))
    model, x = model.cuda(), torch.randn(32, 64, device="cuda")
    model(x).sum().backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    torch.compiler.reset()
    forward_of("activation_budget", model, budget=budget)(x).sum().backward()
    near([p.grad for p in model.parameters()], expected, COMPILED)
    torch.compiler.reset()


def test_evicting_for_one_piece_of_memory_changes_no_gradient():
    reports = []

    def within(ratio, contiguous):
        def run(model, inputs, loss_of):
            limit = int(ratio * reports[0].peak_managed_bytes) if ratio else None
            with Budget(limit, cost="flops", thrash=10.0, device="cuda", contiguous=contiguous) as budget:
                loss = loss_of(budget.wrap(model)(*inputs))
                loss.backward()
                value = budget.release(loss).detach()
                del loss
            reports.append(budget.report())
            return value

        return run

    expected, _ = gradients("resnet32", within(None, False))
    found, _ = gradients("resnet32", within(0.6, True))
    near(found, expected, EAGER)
    assert reports[1].n_evictions > 0
    assert reports[1].peak_managed_bytes <= 0.6 * reports[0].peak_managed_bytes
