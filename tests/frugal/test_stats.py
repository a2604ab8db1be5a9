"""Statistics against hand-computed values and brute force. Simulated campaigns are in tests/method."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from frugal import stats

TIMES = st.floats(min_value=1e-7, max_value=1e3)


# --- intervals


@pytest.mark.parametrize(("n", "k"), [(0, 0), (1, 0), (5, 0), (6, 1), (10, 2), (20, 6), (30, 10), (100, 40)])
def test_order_rank_is_that_of_the_method(n, k):
    assert stats.order_rank(n) == k


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 29, 61, 300])
def test_order_rank_against_counting_all_coin_throws(n, level):
    def covered(k):  # exactly, with integers: P(k <= heads <= n - k)
        return sum(math.comb(n, heads) for heads in range(k, n - k + 1)) / 2**n

    assert stats.order_rank(n, level) == max([k for k in range(1, n // 2 + 1) if covered(k) >= level], default=0)


def test_order_ci_takes_the_second_and_the_last_but_one_of_ten():
    assert stats.order_ci([9, 1, 8, 2, 7, 3, 6, 4, 5, 10]) == stats.Interval(2.0, 9.0, 0.95, "order_stat")
    assert stats.order_ci([1, 2, 3, 4, 5]) is None


@settings(deadline=None)
@given(st.lists(TIMES, min_size=6, max_size=40), st.randoms(use_true_random=False))
def test_order_ci_and_flags_do_not_depend_on_the_order_of_samples(values, random):
    shuffled = random.sample(values, len(values))
    assert stats.order_ci(shuffled) == stats.order_ci(values)
    flag = dict(zip(values, stats.tukey_flags(values), strict=True))
    assert stats.tukey_flags(shuffled) == [flag[value] for value in shuffled]


def test_t_interval_of_three_values():
    # mean 2, s = 1, t(0.975, 2) = 4.30265 from printed tables: half-width 4.30265 / sqrt(3) = 2.48414
    found = stats.t_interval([1.0, 2.0, 3.0])
    assert found.low == pytest.approx(2 - 2.48414, abs=1e-5)
    assert found.high == pytest.approx(2 + 2.48414, abs=1e-5)
    assert found.method == "t_sessions"


def test_t_interval_needs_two_values_and_is_a_point_when_none_differ():
    assert stats.t_interval([1.0]) is None
    assert stats.t_interval([0.1, 0.1, 0.1]) == stats.Interval(0.1, 0.1, 0.95, "exact")


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1900, 2000)])
def test_clopper_pearson_is_made_of_beta_quantiles(k, n):
    found = stats.clopper_pearson(k, n, 0.95)
    low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
    high = beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    # both solve the same equation to about 1e-12
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


# --- ratios


def test_ratio_by_hand():
    # Session means of ln ratios: ln 2, ln 2 + 0.1, ln 2 - 0.1; s = 0.1; t(0.975, 2) = 4.30265, t(0.80, 2) = 1.06066.
    logs = [(0.02, -0.02), (0.13, 0.07), (-0.1, -0.1)]
    base = [[2 * math.exp(r) for r in session] for session in logs]
    found = stats.paired_ratio(base, [[1.0, 1.0]] * 3)
    half = 4.30265 * 0.1 / math.sqrt(3)
    assert found.ratio == pytest.approx(2.0, rel=1e-12)
    assert found.low == pytest.approx(2 * math.exp(-half), rel=1e-5)
    assert found.high == pytest.approx(2 * math.exp(half), rel=1e-5)
    assert found.mde == pytest.approx(math.exp((4.30265 + 1.06066) * 0.1 / math.sqrt(3)) - 1, rel=1e-5)
    assert found.sd_session == pytest.approx(0.1, rel=1e-9)
    # pooled: sum of squares 2*0.02^2 + 2*0.03^2 over 6 rounds - 3 sessions
    assert found.sd_round == pytest.approx(math.sqrt((2 * 0.02**2 + 2 * 0.03**2) / 3), rel=1e-9)
    assert (found.round_low, found.round_high) == pytest.approx((2 * math.exp(-0.1), 2 * math.exp(0.13)), rel=1e-12)
    assert (found.n_sessions, found.n_rounds, found.method) == (3, 6, "t_sessions")


def test_p_of_two_sessions_has_a_closed_form():
    # Student's t with one degree of freedom is Cauchy: p = 1 - 2 atan(t) / pi; t = mean / (s / sqrt 2) = 0.2 / 0.1.
    found = stats.paired_ratio([[math.exp(0.1)], [math.exp(0.3)]], [[1.0], [1.0]])
    assert found.p_raw == pytest.approx(1 - 2 * math.atan(2.0) / math.pi, rel=1e-9)
    assert found.sd_round is None


def test_one_session_has_no_interval():
    found = stats.paired_ratio([[2.0, 3.0]], [[1.0, 1.0]])
    assert (found.low, found.high, found.p_raw, found.mde, found.method) == (None, None, None, None, "none")
    assert (found.round_low, found.round_high) == pytest.approx((2.0, 3.0))


def test_no_session_has_no_ratio_and_a_session_without_an_arm_is_dropped():
    assert stats.paired_ratio([[]], [[1.0]]).ratio is None
    found = stats.paired_ratio([[2.0], [], [2.0]], [[1.0], [1.0], [1.0]])
    assert (found.n_sessions, found.ratio, found.method) == (2, pytest.approx(2.0), "exact")


def test_deterministic_metrics_give_points():
    equal = stats.paired_ratio([[7.0]] * 3, [[7.0]] * 3)
    assert (equal.ratio, equal.low, equal.high, equal.method, equal.p_raw) == (1.0, 1.0, 1.0, "exact", 1.0)
    less = stats.paired_ratio([[7.0]] * 3, [[3.5]] * 3)
    assert (less.low, less.high, less.p_raw) == (pytest.approx(2.0), pytest.approx(2.0), 0.0)


@pytest.mark.parametrize(
    ("base", "cand", "words"),
    [
        ([[0.0]], [[1.0]], r"base\[0\] has 0.0"),
        ([[1.0], [1.0]], [[1.0], [-1.0]], r"cand\[1\] has -1.0"),
        ([[math.nan]], [[1.0]], "finite"),
        ([[1.0]], [], "1 sessions"),
        ([[1.0, 2.0]], [[1.0]], "session 0 has 2 rounds"),
    ],
)
def test_bad_values_are_named(base, cand, words):
    with pytest.raises(ValueError, match=words):
        stats.paired_ratio(base, cand)


PAIRS = st.integers(2, 6).flatmap(
    lambda p: st.tuples(*[st.lists(st.tuples(TIMES, TIMES), min_size=p, max_size=p) for _ in range(2)])
)


@settings(deadline=None)
@given(PAIRS, st.floats(min_value=1e-6, max_value=1e6))
def test_scaling_all_times_changes_no_ratio(pair, factor):
    base, cand = pair
    before = stats.paired_ratio(base, cand)
    after = stats.paired_ratio([[x * factor for x in s] for s in base], [[x * factor for x in s] for s in cand])
    # Scaling rounds each time once (1e-16) and shifts the logarithms, whose differences then lose about 1e-14.
    assert math.log(after.ratio) == pytest.approx(math.log(before.ratio), abs=1e-12)
    assert math.log(after.low) == pytest.approx(math.log(before.low), abs=1e-10)


@settings(deadline=None)
@given(PAIRS)
def test_swapping_arms_inverts_ratio_and_verdict(pair):
    base, cand = pair
    one, other = stats.paired_ratio(base, cand), stats.paired_ratio(cand, base)
    higher = stats.paired_ratio(base, cand, higher_is_better=True)
    # exp(x) and exp(-x) are each rounded once: about 1e-15 times |x|, which is below 200 here
    assert (one.ratio * other.ratio, one.low * other.high) == pytest.approx((1.0, 1.0), rel=1e-12)
    assert (higher.ratio, higher.low, higher.high) == (other.ratio, other.low, other.high)
    swap = {"FASTER": "SLOWER", "SLOWER": "FASTER"}
    word = stats.verdict(one, 0.05, one.p_raw).word
    assert stats.verdict(other, 0.05, other.p_raw).word == swap.get(word, word)


# --- families


@settings(deadline=None)
@given(st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=30))
def test_holm_is_its_formula(p):
    order = sorted(range(len(p)), key=lambda i: p[i])
    steps = [min(1.0, (len(p) - j) * p[i]) for j, i in enumerate(order)]
    expected = [0.0] * len(p)
    for j, i in enumerate(order):
        expected[i] = max(steps[: j + 1])
    assert stats.holm(p) == pytest.approx(expected, abs=1e-15)


def test_holm_passes_none_over():
    assert stats.holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert stats.holm([None, None]) == [None, None]
    assert stats.holm([]) == []


def test_holm_refuses_what_is_no_p_value():
    with pytest.raises(ValueError, match=r"p = 1\.5"):
        stats.holm([1.5])


# --- verdicts


def a_ratio(low, high, method="t_sessions"):
    return stats.Ratio(math.sqrt(low * high), low, high, method, 8, 16)


@pytest.mark.parametrize(
    ("low", "high", "p", "word", "code"),
    [
        (0.995, 1.005, 0.9, "SAME", "ci_inside_margin"),
        (1.002, 1.008, 1e-6, "SAME", "ci_inside_margin"),  # a real but negligible difference
        (1.002, 1.02, 0.01, "FASTER", "ci_above"),
        (1.002, 1.02, 0.05, "INCONCLUSIVE", "holm"),
        (0.98, 0.998, 0.01, "SLOWER", "ci_below"),
        (0.98, 0.998, None, "INCONCLUSIVE", "holm"),
        (0.98, 1.02, 0.5, "INCONCLUSIVE", "ci_straddles"),
        (1.0, 1.02, 0.01, "INCONCLUSIVE", "ci_straddles"),  # the bound itself is not above 1
        (1 / 1.01, 1.005, 0.5, "INCONCLUSIVE", "ci_straddles"),  # the margin itself is not inside
    ],
)
def test_verdicts(low, high, p, word, code):
    assert stats.verdict(a_ratio(low, high), 0.01, p) == stats.Verdict(word, code)


def test_no_verdict_without_an_interval_or_from_one_process():
    alone = stats.paired_ratio([[2.0, 2.0]], [[1.0, 1.0]])
    assert stats.verdict(alone, 0.01, None) == stats.Verdict(None, "few_sessions")
    assert stats.verdict(a_ratio(1.5, 1.6), 0.01, 1e-9, conditional=True) == stats.Verdict(None, "few_sessions")


@pytest.mark.parametrize(
    ("low", "p", "shift", "word"),
    [
        (1.001, 1e-4, 0.01, "FASTER"),  # survives in cycles
        (0.999, 0.3, 0.01, "CLOCK_SHIFT"),  # does not, and the clocks differ
        (0.999, 0.3, 0.002, "FASTER"),  # does not, but the clocks are the same within 0.2 %
        (1.001, 0.2, 0.01, "CLOCK_SHIFT"),  # Holm in cycle space counts too
    ],
)
def test_a_gain_that_is_only_the_clocks_is_said_so(low, p, shift, word):
    cycles = stats.Cycles(a_ratio(low, 1.03), p, shift)
    assert stats.verdict(a_ratio(1.002, 1.04), 0.01, 1e-4, cycles).word == word


def test_other_metrics_have_other_words_and_margins_must_be_positive():
    words = ("BETTER", "WORSE")
    assert stats.verdict(a_ratio(1.1, 1.2), 0.01, 1e-4, words=words).word == "BETTER"
    with pytest.raises(ValueError, match="margin = 0"):
        stats.verdict(a_ratio(1.1, 1.2), 0, 1e-4)


# --- small ones


def test_geomean():
    assert stats.geomean([2.0, 8.0]) == pytest.approx(4.0)
    for bad in ([], [0.0], [1.0, math.inf]):
        with pytest.raises(ValueError, match=r"geomean|greater than 0"):
            stats.geomean(bad)


def test_tukey_fences():
    values = [*range(1, 12), 20.0, 40.0]  # quartiles 4 and 10: fences at 19 and 28 (above), -5 and -14 (below)
    assert stats.tukey_flags(values) == ["ok"] * 11 + ["mild", "severe"]
    assert stats.tukey_flags([-v for v in values]) == ["ok"] * 11 + ["mild", "severe"]
    assert stats.tukey_flags([]) == []
    assert stats.tukey_flags([1.0] * 5) == ["ok"] * 5


@pytest.mark.parametrize(("q", "n"), [(0.9, 29), (0.95, 59), (0.99, 299)])
def test_tail_quantiles_exist_from_where_the_largest_sample_bounds_them(q, n):
    assert [stats.quantile_exists(m, q, 0.95) for m in (0, 1, n - 1, n, n + 1)] == [False, False, False, True, True]


@pytest.mark.parametrize("q", [0.5, 1.0])
def test_quantile_exists_is_for_tails(q):
    with pytest.raises(ValueError, match="q ="):
        stats.quantile_exists(100, q)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_levels_are_probabilities(level):
    with pytest.raises(ValueError, match="level ="):
        stats.order_ci(range(10), level)


def test_wider_levels_give_wider_intervals():
    values = np.random.default_rng(0).normal(size=50)
    widths = [stats.order_ci(values, level).high - stats.order_ci(values, level).low for level in (0.5, 0.9, 0.99)]
    assert all(narrow < wide for narrow, wide in pairwise(widths))
