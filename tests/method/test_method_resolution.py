"""A device whose events count in steps of 1.2 µs: what each regime says of a kernel, and what it refuses to say."""

import math

import pytest

from frugal.timing import Design, measure_case
from tests.frugal.timing.timing_fakes import FakeClock, FakeGpu, doubling, gpu_arm

STEP_S = 1.2e-6
SAMPLE_S = 1e-3  # what a sample of hot and graph lasts at least


def measured(device_s):
    gpu = FakeGpu(FakeClock(), resolution_ns=1200)
    arms = [gpu_arm(gpu, device_s=device_s), gpu_arm(gpu, "base", "baseline", device_s=1.01 * device_s)]
    rows = measure_case(doubling(), arms, Design.of("smoke"), 0, gpu, gpu.clock).rows
    return {(row.arm, row.regime, row.l2): row for row in rows}


@pytest.mark.parametrize("device_s", [2e-6, 7.3e-6, 40e-6])
def test_a_graph_averages_the_steps_out(device_s):
    rows = measured(device_s)
    for l2 in ("resident", "rotated"):
        row = rows["sparse", "graph", l2]
        # m comes of an estimate that is itself off by up to a step, so a sample is almost as long as asked
        assert row.batch_m * (device_s + STEP_S) >= SAMPLE_S
        # one step in a sample; and the fake counts whole nanoseconds of a run
        assert row.value == pytest.approx(device_s, rel=STEP_S / (row.batch_m * device_s) + 1e-9 / device_s)


@pytest.mark.parametrize("device_s", [2e-6, 7.3e-6, 40e-6])
def test_a_single_run_is_a_whole_number_of_steps(device_s):
    row = measured(device_s)["sparse", "cold", None]
    assert row.batch_m == 1
    steps = row.value / STEP_S
    assert steps == pytest.approx(round(steps), abs=1e-6)
    assert row.value == pytest.approx(device_s, abs=STEP_S)


def test_one_per_cent_between_arms_shows_where_samples_are_long_enough():
    rows = measured(20e-6)
    ratios = {
        (regime, l2): rows["base", regime, l2].value / rows["sparse", regime, l2].value
        for regime, l2 in (("cold", None), ("graph", "resident"), ("graph", "rotated"))
    }
    assert ratios["graph", "resident"] == pytest.approx(1.01, abs=2 * STEP_S / SAMPLE_S)
    assert ratios["graph", "rotated"] == pytest.approx(1.01, abs=2 * STEP_S / SAMPLE_S)
    assert abs(ratios["cold", None] - 1.01) > 0.005  # guards the fake: within a step, cold cannot tell


def test_what_the_clock_does_not_resolve_has_no_time():
    rows = measured(0.3e-6)
    row = rows["sparse", "cold", None]
    assert (row.status, row.value) == ("unstable", None)
    assert "the clock does not resolve this" in row.reason
    assert rows["sparse", "graph", "resident"].value == pytest.approx(0.3e-6, rel=STEP_S / SAMPLE_S + 0.01)


def test_equal_readings_are_an_interval_without_width_and_stop_a_block():
    row = measured(7.3e-6)["sparse", "cold", None]
    assert row.stop_reason == "target"
    assert row.n_samples == 2 * Design.of("smoke").n_min
    assert math.isclose(row.min, row.max)
