"""From an interval to a verdict. Pure functions; docs/claims.md says the rules in words."""

from __future__ import annotations

from dataclasses import dataclass

from frugal.claims.models import Claim
from frugal.claims.reduce import OPERATORS, Estimate, sessions_needed
from frugal.claims.words import SIGNS, interval, number


@dataclass(frozen=True)
class Said:
    """A verdict (frugal.claims.words.VERDICTS) and why, in words."""

    verdict: str
    reason: str


@dataclass(frozen=True)
class Bounds:
    """What counts as reproduced (low to high, each may be None) and the bound of a trend."""

    expected: float
    low: float | None
    high: float | None
    trend: float | None


def bounds(claim: Claim) -> Bounds:
    """The expected value with its bounds. A tolerance is relative to the expected value's size."""
    value = claim.locator.value
    trend = (claim.trend.at_least if claim.trend.at_least is not None else claim.trend.at_most) if claim.trend else None
    if claim.comparator == "trend":
        assert claim.measure.test is not None
        test = claim.measure.test
        low = test.value if test.op in ("gt", "ge", "eq") else None
        high = test.value if test.op in ("lt", "le", "eq") else None
        return Bounds(test.value, low, high, trend)
    assert value is not None
    slack = claim.tolerance * abs(value)
    low = value - slack if claim.comparator in ("at_least", "within", "equals") else None
    high = value + slack if claim.comparator in ("at_most", "within", "equals") else None
    return Bounds(value, low, high, trend)


def judge(claim: Claim, found: Estimate) -> Said:
    """The verdict of a value that may be compared, first that fits: reproduced when the whole interval keeps the
    bounds, trend when it keeps the trend's, not_reproduced when all of it misses them, else not_comparable because it
    is imprecise."""
    said = interval(found.value, found.low, found.high)
    limits = bounds(claim)
    if found.low is None or found.high is None:
        return Said(
            "not_comparable", f"{said}: imprecise: one session has no interval: set timing.sessions to 3 or more"
        )
    if claim.comparator == "trend":
        return _tested(claim, found, said)
    wanted = _wanted(limits)
    if _keeps(found.low, found.high, limits.low, limits.high):
        return Said("reproduced", f"{said} is {wanted}")
    upward = claim.trend is not None and claim.trend.at_least is not None
    if limits.trend is not None and (found.low >= limits.trend if upward else found.high <= limits.trend):
        return Said(
            "trend", f"{said} is not {wanted}, but {'at least' if upward else 'at most'} {number(limits.trend)}"
        )
    if _misses(found.low, found.high, limits.low, limits.high):
        return Said("not_reproduced", f"{said} is not {wanted}")
    return _imprecise(said, found, [bound for bound in (limits.low, limits.high) if bound is not None])


def _tested(claim: Claim, found: Estimate, said: str) -> Said:
    test = claim.measure.test
    assert test is not None
    passed = {OPERATORS[test.op](value, test.value) for value in (found.low, found.high)}
    wanted = f"{SIGNS[test.op]} {number(test.value)}"
    if passed == {True}:
        return Said("reproduced", f"{said} is {wanted}")
    if passed == {False}:
        return Said("not_reproduced", f"{said} is not {wanted}")
    return _imprecise(said, found, [test.value])


def _keeps(low: float, high: float, least: float | None, most: float | None) -> bool:
    return (least is None or low >= least) and (most is None or high <= most)


def _misses(low: float, high: float, least: float | None, most: float | None) -> bool:
    return (least is not None and high < least) or (most is not None and low > most)


def _wanted(limits: Bounds) -> str:
    if limits.low is not None and limits.high is not None:
        if limits.low == limits.high:
            return f"equal to {number(limits.low)}"
        return f"between {number(limits.low)} and {number(limits.high)}"
    return f"at least {number(limits.low)}" if limits.low is not None else f"at most {number(limits.high)}"


def _imprecise(said: str, found: Estimate, wanted: list[float]) -> Said:
    needed = [sessions_needed(found, bound) for bound in wanted]
    known = [n for n in needed if n is not None]
    more = f"about {max(known)} sessions" if len(known) == len(needed) else "more than 1000 sessions"
    return Said(
        "not_comparable", f"{said}: imprecise: needs {more} to tell it from {' and '.join(map(number, wanted))}"
    )
