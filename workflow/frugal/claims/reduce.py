"""From the values of single rows to one number a session, and from sessions to a value with an interval."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as sps

from frugal import stats
from frugal.claims.models import Reduction, Test

OPERATORS = {"lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge, "eq": operator.eq}
# Of these the logarithm means nothing: they may be negative, or are shares of a whole.
_LINEAR = ("count", "share", "spearman", "all")
_MOST_SESSIONS = 1000


@dataclass(frozen=True)
class Rows:
    """Selected rows: one line a row, one column a session; `keys` has the columns that reductions read besides.

    `value`, and for pairs `base` and `own`, are NaN where a line has no value in a session. `faults` has the
    rows whose status is not ok; `presets`, `red_controls` and `launch_bound` are what was seen among all of the lines.
    """

    keys: pd.DataFrame
    value: pd.DataFrame
    base: pd.DataFrame | None
    own: pd.DataFrame | None
    faults: pd.DataFrame
    presets: tuple[str, ...]
    red_controls: tuple[int, ...]
    launch_bound: bool

    @classmethod
    def of(cls, lines: pd.DataFrame, keys: pd.DataFrame) -> Rows:
        """From lines with columns line, session, value, base?, own?, status, reason, preset, controls_passed."""
        measured = lines[lines["session"].notna()]

        def by_session(name: str) -> pd.DataFrame | None:
            if name not in measured:
                return None
            wide = measured.pivot(index="line", columns="session", values=name)
            return wide.reindex(keys.index).astype(float)

        value = by_session("value")
        assert value is not None
        red = measured[measured["controls_passed"].eq(False)]
        return cls(
            keys,
            value,
            by_session("base"),
            by_session("own"),
            measured[measured["status"].ne("ok")][["status", "reason"]],
            tuple(sorted(measured["preset"].unique())),
            tuple(int(session) for session in sorted(red["session"].unique())),
            bool(measured["launch_bound"].eq(True).any()),
        )

    @property
    def complete(self) -> list[object]:
        """The sessions in which every line has a value."""
        return [session for session in self.value if len(self.value) and self.value[session].notna().all()]


@dataclass(frozen=True)
class Estimate:
    """A value over sessions with its interval. `sessions` are the sessions' values, as logarithms where `log`."""

    value: float
    low: float | None
    high: float | None
    method: str
    sessions: tuple[float, ...]
    log: bool


def estimate(reduction: Reduction, rows: Rows, deterministic: bool) -> Estimate:
    """The reduced value with a 95 % t interval over the complete sessions, of which there must be at least one.

    The interval is taken on the logarithm where every session's value is above 0 (ratios, times, errors), else on the
    value itself. One session has no interval, unless the value is deterministic: then it is the point. `all` is true
    when it is in every session.
    """
    values = [session_value(reduction, rows, session) for session in rows.complete]
    if reduction.reduce == "all":
        point = min(values)
        return Estimate(point, point, point, "exact", tuple(values), False)
    log = reduction.reduce not in _LINEAR and min(values) > 0
    scaled = tuple(math.log(value) if log else value for value in values)
    back = math.exp if log else float
    found = stats.t_interval(scaled)
    same = max(values) == min(values)
    value = values[0] if same else back(math.fsum(scaled) / len(scaled))
    if found is None:
        point = value if deterministic else None
        return Estimate(value, point, point, "exact" if deterministic else "none", scaled, log)
    if same:
        return Estimate(value, value, value, "exact", scaled, log)
    low, high = back(found.low), back(found.high)
    if reduction.reduce in ("spearman", "share"):  # a correlation and a share end at 1
        low, high = max(low, -1.0 if reduction.reduce == "spearman" else 0.0), min(high, 1.0)
    return Estimate(value, low, high, "t_sessions", scaled, log)


def session_value(reduction: Reduction, rows: Rows, session: object) -> float:
    """The reduced value of one session in which every line has a value.

    ValueError for a mean of logarithms of values that are not above 0.
    """
    x = rows.value[session].to_numpy()
    weight = np.ones(len(x)) if reduction.weight is None else _weights(rows.keys[reduction.weight])
    match reduction.reduce:
        case "only":
            return float(x[0])
        case "geomean":
            if np.any(x <= 0):
                raise ValueError(f"geomean of {x.min():g}: every value must be above 0")
            return float(np.exp(np.average(np.log(x), weights=weight)))
        case "mean_of_ratios_paper":
            return float(np.average(x, weights=weight))
        case "ratio_of_sums":
            assert rows.base is not None
            assert rows.own is not None
            return float(np.dot(weight, rows.base[session]) / np.dot(weight, rows.own[session]))
        case "mean_abs":
            return float(np.abs(x).mean())
        case "median":
            return float(np.median(x))
        case "min":
            return float(x.min())
        case "max":
            return float(x.max())
        case "spearman":
            assert reduction.against is not None
            return _spearman(x, rows.keys[reduction.against])
        case "count":
            return float(_passed(reduction.test, x).sum() if reduction.test and reduction.test.column else len(x))
        case "share":
            return float(_passed(reduction.test, x).mean())
        case "all":
            return float(_passed(reduction.test, x).all())
    raise AssertionError(reduction.reduce)


def centre(values: np.ndarray) -> float:
    """The mean over sessions on the scale of `estimate`; NaN for no value."""
    if not len(values):
        return math.nan
    return float(np.exp(np.mean(np.log(values))) if np.all(values > 0) else np.mean(values))


def sessions_needed(found: Estimate, bound: float) -> int | None:
    """How many sessions with this spread keep the interval off `bound`; None for one session or more than 1000."""
    count = len(found.sessions)
    if count < 2 or (found.log and bound <= 0):
        return None
    distance = abs(float(np.mean(found.sessions)) - (math.log(bound) if found.log else bound))
    spread = float(np.std(found.sessions, ddof=1))
    for n in range(count + 1, _MOST_SESSIONS + 1):
        if stats.t_quantile(0.975, n - 1) * spread / math.sqrt(n) < distance:
            return n
    return None


def _weights(column: pd.Series) -> np.ndarray:
    return pd.to_numeric(column).fillna(1.0).to_numpy(dtype=float)


def _spearman(x: np.ndarray, against: pd.Series) -> float:
    other = pd.to_numeric(against).to_numpy(dtype=float)
    if len(np.unique(x)) < 2 or len(np.unique(other)) < 2:
        raise ValueError(f"spearman needs at least two different values of {against.name}")
    return float(sps.spearmanr(x, other).statistic)


def _passed(test: Test | None, x: np.ndarray) -> np.ndarray:
    return np.ones(len(x), dtype=bool) if test is None else OPERATORS[test.op](x, test.value)
