"""Energy and polls of a real GPU."""

import numpy as np
import pytest
import torch

from frugal.clock import SystemClock
from frugal.energy import Meter, Sampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]


@pytest.fixture(scope="module")
def gpu():
    from frugal.timing import CudaDevice

    return CudaDevice()


@pytest.fixture(scope="module")
def product(gpu):
    a, b = torch.randn(2, 2048, 2048, device="cuda")
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def test_energy_repeats_within_one_per_cent(gpu, product):
    meter = Meter(gpu)
    if meter.source != "counter":
        pytest.skip(f"this GPU has no energy counter: {meter.reason or meter.source}")
    with gpu.active():
        idle = meter.idle()
        meter.measure(product, span_s=2.0)  # the die warms up
        first, second = (meter.measure(product, span_s=5.0, idle_w=idle.power_w) for _ in range(2))
    assert (first.reason, second.reason) == (None, None)
    assert second.gross_j == pytest.approx(first.gross_j, rel=0.01)
    assert 0 < first.net_j < first.gross_j
    assert first.power_w > 1.2 * idle.power_w
    assert 0.01 < idle.tick_s < 0.5


def test_the_time_of_a_run_is_that_of_events(gpu, product):
    """The slope over batches that are noticed within a read of the counter, against the GPU's own clock."""
    meter = Meter(gpu)
    with gpu.active():
        energy = meter.measure(product, span_s=5.0)
        start, end = gpu.event(), gpu.event()
        start.record()
        for _ in range(2000):
            product()
        end.record()
        gpu.synchronize()
    if energy.run_s is None:
        pytest.skip(f"this GPU has no energy: {energy.reason}")
    assert energy.run_s == pytest.approx(start.elapsed_time(end) * 1e-3 / 2000, rel=0.02)


def test_polls_see_the_load(gpu, product):
    clock = SystemClock()
    sampler = Sampler(gpu, 0.05).start()
    try:
        silent = sampler.missing()
        if "the SM clock" in silent:
            pytest.skip("this GPU does not tell its clock")
        began = clock.ns()
        while clock.ns() - began < 2e9:
            product()
            gpu.synchronize()
        found = sampler.between(began, clock.ns())
    finally:
        assert sampler.close()
    assert 20 <= len(found) <= 41  # 40 in 2 s; a poll takes some milliseconds
    assert np.median(np.diff(found["ns"])) == pytest.approx(50e6, rel=0.2)
    assert found["sm_hz"].min() > 100e6
