"""The measured ceilings, against a clock that says how long everything took."""

from __future__ import annotations

import pytest
import torch

from frugal.timing import CpuDevice, ceilings


class TickingClock:
    """Each look at it is `step` seconds later than the one before."""

    def __init__(self, step: float) -> None:
        self.step, self.looks = step, 0

    def ns(self) -> int:
        self.looks += 1
        return round(self.looks * self.step * 1e9)


def test_rates_are_work_over_the_time_of_one_run(monkeypatch):
    monkeypatch.setitem(ceilings.COPY_FLOATS, "cpu", 1000)
    monkeypatch.setitem(ceilings.MATRIX, "cpu", 16)
    found = ceilings.ceilings(CpuDevice(), TickingClock(step=0.5))
    one_run = 0.5 / ceilings.RUNS
    assert found["copy_bytes_per_s"] == pytest.approx(2 * 4 * 1000 / one_run, rel=1e-12)
    assert found["flops_fp32"] == pytest.approx(2 * 16**3 / one_run, rel=1e-12)
    assert found["flops_tf32"] is None


@pytest.mark.parametrize("before", [False, True])
def test_the_flag_of_tf32_is_left_as_it_was(monkeypatch, before):
    matmul = torch.backends.cuda.matmul
    kept = matmul.allow_tf32
    monkeypatch.setitem(ceilings.COPY_FLOATS, "cpu", 1000)
    monkeypatch.setitem(ceilings.MATRIX, "cpu", 16)
    try:
        matmul.allow_tf32 = before
        ceilings.ceilings(CpuDevice(), TickingClock(step=0.5))
        assert matmul.allow_tf32 is before
    finally:
        matmul.allow_tf32 = kept
