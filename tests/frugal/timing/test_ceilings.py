"""The measured ceilings, against a clock and a queue that say how long everything took."""

from __future__ import annotations

import pytest
import torch
from timing_fakes import FakeClock, FakeGpu

from frugal.timing import CpuDevice, ceilings


class TickingClock:
    """Each look at it is `step` seconds later than the one before."""

    def __init__(self, step: float) -> None:
        self.step, self.looks = step, 0

    def ns(self) -> int:
        self.looks += 1
        return round(self.looks * self.step * 1e9)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(ceilings.COPY_FLOATS, "cpu", 1000)
    monkeypatch.setitem(ceilings.MATRIX, "cpu", 16)


@pytest.mark.parametrize("runs", [1, 4])
def test_rates_are_work_over_the_time_of_one_run(small, monkeypatch, runs):
    monkeypatch.setitem(ceilings.RUNS, "cpu", runs)
    found = ceilings.ceilings(CpuDevice(), TickingClock(step=0.5))
    one_run = 0.5 / runs
    assert found["copy_bytes_per_s"] == pytest.approx(2 * 4 * 1000 / one_run, rel=1e-12)
    assert found["flops_fp32"] == pytest.approx(2 * 16**3 / one_run, rel=1e-12)


def test_a_ceiling_is_what_the_undisturbed_machine_reaches(small, monkeypatch):
    class Disturbed(TickingClock):
        def ns(self) -> int:
            self.looks += 1
            return round((self.looks * self.step + (self.looks > 8) * self.looks**2) * 1e9)

    monkeypatch.setitem(ceilings.RUNS, "cpu", 1)
    found = ceilings.ceilings(CpuDevice(), Disturbed(step=0.5))  # the copy's later samples last ever longer
    assert found["copy_bytes_per_s"] == pytest.approx(2 * 4 * 1000 / 0.5, rel=1e-12)


def test_a_cpu_has_no_rates_of_a_gpu(small):
    found = ceilings.ceilings(CpuDevice(), TickingClock(step=0.5))
    assert {name for name, rate in found.items() if rate is None} == {
        "flops_tf32", "flops_fp16", "launch_s", "event_floor_s",
    }  # fmt: skip


@pytest.mark.parametrize("before", [False, True])
def test_the_flag_of_tf32_is_left_as_it_was(small, before):
    matmul = torch.backends.cuda.matmul
    kept = matmul.allow_tf32
    try:
        matmul.allow_tf32 = before
        ceilings.ceilings(CpuDevice(), TickingClock(step=0.5))
        assert matmul.allow_tf32 is before
    finally:
        matmul.allow_tf32 = kept


def test_a_launch_costs_the_hosts_time_and_not_the_devices():
    clock = FakeClock()
    device = FakeGpu(clock)

    def launch():
        device.launch(lambda: None, device_s=1e-3, host_s=7e-6)

    assert ceilings.launch_s(launch, device, clock) == pytest.approx(7e-6, rel=1e-9)


def test_two_events_with_nothing_between_are_enqueued_behind_a_spin():
    device = FakeGpu(FakeClock())
    assert ceilings.event_floor_s(device) == 0.0  # the fake's events are instants
    assert device.log[:4] == [f"sleep {int(device.hz * ceilings.SPIN_S)}", "event", "event", "synchronize"]


@pytest.mark.gpu
def test_a_gpu_has_every_rate():
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU: its rates are measured")
    from frugal.timing import CudaDevice

    found = ceilings.ceilings(CudaDevice())
    assert all(rate is not None and rate > 0 for rate in found.values())
    assert found["flops_fp32"] < found["flops_fp16"]  # tensor cores
    assert found["event_floor_s"] < 20e-6 < 1e-3 > found["launch_s"]
