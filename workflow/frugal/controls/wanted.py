"""What each control must show: how much work is planted, and which ratios pass.

A ratio is that of frugal.compare: the baseline's time over ours, so that planted work of ours gives one below 1. One
session's ratio of a kernel repeats to some tenths of a per cent on a GPU, and on a shared CPU block medians move by
factors (docs/methodology.md); the bounds are that much apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Window:
    """The least and the greatest ratio that pass."""

    low: float
    high: float

    def __contains__(self, ratio: float) -> bool:
        return self.low <= ratio <= self.high


def work(preset: str, kind: str) -> Fraction:
    """Our arm's work over the baseline's in the planted controls; kind is that of the device, `cuda` or `cpu`.

    2 % more is what the method must find with the sessions of `sweep` and `headline`; `quick` judges by 5 % and gets
    20 %, and so does any CPU; `smoke` gets twice the work.
    """
    if preset == "smoke":
        return Fraction(2)
    return Fraction(51, 50) if kind == "cuda" and preset != "quick" else Fraction(6, 5)


def planted(name: str, preset: str, kind: str) -> Window:
    """The ratios that a planted control (`planted` or `planted_copy`) may have in one session.

    The loop repeats to a hundredth of a per cent on an H200; one session's cold copies scatter by half a per cent and
    have a start of their own, so that theirs is 1.5 % wide, which still tells 2 % more from equal.
    """
    planned = work(preset, kind)
    if planned == 2:
        return Window(1 / 3, 1 / 1.4)
    fine = 0.005 if name == "planted" else 0.015
    slack = fine if planned == Fraction(51, 50) else 0.1
    return Window((1 - slack) / float(planned), (1 + slack) / float(planned))


def null(preset: str, kind: str) -> Window:
    """The ratios that two equal arms may have in one session."""
    return Window(1 / 2, 2) if preset == "smoke" or kind == "cpu" else Window(1 / 1.05, 1.05)


def may_be_red(preset: str, kind: str) -> bool:
    """Whether a null or planted control out of its window fails the session; on a CPU `smoke` only warns."""
    return not (preset == "smoke" and kind == "cpu")


WRONG = ("one_percent_off", "one_unwritten", "cached")
"""The arms of the wrong control, each of which must be called incorrect."""

COPY = Window(0.7, 1.0)
"""A copy's share of the datasheet's bandwidth."""
