"""The method for one function in a user's own script."""

import pytest
import torch
from timing_fakes import FakeClock

from frugal.errors import FrugalError
from frugal.timing import benchmark


def taking(clock, seconds):
    """y = scale x, for which the clock advances by `seconds`."""

    def work(x, scale):
        clock.advance(seconds)
        return x * scale

    return work


def test_a_report_compares_and_warns_that_one_process_is_conditional():
    clock = FakeClock()
    report = benchmark(
        taking(clock, 2e-3), torch.randn(8), 2.0, against=taking(clock, 5e-3), preset="smoke", clock=clock
    )
    (timed,) = report.regimes
    assert (timed.regime, timed.seconds, timed.against_s) == ("wall", pytest.approx(2e-3), pytest.approx(5e-3))
    assert [timed.ratio, timed.ratio_low, timed.ratio_high] == pytest.approx([2.5] * 3)
    assert "wall: 0.002 s against 0.005 s: 2.500 times as fast (rounds 2.500 to 2.500)" in str(report)
    assert "one process" in str(report)


def test_without_another_function_there_is_no_ratio():
    clock = FakeClock()
    report = benchmark(taking(clock, 2e-3), torch.randn(8), 1.0, preset="smoke", clock=clock)
    assert report.regimes[0].seconds == pytest.approx(2e-3)
    assert report.regimes[0].ratio is None


def test_what_returns_no_tensor_is_timed_unverified():
    assert benchmark(lambda n: {"n": n}, 3, preset="smoke").regimes[0].seconds > 0


def test_functions_that_disagree_give_no_time():
    with pytest.raises(FrugalError, match=r"fn is incorrect: relative error 0\.5"):
        benchmark(lambda x: 3 * x, torch.randn(100), against=lambda x: 2 * x, preset="smoke")


def test_a_function_that_fails_is_named():
    def broken(x):
        raise ValueError("no such thing")

    with pytest.raises(FrugalError, match="fn is failed: ValueError: no such thing"):
        benchmark(broken, torch.randn(3), preset="smoke")
