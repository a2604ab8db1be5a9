"""Intervals over sessions say 95 % and mean it; what the method forbids would not."""

import math

import numpy as np
import pytest
from scipy.stats import binom
from simulated_campaigns import AUTOTUNED, MATMUL, ORDINARY, OURS, Machine, N, at_most, draw, plausible, verdicts

from frugal import stats


def test_the_bounds_of_these_tests_are_those_of_the_method():
    assert (binom.ppf(1e-6, N, 0.95), binom.isf(1e-6, N, 0.95)) == (1851, 1943)
    assert at_most(0.05) == 149
    assert plausible(1851, 0.95)
    assert not plausible(1850, 0.95)


@pytest.mark.parametrize(
    ("machine", "sessions", "families"),
    [(ORDINARY, 3, N), (ORDINARY, 5, N), (ORDINARY, 8, N), (MATMUL, 8, 500), (AUTOTUNED, 3, 500), (AUTOTUNED, 8, 500)],
)
def test_intervals_over_sessions_cover_and_false_alarms_are_five_percent(machine, sessions, families):
    found = verdicts(draw(sessions, machine, sessions, difference=0.02, families=families))
    true = math.exp(-0.02)
    assert plausible(sum(row["ratio_low"] <= true <= row["ratio_high"] for row in found), 0.95, families)
    null = verdicts(draw(100 + sessions, machine, sessions, families=families))
    assert plausible(sum(row["p_raw"] < 0.05 for row in null), 0.05, families)


def test_an_outlier_in_every_tenth_block_costs_power_and_no_honesty():
    logs = draw(11, ORDINARY, 8, families=500)
    rng = np.random.default_rng(12)
    logs += np.log(17) * (rng.random(logs.shape) < 0.1)  # single blocks of 17 times the median were seen
    found = verdicts(logs)
    assert sum(row["p_raw"] < 0.05 for row in found) <= at_most(0.05, 500)


def pooled(logs):
    """How many intervals over all rounds, their sessions forgotten, contain the truth (equal arms)."""
    ratios = (logs[..., 1 - OURS] - logs[..., OURS]).reshape(len(logs), -1)
    intervals = [stats.t_interval(values) for values in ratios]
    return sum(interval.low <= 0 <= interval.high for interval in intervals)


@pytest.mark.parametrize(("machine", "rounds"), [(ORDINARY, 16), (AUTOTUNED, 30)], ids=["ordinary", "autotuned"])
def test_pooling_over_sessions_would_not_cover(machine, rounds):
    # Guards the simulator too: with what processes draw in the data, an interval that forgets sessions must fail.
    assert pooled(draw(4, machine, 8, rounds=rounds, families=500)) / 500 < 0.75


def test_pooling_covers_where_processes_draw_nothing():
    # ... and it fails for that reason alone.
    assert plausible(pooled(draw(5, Machine(0.0, 0.003), 8, families=500)), 0.95, 500)


def test_one_process_of_an_autotuned_kernel_would_call_equal_arms_different():
    logs = draw(6, AUTOTUNED, 1, rounds=8, families=500)
    assert pooled(logs) < 250
    # ... which is why one session has no interval and no verdict
    assert {(row["verdict"], row["reason_code"], row["p_raw"]) for row in verdicts(logs)} == {
        (None, "few_sessions", None)
    }
