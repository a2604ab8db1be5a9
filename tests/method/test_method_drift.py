"""A machine that slows down while it measures: palindromes cancel it, and the plain order does not."""

import math
import random

import pytest
from simulated_campaigns import MATMUL, Machine, at_most, draw, verdicts

from frugal import stats
from frugal.timing import palindromes

FEW = 400
QUIET = Machine(0.0, 0.0)


@pytest.mark.parametrize("arms", range(2, 8))
@pytest.mark.parametrize("rounds", [2, 4])
def test_a_linear_drift_of_noiseless_data_cancels_for_every_pair(arms, rounds):
    order = palindromes(range(arms), rounds, random.Random(arms))
    at = [arm for names in order for arm in names]
    logs = {arm: [] for arm in range(arms)}
    for place, arm in enumerate(at):  # 2 % from the first block to the last
        logs[arm].append(math.log(1.02) * place / (len(at) - 1))
    for one in range(arms):
        for other in range(one):
            found = stats.paired_ratio([[math.exp(x) for x in logs[one]]], [[math.exp(x) for x in logs[other]]])
            assert abs(math.log(found.ratio)) < 1e-12


def test_a_campaign_that_drifts_has_its_ratio_to_the_last_digit():
    (row,) = verdicts(draw(1, QUIET, 8, difference=math.log(1.5), drift=0.02, families=1))
    assert math.log(row["ratio"]) == pytest.approx(-math.log(1.5), abs=1e-12)
    assert row["ci_method"] == "exact"
    (wrong,) = verdicts(draw(1, QUIET, 8, difference=math.log(1.5), drift=0.02, order="sequential", families=1))
    assert abs(math.log(wrong["ratio"]) + math.log(1.5)) > 0.01  # guards the simulator: it does drift


def false_alarms(order):
    found = verdicts(draw(2, MATMUL, 8, drift=0.02, order=order, families=FEW))
    return sum(row["p_raw"] < 0.05 for row in found)


def test_equal_arms_on_a_drifting_machine_are_equal_in_palindromes_alone():
    assert false_alarms("palindromes") <= at_most(0.05, FEW)
    assert false_alarms("sequential") == FEW
