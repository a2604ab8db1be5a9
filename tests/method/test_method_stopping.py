"""A block ends when its interval is narrow. That looks at the data, and may not cost the interval its meaning."""

import numpy as np
import pytest

from frugal import stats
from frugal.timing import Design, blocks
from frugal.timing.regimes import Recipe
from tests.frugal.timing.timing_fakes import FakeClock

N = 6000
MEDIAN_S, SD = 1e-4, 0.02  # some hundred samples for an interval of 0.5 %


def covered(design, seed):
    """How many of N blocks' intervals contain the true median, and how many of the blocks stopped early."""
    rng, clock = np.random.default_rng(seed), FakeClock()
    noise = iter(np.exp(rng.normal(0, SD, 1000 * N)))

    def take(count):
        clock.advance(count * MEDIAN_S)
        return [(0, MEDIAN_S * next(noise)) for _ in range(count)]

    recipe = Recipe("graph", "resident", 1, MEDIAN_S, take, tuple, ())
    hits = early = 0
    for _ in range(N):
        block = blocks.measure(recipe, design, clock, 0, 0)
        interval = stats.order_ci(block.values)
        hits += interval.low <= MEDIAN_S <= interval.high
        early += block.stop_reason == "target"
    return hits, early


@pytest.mark.parametrize("preset", ["quick", "headline"])
def test_stopping_at_a_narrow_interval_keeps_its_coverage(preset):
    # with a shortest time of 0 the interval alone decides when to stop
    hits, early = covered(Design.of(preset, block_min_s=0.0), 5)
    assert early > 0.9 * N
    assert stats.clopper_pearson(hits, N, 0.95).low >= 0.93


def test_looking_at_every_sample_would_not(monkeypatch):
    monkeypatch.setattr(blocks, "CHECK_EVERY", 1)
    hits, _ = covered(Design.of("quick", block_min_s=0.0), 6)
    assert stats.clopper_pearson(hits, N, 0.95).high < 0.93
