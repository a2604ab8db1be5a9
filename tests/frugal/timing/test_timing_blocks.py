"""When a block ends."""

import pytest
from timing_fakes import FakeClock

from frugal import stats
from frugal.timing import Design, blocks
from frugal.timing.regimes import Recipe

QUICK = Design.of("quick")  # n_min 10, 0.1 s to 1 s


def a_recipe(clock, seconds, values=None, expected_s=None):
    """Each sample takes `seconds` of the clock and reads the next of `values` (for ever the same without them)."""
    taken, batches = [], []

    def take(count):
        batches.append(count)
        for _ in range(count):
            clock.advance(seconds)
            taken.append((clock.ns(), values[len(taken)] if values else seconds))
        return taken[-count:]

    made = Recipe("wall", None, 1, expected_s or seconds, take, tuple, ())
    return made, batches


def measured(seconds, design=QUICK, **given):
    clock = FakeClock()
    made, batches = a_recipe(clock, seconds, **given)
    return blocks.measure(made, design, clock, 1, 2), batches


def test_constant_samples_stop_at_the_first_check_after_the_shortest_time():
    block, batches = measured(0.01)
    assert (block.stop_reason, len(block.samples), batches) == ("target", 10, [10])
    block, batches = measured(0.003)  # 10 samples are 0.03 s; 0.1 s are reached at 34, the next check is at 40
    assert (block.stop_reason, len(block.samples), batches) == ("target", 40, [10, 10, 10, 10])


def test_it_looks_every_ten_samples_from_n_min_on():
    # 30 wide samples, then narrow ones: the interval is narrow at a count that is no check (found below), and the block
    # must go on to the next check
    wide = [1e-3 * (1 + 0.2 * (i % 2)) for i in range(30)]
    values = wide + [1e-3] * 970
    design = Design.of("quick", block_min_s=0)
    block, _ = measured(1e-4, design, values=values)
    n = len(block.samples)
    assert block.stop_reason == "target"
    assert n % 10 == 0
    narrow = [k for k in range(10, 1000) if _half_width(values[:k]) <= 0.005]
    assert n == next(k for k in narrow if k % 10 == 0)


def _half_width(values):
    interval = stats.order_ci(values)
    return (interval.high - interval.low) / 2 / sorted(values)[len(values) // 2]


def test_noise_ends_at_a_thousand_samples_or_at_the_longest_time():
    noisy = [1e-3 * (1 + 0.5 * (i % 2)) for i in range(2000)]
    block, batches = measured(1e-4, values=noisy)
    assert (block.stop_reason, len(block.samples)) == ("max_samples", 1000)
    assert max(batches) <= 100
    block, _ = measured(0.01, values=noisy)
    assert (block.stop_reason, len(block.samples)) == ("max_time", 100)


def test_a_slow_arm_gets_three_samples():
    block, batches = measured(5.0)
    assert (block.stop_reason, len(block.samples), batches) == ("max_time", 3, [1, 1, 1])


def test_a_very_slow_arm_gets_what_the_case_timeout_allows():
    block, _ = measured(150.0)
    assert (block.stop_reason, len(block.samples)) == ("max_time", 1)


def test_a_batch_is_no_longer_than_the_time_that_is_left():
    _, batches = measured(0.3, expected_s=1e-6)  # expected to be quick, found to be slow
    assert batches[0] == 10  # nothing was known better
    _, batches = measured(0.3)
    assert batches == [3, 1]


def test_the_interval_needs_six_samples():
    assert blocks.stop_reason([1.0] * 5, 0.2, Design.of("quick", n_min=5)) is None
    assert blocks.stop_reason([1.0] * 6, 0.2, Design.of("quick", n_min=6)) == "target"


@pytest.mark.parametrize(
    ("preset", "seconds", "expected"),
    [("smoke", 0.001, 1), ("quick", 0.001, 100), ("quick", 0.06, 3), ("quick", 2.0, 1)],
)
def test_warm_up_before_a_block(preset, seconds, expected):
    clock = FakeClock()
    made, batches = a_recipe(clock, seconds)
    blocks.warm(made, Design.of(preset), clock)
    assert sum(batches) == expected


def test_a_block_knows_its_place():
    block, _ = measured(0.01)
    assert (block.round, block.position) == (1, 2)
