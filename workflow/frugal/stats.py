"""Intervals, ratios and verdicts (docs/methodology.md, "Statistics and verdicts"). Pure functions; no torch.

The top level of variance is the session, a fresh process: what a library chooses when it starts (an autotuned
algorithm, an allocation) is fixed inside a process and differs between processes. So a block of samples gives its
median, a session the mean of the logarithms of its blocks, and only sessions are drawn at random: intervals are
Student's t over sessions, never over pooled samples.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

ALPHA = 0.05
POWER = 0.80
# Logarithms of equal numbers in another order of summation differ by some 1e-15; no clock resolves 1e-12.
_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class Interval:
    """Bounds in the unit of the data; `method` is order_stat, t_sessions, exact or clopper_pearson."""

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True)
class Ratio:
    """How much better the candidate is than the baseline: 1 is equal, 2 is twice as good (half the time).

    `low` and `high` are None with fewer than two sessions (`method` none), and equal `ratio` where the sessions do not
    differ at all (`method` exact; else t_sessions). `round_low`, `round_high`: the least and greatest ratio of a round.
    `mde` is the relative difference that so many sessions with this spread find with 80 % power; `p_raw` the two-sided
    p of a ratio of 1; `sd_session` and `sd_round` are standard deviations of ln ratios, between sessions' means and,
    pooled, between the rounds of a session (None without a degree of freedom).
    """

    ratio: float | None
    low: float | None
    high: float | None
    method: str
    n_sessions: int
    n_rounds: int
    round_low: float | None = None
    round_high: float | None = None
    mde: float | None = None
    p_raw: float | None = None
    sd_session: float | None = None
    sd_round: float | None = None


@dataclass(frozen=True)
class Cycles:
    """A ratio in clock cycles. `shift` is the mean over pairs of |ln f_baseline - ln f_candidate|."""

    ratio: Ratio
    p_holm: float | None
    shift: float


@dataclass(frozen=True)
class Verdict:
    """`word` is SAME, FASTER, SLOWER, BETTER, WORSE, INCONCLUSIVE or CLOCK_SHIFT, or None where none may be given."""

    word: str | None
    reason_code: str


def order_rank(n: int, level: float = 0.95) -> int:
    """The largest k with P(x_(k) <= median <= x_(n+1-k)) >= level for n samples; 0 when there is none.

    The coverage is 1 - 2 F(k - 1), F the binomial distribution of n fair coins (David and Nagaraja, Order Statistics).
    """
    _check_level(level)
    return _order_rank(n, level)


def order_ci(x: Sequence[float], level: float = 0.95) -> Interval | None:
    """Distribution-free interval of the median between two order statistics; None below 6 samples (at 95 %)."""
    values = np.sort(_finite(x, "order_ci"))
    k = order_rank(len(values), level)
    if k == 0:
        return None
    return Interval(float(values[k - 1]), float(values[len(values) - k]), level, "order_stat")


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Student's t interval of the mean of independent session values; None below 2, the point when none differ."""
    _check_level(level)
    y = _finite(values, "t_interval")
    if len(y) < 2:
        return None
    if np.ptp(y) == 0:
        return Interval(float(y[0]), float(y[0]), level, "exact")
    half = t_quantile(0.5 + level / 2, len(y) - 1) * float(np.std(y, ddof=1)) / math.sqrt(len(y))
    mean = float(np.mean(y))
    return Interval(mean - half, mean + half, level, "t_sessions")


def paired_ratio(
    base: Sequence[Sequence[float]], cand: Sequence[Sequence[float]], higher_is_better: bool = False
) -> Ratio:
    """The ratio of a candidate to a baseline from block values [session][round], with a 95 % t interval over sessions.

    Per round r = ln base - ln cand (the other way round where higher is better), per session the mean over its rounds.
    A session in which one arm has no round is dropped. ValueError for a value that is not greater than 0, and for
    sessions or rounds that do not pair.
    """
    if len(base) != len(cand):
        raise ValueError(f"paired_ratio: base has {len(base)} sessions, cand has {len(cand)}: give the same sessions")
    sessions = [session for session, (b, c) in enumerate(zip(base, cand, strict=True)) if len(b) and len(c)]
    for session in sessions:
        if len(base[session]) != len(cand[session]):
            raise ValueError(
                f"paired_ratio: session {session} has {len(base[session])} rounds of base and {len(cand[session])} of "
                "cand: give pairs"
            )
    logs = _logs(base, sessions, "base") - _logs(cand, sessions, "cand")
    ends = np.cumsum([len(base[session]) for session in sessions])
    return ratio_of_logs(np.split(-logs if higher_is_better else logs, ends[:-1]) if sessions else [])


