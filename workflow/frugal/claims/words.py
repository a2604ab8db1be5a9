"""The words of a claim: what may stand in claims.yaml, what a verdict is called, and how a person reads it."""

from __future__ import annotations

from typing import Literal, get_args

Origin = Literal["paper", "artifact", "ours"]
TableName = Literal["comparisons", "measurements"]
Reduce = Literal[
    "only", "geomean", "ratio_of_sums", "mean_of_ratios_paper", "median", "min", "max", "count", "share", "spearman",
    "all", "mean_abs",
]  # fmt: skip
Comparator = Literal["at_least", "at_most", "within", "equals", "trend"]
Operator = Literal["lt", "le", "gt", "ge", "eq"]
Preset = Literal["smoke", "quick", "sweep", "headline"]
DeviceKind = Literal["cuda", "cpu"]
Verdict = Literal["reproduced", "trend", "not_reproduced", "not_run", "not_comparable"]

SYSTEMS = ("sft", "cusnn", "folded", "dtr", "syno")  # those whose papers claim something
PRESETS: tuple[str, ...] = get_args(Preset)  # in the order of how much they measure
VERDICTS: tuple[str, ...] = get_args(Verdict)
SIGNS = {"lt": "<", "le": "≤", "gt": ">", "ge": "≥", "eq": "="}

_OF_GOALS = {"reproduced": "met", "trend": "partly met", "not_reproduced": "not met"}


def said(verdict: str, origin: str) -> str:
    """A verdict as a person reads it. Goals of ours are met or not: they reproduce nothing."""
    word = _OF_GOALS.get(verdict, verdict) if origin == "ours" else verdict
    return word.replace("_", " ")


def number(value: float | None, digits: int = 3) -> str:
    """A value with the digits that are read: 5.59, 4.1e-07, 20,480; an em dash for none."""
    return "—" if value is None else f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


def interval(measured: float | None, low: float | None, high: float | None) -> str:
    """`5.59 [5.31, 5.88]`; the bounds are left out where there are none or where they are the value itself."""
    if measured is None or low is None or high is None or low == high:
        return number(measured)
    return f"{number(measured)} [{number(low)}, {number(high)}]"
