"""The warm-up ends when times and the SM clock have settled."""

import numpy as np
import pytest
from timing_fakes import FakeClock

from frugal.energy import POLL
from frugal.timing import Design
from frugal.timing.warmup import warm_up


class Loads:
    kind = "cuda"

    def __init__(self, clock):
        self.clock = clock

    def load(self):
        self.clock.advance(0.02)


def polls_of(clock, hz, period_s=0.05):
    """Polls of an SM clock that is a function of the seconds since now, read in steps of 15 MHz."""
    born = clock.ns()

    def between(start, end):
        step = round(period_s * 1e9)
        times = np.arange(-(-start // step) * step, end + 1, step)
        read = np.array([hz((ns - born) * 1e-9) for ns in times])
        found = np.zeros(len(times), POLL)
        found["ns"], found["sm_hz"] = times, np.round(read / 15e6) * 15e6
        return found

    return between


def warmed(hz, preset="sweep", **given):
    clock = FakeClock()
    return warm_up(Loads(clock), Design.of(preset), clock, polls_of(clock, hz, **given))


def test_a_constant_clock_has_settled_and_is_named():
    found = warmed(lambda s: 1980e6)
    assert (found.settled, found.sm_hz) == (True, 1980e6)
    assert found.seconds == pytest.approx(3.0, abs=0.03)


def test_a_clock_that_still_climbs_is_waited_for():
    """1 % a second for 5 s, then constant: the slope is below 0.5 % a second when half of the last second is flat."""
    found = warmed(lambda s: 1980e6 * (0.95 + 0.01 * min(s, 5.0)))
    assert found.settled
    assert 5.1 <= found.seconds <= 6.1
    assert found.sm_hz == pytest.approx(1980e6, rel=0.008)  # a step of 15 MHz


def test_a_clock_that_never_rests_is_given_up_after_ten_seconds():
    found = warmed(lambda s: 1980e6 * (1 - 0.02 * s))
    assert (found.settled, found.seconds) == (False, pytest.approx(10.0, abs=0.03))


def test_smoke_does_not_wait():
    found = warmed(lambda s: 1980e6 * (1 - 0.1 * s), preset="smoke")
    assert (found.settled, found.seconds) == (False, pytest.approx(0.5, abs=0.03))


def test_steps_of_the_reading_are_no_slope():
    found = warmed(lambda s: 1972.4e6 + 1e6 * (round(s / 0.05) % 2))  # to and fro between two steps
    assert (found.settled, found.seconds) == (True, pytest.approx(3.0, abs=0.03))


@pytest.mark.parametrize("hz", [lambda s: float("nan"), lambda s: 1980e6 * (1 - 0.1 * s)])
def test_too_few_polls_are_no_obstacle(hz):
    found = warmed(hz, period_s=0.5 if hz(1) > 0 else 0.05)
    assert found.settled
    assert found.seconds == pytest.approx(3.0, abs=0.03)


def test_nobody_polls_on_a_cpu():
    clock = FakeClock()
    device = Loads(clock)
    device.kind = "cpu"
    found = warm_up(device, Design.of("sweep"), clock)
    assert (found.settled, found.sm_hz) == (True, None)
    assert found.seconds == pytest.approx(1.0, abs=0.03)