def ratio_of_logs(logs: Sequence[np.ndarray]) -> Ratio:
    """As `paired_ratio`, from ln ratios [session][round]; every session has at least one round."""
    if not logs:
        return Ratio(None, None, None, "none", 0, 0)
    # All sessions at once: a campaign has thousands of pairs, of a few rounds each.
    rounds = np.concatenate(logs)
    lengths = np.array([len(r) for r in logs])
    means = np.add.reduceat(rounds, np.cumsum(lengths) - lengths) / lengths
    count, n_rounds = len(means), len(rounds)
    mean = float(np.mean(means))
    freedom = n_rounds - count
    within = float(np.sum((rounds - np.repeat(means, lengths)) ** 2))
    known = {
        "n_sessions": count,
        "n_rounds": n_rounds,
        "round_low": math.exp(rounds.min()),
        "round_high": math.exp(rounds.max()),
        "sd_round": math.sqrt(within / freedom) if freedom else None,
    }
    if count < 2:
        return Ratio(math.exp(mean), None, None, "none", **known)
    if np.ptp(means) <= _NO_SPREAD:
        same = abs(mean) <= _NO_SPREAD
        point = 1.0 if same else math.exp(mean)
        return Ratio(point, point, point, "exact", mde=0.0, p_raw=1.0 if same else 0.0, sd_session=0.0, **known)
    sd = float(np.std(means, ddof=1))
    error = sd / math.sqrt(count)
    half = t_quantile(1 - ALPHA / 2, count - 1) * error
    return Ratio(
        math.exp(mean),
        math.exp(mean - half),
        math.exp(mean + half),
        "t_sessions",
        mde=math.expm1((t_quantile(1 - ALPHA / 2, count - 1) + t_quantile(POWER, count - 1)) * error),
        p_raw=2.0 * float(special.stdtr(count - 1, -abs(mean) / error)),
        sd_session=sd,
        **known,
    )


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of the p values of a family (Holm 1979); None stays None and does not count."""
    # statsmodels imports pandas, which whoever only needs an interval should not wait for.
    from statsmodels.stats.multitest import multipletests

    known = [value for value in p if value is not None]
    if not known:
        return [None] * len(p)
    for value in known:
        if not 0 <= value <= 1:
            raise ValueError(f"holm: p = {value}: a p value is between 0 and 1")
    # multipletests ends with gc.collect(): with a campaign in memory 0.1 s a call, for hundreds of families. Frozen
    # objects are not looked at.
    gc.freeze()
    try:
        corrected = iter(multipletests(known, method="holm")[1])
    finally:
        gc.unfreeze()
    return [None if value is None else float(next(corrected)) for value in p]


def verdict(
    ratio: Ratio,
    margin: float,
    p_holm: float | None,
    cycles: Cycles | None = None,
    conditional: bool = False,
    clock_shift_min: float = 0.002,
    words: tuple[str, str] = ("FASTER", "SLOWER"),
) -> Verdict:
    """What may be said of a ratio, first that fits: nothing from one session; SAME when the whole interval is within
    the margin; FASTER or SLOWER when it excludes 1 and p after Holm is below 5 %; INCONCLUSIVE.

    With `cycles`, a FASTER or SLOWER that does not survive in cycle space is CLOCK_SHIFT, where the clocks of the two
    arms differ by more than `clock_shift_min`. `words` are those for a candidate that is better and worse.
    """
    if not margin > 0:
        raise ValueError(f"verdict: margin = {margin}: it must be greater than 0, for example 0.01")
    if conditional or ratio.low is None or ratio.high is None:
        return Verdict(None, "few_sessions")
    said = _judge(ratio, margin, p_holm, words)
    if said.word in words and cycles is not None and cycles.shift > clock_shift_min:
        in_cycles = _judge(cycles.ratio, margin, cycles.p_holm, words)
        if in_cycles.word != said.word:
            return Verdict("CLOCK_SHIFT", "clock_shift")
    return said


def clopper_pearson(k: int, n: int, level: float = 0.95) -> Interval:
    """The exact interval of a proportion from k hits in n (Clopper and Pearson 1934)."""
    _check_level(level)
    from scipy import stats as sps  # a second of every process that wants none of it

    found = sps.binomtest(k, n).proportion_ci(confidence_level=level, method="exact")
    return Interval(float(found.low), float(found.high), level, "clopper_pearson")


def geomean(x: Sequence[float]) -> float:
    """Geometric mean of numbers greater than 0; ValueError for an empty list or another number."""
    if len(x) == 0:
        raise ValueError("geomean: x is empty: give at least one number greater than 0")
    return float(np.exp(np.mean(np.log(_positive(x, "x")))))


def tukey_flags(x: Sequence[float]) -> list[str]:
    """A flag a sample (Tukey 1977): beyond the quartiles by 1.5 interquartile ranges `mild`, by 3 `severe`, or `ok`."""
    values = _finite(x, "tukey_flags")
    if len(values) == 0:
        return []
    q25, q75 = np.quantile(values, [0.25, 0.75])
    beyond = np.maximum(q25 - values, values - q75)
    iqr = q75 - q25
    return np.select([beyond > 3 * iqr, beyond > 1.5 * iqr], ["severe", "mild"], "ok").tolist()


def quantile_exists(n: int, q: float, level: float = 0.95) -> bool:
    """Whether n samples allow a distribution-free upper bound of the quantile q > 0.5: 1 - q^n >= level.

    The greatest sample is such a bound with that probability: p90 needs 29 samples, p95 59, p99 299.
    """
    _check_level(level)
    if not 0.5 < q < 1:
        raise ValueError(f"quantile_exists: q = {q}: it must be between 0.5 and 1, for example 0.95")
    return n > 0 and 1 - q**n >= level


@lru_cache(maxsize=256)
def t_quantile(p: float, freedom: int) -> float:
    """The quantile p of Student's t with `freedom` degrees of freedom."""
    return float(special.stdtrit(freedom, p))


