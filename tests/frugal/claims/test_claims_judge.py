"""Every branch from an interval to a verdict, and how many sessions would tell."""

import math

import numpy as np
import pytest
from claim_rows import claim
from scipy import stats as sps

from frugal.claims.judge import bounds, judge
from frugal.claims.reduce import Estimate, sessions_needed


def found(low, high, *, log=True):
    """Three sessions whose t interval is [low, high]."""
    ends = (math.log(low), math.log(high)) if log else (low, high)
    middle, half = sum(ends) / 2, (ends[1] - ends[0]) / 2
    spread = half * math.sqrt(3) / sps.t.ppf(0.975, 2)
    values = tuple(middle + spread * step for step in (-1, 0, 1))
    assert np.std(values, ddof=1) == pytest.approx(spread)
    return Estimate(math.exp(middle) if log else middle, low, high, "t_sessions", values, log)


def at_least(low, high, **given):
    return judge(claim(tolerance=0.1, **given), found(low, high))


def test_at_least_is_reproduced_from_the_expected_value_less_the_tolerance_on():
    # E = 2, tolerance 10 %: E' = 1.8
    assert at_least(1.8, 1.9).verdict == "reproduced"
    assert at_least(1.79, 1.9).verdict == "not_comparable"
    assert at_least(1.6, 1.79).verdict == "not_reproduced"
    assert at_least(1.6, 1.8).verdict == "not_comparable"


def test_a_trend_counts_where_the_lower_end_keeps_its_bound():
    for low, high in ((1.2, 1.5), (1.0, 1.79), (1.2, 2.5)):
        assert at_least(low, high, trend={"at_least": 1.0}).verdict == "trend"
    assert at_least(0.9, 1.5, trend={"at_least": 1.0}).verdict == "not_reproduced"
    assert at_least(0.9, 2.5, trend={"at_least": 1.0}).verdict == "not_comparable"
    assert at_least(1.9, 2.5, trend={"at_least": 1.0}).verdict == "reproduced"


def test_at_most_mirrors_at_least():
    def said(low, high):
        return judge(claim(comparator="at_most", tolerance=0.1, trend={"at_most": 4.0}), found(low, high)).verdict

    # E' = 2.2, trend to 4
    assert said(1.0, 2.2) == "reproduced"
    assert said(1.0, 2.3) == "trend"
    assert said(2.3, 4.0) == "trend"
    assert said(2.3, 4.1) == "not_reproduced"
    assert said(1.0, 4.1) == "not_comparable"


def test_within_wants_the_whole_interval_inside():
    def said(low, high):
        return judge(claim(comparator="within", tolerance=0.1), found(low, high)).verdict

    assert said(1.8, 2.2) == "reproduced"
    assert said(2.21, 2.5) == "not_reproduced"
    assert said(1.5, 1.79) == "not_reproduced"
    assert said(1.9, 2.3) == "not_comparable"
    assert said(1.5, 2.5) == "not_comparable"


def test_equals_is_exact():
    def said(value):
        return judge(claim(comparator="equals"), Estimate(value, value, value, "exact", (value,), False)).verdict

    assert said(2.0) == "reproduced"
    assert said(2.0 + 1e-12) == "not_reproduced"
    assert judge(claim(comparator="equals"), found(1.9, 2.1)).verdict == "not_comparable"


@pytest.mark.parametrize(
    ("op", "reproduced", "not_reproduced"),
    [("lt", (-0.9, -0.1), (0.0, 0.2)), ("gt", (0.1, 0.2), (-0.2, 0.0)), ("le", (-1.0, 0.0), (0.1, 0.2)),
     ("ge", (0.0, 0.2), (-0.2, -0.1))],
)  # fmt: skip
def test_a_trend_is_a_test_that_the_whole_interval_passes(op, reproduced, not_reproduced):
    made = claim(
        comparator="trend", locator={"value": None},
        measure={"reduce": "spearman", "against": "h", "test": {"op": op, "value": 0}},
    )  # fmt: skip
    assert judge(made, found(*reproduced, log=False)).verdict == "reproduced"
    assert judge(made, found(*not_reproduced, log=False)).verdict == "not_reproduced"
    assert judge(made, found(-0.1, 0.1, log=False)).verdict == "not_comparable"


def test_one_session_has_no_verdict_and_says_what_to_set():
    said = judge(claim(), Estimate(3.0, None, None, "none", (math.log(3.0),), True))
    assert said.verdict == "not_comparable"
    assert "timing.sessions" in said.reason


def test_a_tolerance_is_relative_to_the_size_of_a_negative_value():
    limits = bounds(claim(locator={"value": -0.01}, tolerance=0.5))
    assert limits.low == pytest.approx(-0.015)


def test_the_sessions_that_are_needed_bring_the_interval_off_the_bound_and_one_less_does_not():
    seen = found(1.7, 2.2)
    needed = sessions_needed(seen, 1.8)
    spread, middle = np.std(seen.sessions, ddof=1), np.mean(seen.sessions)

    def low(sessions):
        return math.exp(middle - sps.t.ppf(0.975, sessions - 1) * spread / math.sqrt(sessions))

    assert low(needed) > 1.8 >= low(needed - 1)
    assert f"needs about {needed} sessions" in at_least(1.7, 2.2).reason


def test_what_no_number_of_sessions_tells_says_so():
    assert sessions_needed(found(1.8 / 1.2, 1.8 * 1.2), 1.8) is None
    assert "more than 1000 sessions" in at_least(1.8 / 1.2, 1.8 * 1.2).reason
