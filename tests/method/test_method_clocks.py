"""A GPU whose clock nobody may set: what the clock alone makes faster or slower is not called so.

Clocks are read in steps of 15 MHz, some five times in a block, as on the machines that this was written for.
"""

import math

import numpy as np
import pytest
from simulated_campaigns import MATMUL, OURS, at_most, draw, verdicts

FEW = 300
STEP_HZ, TOP_HZ, POLLS = 15e6, 1980e6, 8


def campaign(seed, *, slowed=0.0, difference=0.0, jitter=0.004):
    """Equal work up to `difference`; our arm's blocks run at a clock lower by `slowed`, and take that much longer."""
    logs = draw(seed, MATMUL, 8, difference=difference, families=FEW)
    rng = np.random.default_rng(seed)
    block_hz = TOP_HZ * np.exp(rng.normal(0, 0.0005, logs.shape))
    block_hz[..., OURS] *= 1 - slowed
    logs -= np.log(block_hz / TOP_HZ)
    polled = block_hz[..., None] * np.exp(rng.normal(0, jitter, (*logs.shape, POLLS)))
    return verdicts(logs, hz=np.round(polled / STEP_HZ) * STEP_HZ)


def words(rows):
    found = [row["verdict"] for row in rows]
    return {word: found.count(word) for word in set(found)}


def test_an_arm_that_is_slower_by_its_clock_alone_is_a_clock_shift():
    rows = campaign(1, slowed=0.03)
    found = words(rows)
    # in cycles the arms are equal: excluded by 5 % of the intervals, as any true equality
    assert found.get("SLOWER", 0) + found.get("FASTER", 0) <= at_most(0.05, FEW)
    assert found["CLOCK_SHIFT"] >= 0.9 * FEW
    assert np.mean([row["ratio_cycles"] for row in rows]) == pytest.approx(1, abs=0.001)


def test_an_arm_that_needs_more_cycles_is_slower_at_any_clock():
    assert words(campaign(2, slowed=0.03, difference=math.log(1.05)))["SLOWER"] == FEW


def test_a_gain_in_cycles_that_the_clock_eats_is_not_called_faster():
    # fewer cycles, at a clock lower by as much: the user waits as long as before
    found = words(campaign(3, slowed=0.03, difference=math.log(0.97)))
    assert found.get("FASTER", 0) + found.get("SLOWER", 0) <= at_most(0.05, FEW)


def test_equal_clocks_that_are_read_coarsely_take_no_verdict_away():
    # each poll is off by up to 7.5 MHz (0.4 %); the mean of a block's polls is not
    assert words(campaign(4, difference=math.log(1.02)))["SLOWER"] >= 0.99 * FEW
