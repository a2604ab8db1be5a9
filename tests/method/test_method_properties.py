"""What must not change a result, changes none: the order of samples, the unit of time, which arm is called whose."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_campaigns import Machine, draw, verdicts

from frugal.timing import Arm, Design, rows
from frugal.timing.blocks import measure
from frugal.timing.polls import Polls
from frugal.timing.regimes import Recipe
from frugal.timing.state import Progress, Timing
from tests.frugal.timing.timing_fakes import FakeClock, doubling

SECONDS = st.floats(min_value=1e-7, max_value=10.0)
MACHINES = st.builds(Machine, st.floats(1e-4, 0.1), st.floats(1e-4, 0.1))
OPPOSITE = {"FASTER": "SLOWER", "SLOWER": "FASTER"}
PROPERTIES = settings(deadline=None, max_examples=25)


def a_row(*blocks):
    """The row of an arm whose blocks hold these samples, and the samples with their flags."""
    timing, clock = Timing(m=1), FakeClock()
    for number, values in enumerate(blocks):
        timing.blocks.append(measure(recipe_of(values, clock), Design.of("quick", n_min=len(values)), clock, number, 0))
    progress = Progress(Arm("sparse", "ours", lambda inputs: None), ("wall",), timings={"wall": timing})
    ((row, samples),) = rows.of(doubling(), progress, Design.of("quick"), 0, seeds={"wall": 1}, polls=Polls())
    return dataclasses.asdict(row), sorted((sample.value, sample.flag) for sample in samples)


def recipe_of(values, clock):
    """Gives all its samples at once, after which the block's time is up."""

    def take(count):
        assert count == len(values)
        clock.advance(1e6)
        return list(enumerate(values))

    return Recipe("wall", None, 1, 0.0, take, tuple, ())


@PROPERTIES
@given(st.lists(st.lists(SECONDS, min_size=1, max_size=80), min_size=1, max_size=4), st.randoms())
def test_the_order_of_samples_in_a_block_changes_no_statistic(blocks, rng):
    before, flags = a_row(*blocks)
    after, flags_after = a_row(*[rng.sample(values, len(values)) for values in blocks])
    assert flags_after == flags
    for name, value in before.items():
        # sums in another order differ by a few roundings
        assert after[name] == (pytest.approx(value, rel=1e-12, abs=1e-18) if isinstance(value, float) else value)


@PROPERTIES
@given(st.integers(0, 10**6), MACHINES, st.floats(-0.2, 0.2), st.floats(1e-6, 1e6))
def test_the_unit_of_time_changes_no_ratio_and_no_verdict(seed, machine, difference, unit):
    logs = draw(seed, machine, 4, difference=difference, families=2, cases=3)
    for one, other in zip(verdicts(logs), verdicts(logs + math.log(unit)), strict=True):
        for name in ("ratio", "ratio_low", "ratio_high", "p_raw", "p_holm", "mde", "sd_session", "sd_round"):
            assert other[name] == pytest.approx(one[name], rel=1e-6), name
        assert (other["verdict"], other["reason_code"]) == (one["verdict"], one["reason_code"])


@PROPERTIES
@given(st.integers(0, 10**6), MACHINES, st.floats(-0.2, 0.2))
def test_calling_the_other_arm_ours_inverts_ratio_and_verdict(seed, machine, difference):
    logs = draw(seed, machine, 4, difference=difference, families=2, cases=3)
    for one, other in zip(verdicts(logs), verdicts(logs[..., ::-1]), strict=True):
        assert one["ratio"] * other["ratio"] == pytest.approx(1, rel=1e-12)
        assert one["ratio_low"] * other["ratio_high"] == pytest.approx(1, rel=1e-12)
        assert one["p_holm"] == pytest.approx(other["p_holm"], rel=1e-9)
        assert other["verdict"] == OPPOSITE.get(one["verdict"], one["verdict"])


@PROPERTIES
@given(st.integers(0, 10**6), MACHINES, st.permutations(range(5)))
def test_the_numbering_of_sessions_changes_nothing(seed, machine, order):
    logs = draw(seed, machine, 5, families=2, cases=2)
    for one, other in zip(verdicts(logs), verdicts(logs[:, :, order]), strict=True):
        for name in ("ratio", "ratio_low", "ratio_high", "p_holm"):
            assert other[name] == pytest.approx(one[name], rel=1e-9)


@PROPERTIES
@given(st.integers(0, 10**6), MACHINES, st.integers(1, 4))
def test_a_wider_margin_and_more_cases_in_the_family_never_add_a_claim(seed, machine, doublings):
    logs = draw(seed, machine, 4, difference=0.05, cases=4, families=1)
    claims = {row["case_id"] for row in verdicts(logs) if row["verdict"] in OPPOSITE}
    wider = {row["case_id"] for row in verdicts(logs, margin_kernel=0.02) if row["verdict"] in OPPOSITE}
    assert wider <= claims
    null = draw(seed + 1, machine, 4, cases=4 * doublings, families=1)
    among = verdicts(np.concatenate([logs, null], axis=1))[:4]
    assert {row["case_id"] for row in among if row["verdict"] in OPPOSITE} <= claims