def _judge(ratio: Ratio, margin: float, p_holm: float | None, words: tuple[str, str]) -> Verdict:
    low, high = ratio.low, ratio.high
    if low is None or high is None:
        return Verdict(None, "few_sessions")
    if 1 / (1 + margin) < low and high < 1 + margin:
        return Verdict("SAME", "ci_inside_margin")
    if low <= 1 <= high:
        return Verdict("INCONCLUSIVE", "ci_straddles")
    if p_holm is None or p_holm >= ALPHA:
        return Verdict("INCONCLUSIVE", "holm")
    return Verdict(words[0], "ci_above") if low > 1 else Verdict(words[1], "ci_below")


@lru_cache(maxsize=4096)
def _order_rank(n: int, level: float) -> int:
    below = special.bdtr(np.arange(n // 2), n, 0.5)
    return int(np.count_nonzero(1 - 2 * below >= level))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: it must be between 0 and 1, for example 0.95")


def _finite(x: Sequence[float], name: str) -> np.ndarray:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 1 or not np.all(np.isfinite(values)):
        raise ValueError(f"{name}: give a flat list of finite numbers")
    return values


def _positive(x: Sequence[float], name: str) -> np.ndarray:
    values = np.asarray(x, dtype=np.float64)
    wrong = values[~(np.isfinite(values) & (values > 0))]
    if len(wrong):
        raise ValueError(f"{name} has {wrong[0]}: every value must be finite and greater than 0")
    return values


def _logs(values: Sequence[Sequence[float]], sessions: Sequence[int], name: str) -> np.ndarray:
    """ln of the rounds of these sessions, one after another."""
    flat = np.array([value for session in sessions for value in values[session]], dtype=np.float64)
    if not np.all(np.isfinite(flat) & (flat > 0)):
        for session in sessions:
            _positive(values[session], f"{name}[{session}]")
    return np.log(flat)
