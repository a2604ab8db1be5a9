"""DTR's networks under a budget on a GPU: with deterministic kernels, plain PyTorch's numbers bit by bit."""

import pytest
import torch
from trained_networks import NETWORKS, made

from frugal.dtr import Budget, capture_log, simulate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic without
    torch.use_deterministic_algorithms(True, warn_only=True)  # the transformer's loss has no such kernel
    yield
    torch.use_deterministic_algorithms(False)


def step(name, budget_bytes=None, managed=True):
    """All that a step leaves behind, and the report of the Budget."""
    model, inputs, loss_of = made(name, device=GPU)
    torch.cuda.manual_seed(0)
    budget = Budget(budget_bytes, cost="flops", device=GPU, thrash=1000.0)
    if managed:
        with budget:
            loss = loss_of(budget.wrap(model)(*inputs))
            loss.backward()
            released = budget.release(loss).detach()
            del loss
        report = budget.report()
    else:
        loss = loss_of(model(*inputs))
        loss.backward()
        released, report = loss.detach(), None
    gradients = {f"gradient of {key}": p.grad for key, p in model.named_parameters() if p.grad is not None}
    state = {"loss": released, "generator": torch.cuda.get_rng_state(GPU)}
    return gradients | dict(model.state_dict()) | state, report


def assert_same(name, found, expected):
    assert found.keys() == expected.keys()
    if name == "transformer":  # the sum over 6 × 32 values of float32 is made by atomics, in any order
        torch.testing.assert_close(found.pop("loss"), expected["loss"], rtol=1e-6, atol=0)
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_under_a_budget_on_a_gpu_is_plain(name):
    expected, _ = step(name, managed=False)
    unlimited, report = step(name)
    assert_same(name, unlimited, expected)
    if name == "fused_gru":  # one kernel of cuDNN's: nothing in it can be evicted
        return
    model, inputs, loss_of = made(name, device=GPU)
    log = capture_log(model, inputs, loss_of, steps=1, cost="flops")
    must = log.baseline().const + sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    limit = int(must + 0.7 * (simulate(log, "h_dtr_eq", None).max_memory - must))
    found, report = step(name, limit)
    assert_same(name, found, expected)
    assert report.n_remats > 0
    assert report.peak_managed_bytes <= limit
