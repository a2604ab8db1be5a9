"""The method for one function in a user's own script."""

import pytest
import torch
from timing_fakes import FakeClock, FakeGpu

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
    shown = str(report).splitlines()
    assert shown[0] == "work against work (against), preset smoke, on the CPU"
    assert shown[1].split() == [
        "regime", "work", "middle", "half", "work", "(against)", "middle", "half", "speed-up", "by", "round",
    ]  # fmt: skip
    assert [cell.strip() for cell in shown[2].split("  ") if cell.strip()] == [
        "wall", "2 ms", "2 ms to 2 ms", "5 ms", "5 ms to 5 ms", "2.500", "2.500 to 2.500",
    ]  # fmt: skip
    assert shown[3] == "before and after timing, work agreed with work (against)"
    assert shown[4].startswith("one process")


def test_without_another_function_there_is_no_ratio():
    clock = FakeClock()
    report = benchmark(taking(clock, 2e-3), torch.randn(8), 1.0, preset="smoke", clock=clock)
    assert report.regimes[0].seconds == pytest.approx(2e-3)
    assert report.regimes[0].ratio is None
    assert str(report).splitlines()[0] == "work, preset smoke, on the CPU"
    assert "nothing was verified" in str(report)


def test_what_returns_no_tensor_is_timed_unverified():
    assert benchmark(lambda n: {"n": n}, 3, preset="smoke").regimes[0].seconds > 0


def test_functions_that_disagree_give_no_time():
    with pytest.raises(FrugalError, match=r"lambda is incorrect: relative error 0\.5"):
        benchmark(lambda x: 3 * x, torch.randn(100), against=lambda x: 2 * x, preset="smoke")


def test_a_function_that_fails_is_named():
    def broken(x):
        raise ValueError("no such thing")

    with pytest.raises(FrugalError, match="broken is failed: ValueError: no such thing"):
        benchmark(broken, torch.randn(3), preset="smoke")


def test_times_that_scatter_too_much_are_said_to():
    clock, times = FakeClock(), iter(range(10**6))

    def scattering(x):
        clock.advance(1e-3 * (1 + next(times) % 2))
        return 2 * x

    report = benchmark(scattering, torch.randn(8), preset="smoke", clock=clock)
    assert report.regimes[0].seconds > 0
    assert "wall: scattering: the interquartile range exceeds 25 % of the median in every block" in str(report)


def test_a_module_is_called_by_its_class_and_a_gpu_by_its_name():
    gpu = FakeGpu(FakeClock())

    class Twice(torch.nn.Module):
        def forward(self, x):
            gpu.launch(lambda: None, 10e-6)
            return 2 * x

    report = benchmark(Twice(), torch.randn(8), preset="smoke", device=gpu, clock=gpu.clock)
    assert str(report).startswith("Twice, preset smoke, on the GPU")
    assert report.regimes[0].seconds == pytest.approx(15e-6, rel=1e-6)  # 5 µs of the host's, 10 of the device's
