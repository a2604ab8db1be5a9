"""What each design can tell, as docs/methodology.md claims it, against textbook theory (noncentral t)."""

import math
from statistics import median

import pytest
from scipy import stats as sps
from simulated_campaigns import (
    AUTOTUNED,
    MATMUL,
    ORDINARY,
    N,
    at_most,
    chance_of_different,
    chance_of_same,
    draw,
    plausible,
    verdicts,
)

from frugal import stats
from frugal.timing import Design

FEW = 500  # campaigns, where the chance is not needed to a per cent


def words(seed, machine, preset, difference=0.0, families=FEW):
    design = Design.of(preset)
    logs = draw(seed, machine, design.sessions, difference=difference, rounds=design.rounds, families=families)
    return [row["verdict"] for row in verdicts(logs, preset=preset)]


@pytest.mark.parametrize(
    ("preset", "margin", "machine", "rate"),
    [
        ("headline", 0.01, MATMUL, 1.00),
        ("headline", 0.01, ORDINARY, 0.93),
        ("headline", 0.01, AUTOTUNED, 0.00),
        ("sweep", 0.01, MATMUL, 1.00),
        ("quick", 0.05, ORDINARY, 1.00),
        ("quick", 0.05, AUTOTUNED, 0.02),
    ],
)
def test_equal_arms_are_called_the_same_as_often_as_theory_says(preset, margin, machine, rate):
    chance = chance_of_same(margin, machine, Design.of(preset).sessions)
    assert chance == pytest.approx(rate, abs=0.01)
    found = words(1, machine, preset)
    assert plausible(found.count("SAME"), chance, FEW)
    assert found.count("FASTER") + found.count("SLOWER") <= at_most(0.05, FEW)


@pytest.mark.parametrize(
    ("preset", "machine", "percent", "rate"),
    [
        ("headline", MATMUL, 2, 1.00),
        ("headline", ORDINARY, 2, 1.00),
        ("headline", AUTOTUNED, 10, 0.92),
        ("quick", ORDINARY, 10, 1.00),
        ("quick", AUTOTUNED, 10, 0.28),
    ],
)
def test_a_true_difference_is_found_as_often_as_theory_says(preset, machine, percent, rate):
    difference = math.log1p(percent / 100)
    chance = chance_of_different(difference, machine, Design.of(preset).sessions)
    assert chance == pytest.approx(rate, abs=0.02)
    assert plausible(words(2, machine, preset, difference).count("SLOWER"), chance, FEW)
    assert plausible(words(3, machine, preset, -difference).count("FASTER"), chance, FEW)


def test_the_headline_design_keeps_its_promise():
    same = words(6, ORDINARY, "headline", families=N).count("SAME")
    slower = words(7, ORDINARY, "headline", math.log(1.02), families=N).count("SLOWER")
    assert stats.clopper_pearson(same, N, 0.95).low >= 0.85
    assert stats.clopper_pearson(slower, N, 0.95).low >= 0.99


@pytest.mark.parametrize(("machine", "percent"), [(MATMUL, 0.3), (ORDINARY, 0.55), (AUTOTUNED, 5.8)])
def test_half_widths_are_those_that_are_promised(machine, percent):
    found = verdicts(draw(8, machine, 8, families=FEW))
    half = median(math.log(row["ratio_high"] / row["ratio_low"]) / 2 for row in found)
    theory = sps.t.ppf(0.975, 7) * machine.error(8) * math.sqrt(sps.chi2.ppf(0.5, 7) / 7)
    # the median of FEW spreads, each of which scatters by 27 %, scatters by 1.5 %: five of those
    assert half == pytest.approx(theory, rel=0.075)
    assert 100 * theory < percent


@pytest.mark.parametrize("machine", [ORDINARY, AUTOTUNED], ids=["ordinary", "autotuned"])
def test_the_least_difference_that_is_stored_is_found_four_times_in_five(machine):
    # mde is estimated with each campaign's own spread: half of the campaigns overstate it, half understate it
    mde = median(row["mde"] for row in verdicts(draw(9, machine, 8, families=FEW)))
    chance = chance_of_different(math.log1p(mde), machine, 8)
    assert chance == pytest.approx(0.80, abs=0.05)


def test_smoke_says_nothing():
    assert set(words(10, MATMUL, "smoke", math.log(2))) == {None}
