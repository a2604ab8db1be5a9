"""Two arms of one session, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from frugal import stats
from frugal.records import Sample


def ratio_by_round(baseline: Sequence[Sample], candidate: Sequence[Sample]) -> stats.Ratio:
    """The ratio of one session's samples by the medians of the rounds in which both have some to be used.

    Its `ratio` is None where there is no such round.
    """
    base, cand = _medians(baseline), _medians(candidate)
    both = sorted(base.keys() & cand.keys())
    return stats.paired_ratio([[base[r] for r in both]], [[cand[r] for r in both]])


def _medians(samples: Sequence[Sample]) -> dict[int, float]:
    """round → median of the block's samples, without the excluded ones."""
    blocks: dict[int, list[float]] = {}
    for sample in samples:
        if sample.flag != "excluded":
            blocks.setdefault(sample.round, []).append(sample.value)
    return {number: median(values) for number, values in blocks.items()}
