"""The arithmetic of a plan, computed once more by hand."""

from __future__ import annotations

import pytest

from frugal.plan import minutes
from frugal.plan.minutes import Span, Terms
from frugal.plan.work import Case
from frugal.timing.design import Design

TERMS = Terms(
    start_s=10.0, arm_s=0.1, fill={"graph": 0.0, "cold": 0.5, "wall": 1.0}, side_job_s=1.0, flops=1e12,
    bytes_per_s=1e12, samples=50.0,
)  # fmt: skip
QUICK = Design.of("quick")  # 2 rounds, blocks of 0.1 to 1 s and 10 samples at least, 0.1 s of warm-up each
TINY = {"flop": 0.0, "bytes": 0.0, "memory_bytes": 0.0}


def test_the_constants_are_those_of_the_timing_code():
    from frugal.timing import blocks, devices, regimes

    assert minutes.SAMPLES_MAX == blocks.SAMPLES_MAX
    assert minutes.SAMPLES_SLOW == blocks.SAMPLES_SLOW
    assert minutes.RUNS_LAST_S == regimes.SAMPLE_S
    assert minutes.FLUSH_BYTES == devices.FLUSH_BYTES_MIN


@pytest.mark.parametrize(
    ("sample_s", "shortest", "longest"),
    [
        (1e-3, 0.1, 1.0),  # 0.1 s at least
        (0.05, 0.5, 1.0),  # ten samples at least
        (0.2, 1.0, 1.0),  # as many of the ten as fit
        (2.0, 6.0, 6.0),  # three of a slow one
        (5e-5, 0.05, 0.05),  # a thousand samples end a block
    ],
)
def test_the_shortest_and_the_longest_block(sample_s: float, shortest: float, longest: float):
    assert minutes.shortest_s(sample_s, QUICK) == pytest.approx(shortest)
    assert minutes.longest_s(sample_s, QUICK) == pytest.approx(longest)


def test_a_block_ends_where_earlier_ones_did():
    case = Case(arms=(), **TINY)
    assert minutes.block(case, "graph", QUICK, "cuda", TERMS) == Span(
        pytest.approx(0.2), pytest.approx(0.2), pytest.approx(0.1 + 0.1 + 0.1 * 0.9)
    )
    heavy = Case(arms=(), flop=1e12 * 0.2 * 0.02, bytes=0.0, memory_bytes=0.0)  # 20 ms at a fifth of the roofline
    cold = minutes.block(heavy, "cold", QUICK, "cuda", TERMS)
    sample_s = 0.02 + (64 << 20) / 1e12 + 50e-6
    expected = 0.1 + (10 * sample_s + 1.0) / 2  # warm-up, and half-way between the shortest and the longest
    assert cold.expected == pytest.approx(expected)
    assert cold.low < cold.expected < cold.high <= 0.1 + 1.0


def test_a_slow_arm_takes_three_samples_and_its_warm_up_one():
    slow = Case(arms=(), flop=0.0, bytes=0.2 * 4.0 * 1e12, memory_bytes=0.0)  # 4 s
    assert minutes.block(slow, "wall", QUICK, "cpu", TERMS).expected == pytest.approx(4 * (4.0 + 5e-6))


def test_a_case_is_what_stands_around_it_and_its_blocks():
    case = Case(arms=(("graph",), ("graph", "cold")), **TINY)
    cold = minutes.block(case, "cold", QUICK, "cuda", TERMS)
    total = minutes.case_seconds(case, QUICK, "cuda", TERMS)
    assert total.expected == pytest.approx(2 * 0.1 + 0.5 + 2 * (0.2 + 0.2 + cold.expected))  # load_s is 0.5 on a GPU
    on_cpu = minutes.case_seconds(case, QUICK, "cpu", TERMS)
    assert on_cpu.expected < total.expected
    assert total.low < total.expected < total.high


def test_arithmetic_makes_the_references_dearer():
    light, heavy = (
        minutes.case_seconds(Case(arms=((),), flop=f, bytes=0.0, memory_bytes=0.0), QUICK, "cpu", TERMS)
        for f in (0.0, 1e12)
    )
    assert heavy.expected - light.expected == pytest.approx(60.0)  # sixty times one second of roofline


@pytest.mark.parametrize(
    ("preset", "given", "kind", "seconds"),
    [
        ("quick", {}, "cuda", 2 * 2 * (1 + 5 + 8)),
        ("quick", {"energy_span_s": 10.0}, "cuda", 2 * 2 * (1 + 10 + 8)),
        ("smoke", {}, "cuda", 0),
        ("smoke", {"energy": True}, "cuda", 2 * 2 * (1 + 5 + 8)),
        ("quick", {"energy": False}, "cuda", 0),
        ("quick", {}, "cpu", 0),
    ],
)
def test_energy_takes_rounds_of_its_own(preset: str, given: dict, kind: str, seconds: float):
    case = Case(arms=(), energy=2, **TINY)
    assert minutes.energy_seconds(case, Design.of(preset, **given), kind) == seconds


def test_a_session_is_its_start_warm_up_rest_cases_and_controls():
    case = Case(arms=(("graph",),), **TINY)
    one = minutes.case_seconds(case, QUICK, "cuda", TERMS).expected
    design = Design.of("quick", cooldown_s=3.0)
    total = minutes.session_seconds([case] * 4, [case], design, "cuda", TERMS)
    assert total.expected == pytest.approx(10.0 + 2.0 + 3.0 + 5 * one)
    hungry = Case(arms=(("graph",),), energy=1, **TINY)
    more = minutes.session_seconds([*[case] * 3, hungry], [case], design, "cuda", TERMS)
    assert more.expected - total.expected == pytest.approx(10.0 + 2 * 14.0)  # idle once, two rounds of energy


def test_spans_add_and_scale():
    assert (Span(1, 2, 3) + Span(1, 1, 1)) * 2 == Span(4, 6, 8)
