"""Polls joined to samples and rows; samples that a slowed-down device took are left out."""

import math
import random
from statistics import median

import numpy as np
import pytest
from timing_fakes import FakeClock, FakeGpu, cpu_arm, doubling, gpu_arm, right

from frugal.energy import POLL, no_polls
from frugal.records import Sample
from frugal.timing import Design, measure_case, rows
from frugal.timing.blocks import Block
from frugal.timing.instruments import Instruments
from frugal.timing.polls import Polls, attach, fill_context, slowed
from frugal.timing.state import Progress, Timing

MS = 1_000_000
SETTLED = 1980e6
DESIGN = Design.of("quick")  # polls every 50 ms


def polls(*given, settled=SETTLED):
    """(time in ms, SM clock in MHz, reasons) each; 40 °C and 300 W, one more at each poll."""
    table = no_polls()
    if given:
        table = np.array(
            [(ms * MS, mhz * 1e6, 3e9, 40 + i, 300 + i, why) for i, (ms, mhz, why) in enumerate(given)], POLL
        )
    return Polls(table, settled)


def every_50_ms(first, last, why=lambda ms: 0, mhz=lambda ms: 1980):
    return polls(*((ms, mhz(ms), why(ms)) for ms in range(first, last + 1, 50)))


def block(*starts_ms, each_ms=10.0, start=None, end=None, number=0):
    samples = [(round(ms * MS), each_ms * 1e-3) for ms in starts_ms]
    start = samples[0][0] if start is None else round(start * MS)
    end = samples[-1][0] + round(each_ms * MS) if end is None else round(end * MS)
    return Block(number, 0, samples, "target", start, end)


def samples_of(made):
    return [
        Sample(round=0, position=0, block=0, index=i, start_ns=start, value=value, flag="ok")
        for i, (start, value) in enumerate(made.samples)
    ]


# ---- to samples ------------------------------------------------------------------------------------------------------


def test_a_poll_goes_to_the_sample_it_fell_into_or_to_the_one_before():
    made = block(100, 110, 130, end=150, start=95)
    own = samples_of(made)
    attach(own, made, polls((90, 1, 0), (96, 1000, 1), (105, 1200, 4), (125, 1500, 0), (149, 1800, 8), (151, 9, 0)))
    # 96 ms is before the first sample and goes to it, 125 ms between the second and the third; 90 and 151 are outside
    assert [sample.sm_hz for sample in own] == [1100e6, 1500e6, 1800e6]
    assert [sample.event_reasons for sample in own] == [5, 0, 8]
    assert [sample.temp_c for sample in own] == [41.5, 43.0, 44.0]
    assert [sample.power_w for sample in own] == [301.5, 303.0, 304.0]


def test_no_poll_counts_twice():
    rng = random.Random(1)
    for _ in range(50):
        starts = sorted(rng.sample(range(1000), 40))
        made = block(*starts, each_ms=0.5)
        own, seen = samples_of(made), every_50_ms(0, 1000)
        attach(own, made, seen)
        inside = [ms for ms in range(0, 1001, 50) if starts[0] <= ms <= starts[-1] + 0.5]
        owners = {max(i for i, start in enumerate(starts) if start <= ms) for ms in inside}
        assert {i for i, sample in enumerate(own) if sample.sm_hz is not None} == owners


def test_what_is_not_told_is_null():
    seen = polls((100, math.nan, -1))
    made = block(100)
    own = samples_of(made)
    attach(own, made, seen)
    assert (own[0].sm_hz, own[0].event_reasons, own[0].temp_c) == (None, None, 40.0)
    assert slowed(made, 1, seen, DESIGN) == [False]
    attach(own, made, polls())
    assert slowed(made, 1, polls(), DESIGN) == [False]


# ---- samples left out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", [0x8, 0x20, 0x40, 0x80, 0x8 | 0x4])
def test_an_emergency_of_the_device_leaves_a_sample_out(why):
    assert slowed(block(100), 1, polls((105, 1980, why)), DESIGN) == [True]


@pytest.mark.parametrize("why", [0x0, 0x1, 0x2, 0x4, 0x10, 0x100])
def test_the_ordinary_management_of_power_does_not(why):
    assert slowed(block(100), 1, polls((105, 1980, why)), DESIGN) == [False]


def test_a_clock_below_three_quarters_of_the_settled_one_leaves_a_sample_out():
    made = block(100)
    assert slowed(made, 1, polls((105, 1484, 0)), DESIGN) == [True]
    assert slowed(made, 1, polls((105, 1486, 0)), DESIGN) == [False]
    assert slowed(made, 1, polls((105, 300, 0), settled=None), DESIGN) == [False]
    assert slowed(made, 1, polls((105, 1484, 0)), Design.of("quick", discard_clock_fraction=0.5)) == [False]


@pytest.mark.parametrize(("why", "out"), [(0x4, False), (0x0, True), (-1, True), (0x4 | 0x8, True)])
def test_a_low_clock_under_the_power_cap_is_the_arms_own(why, out):
    assert slowed(block(100), 1, polls((105, 1410, why)), DESIGN) == [out]


def test_the_nearest_poll_judges_where_none_fell_into_the_sample_and_a_far_one_does_not():
    made = block(100, 120, 140)
    seen = polls((99, 1980, 8), (125, 1980, 0), (131, 1980, 0), (300, 1980, 8))
    assert slowed(made, 1, seen, DESIGN) == [True, False, False]
    assert slowed(block(199), 1, polls((98, 1980, 8)), DESIGN) == [False]  # 101 ms away
    assert slowed(block(197), 1, polls((98, 1980, 8)), DESIGN) == [True]  # 99 ms, two periods at most
    assert slowed(block(98), 1, polls((207, 1980, 8)), DESIGN) == [True]
    assert slowed(block(98), 1, polls((209, 1980, 8)), DESIGN) == [False]


def test_a_sample_of_many_runs_is_as_long_as_they_are():
    made = block(100, each_ms=1.0, end=200)
    seen = polls((99, 1980, 0), (150, 1980, 8))
    assert slowed(made, 1, seen, DESIGN) == [False]
    assert slowed(made, 100, seen, DESIGN) == [True]


def test_one_bad_poll_among_those_of_a_long_sample_is_enough():
    assert slowed(block(100, each_ms=200), 1, every_50_ms(100, 300, lambda ms: 8 * (ms == 150)), DESIGN) == [True]


# ---- rows ------------------------------------------------------------------------------------------------------------


def row_of(blocks, seen, design=DESIGN):
    progress = Progress(cpu_arm(right), ("wall",))
    progress.timings["wall"] = Timing(m=1, blocks=blocks)
    ((row, samples),) = rows.of(doubling(), progress, design, 0, seeds={"wall": 1}, polls=seen)
    return row, samples


def a_second(number, throttled=lambda ms: False):
    """A block of 100 samples, one every 10 ms: of 3 ms, three times as long while throttled."""
    first = 1000 * number
    starts = [first + 10 * i for i in range(100)]
    samples = [(ms * MS, 0.009 if throttled(ms) else 0.003) for ms in starts]
    return Block(number, 0, samples, "target", first * MS, (first + 1000) * MS)


def test_a_row_tells_clocks_and_heat_of_all_its_blocks_alone():
    row, samples = row_of([a_second(0), a_second(2)], every_50_ms(0, 3000, lambda ms: 4, lambda ms: 1000 + ms))
    inside = [*range(0, 1001, 50), *range(2000, 3001, 50)]
    assert row.sm_hz == pytest.approx(np.mean([(1000 + ms) * 1e6 for ms in inside]))
    assert row.mem_hz == 3e9
    assert row.power_w == pytest.approx(np.mean([300 + ms / 50 for ms in inside]))
    assert (row.temp_start_c, row.temp_end_c, row.event_reasons) == (40.0, 100.0, 4)
    assert sum(sample.sm_hz is not None for sample in samples) <= len(inside)


def test_without_polls_a_rows_context_is_null():
    row, samples = row_of([a_second(0)], Polls())
    assert {row.sm_hz, row.mem_hz, row.power_w, row.temp_start_c, row.temp_end_c, row.event_reasons} == {None}
    assert {sample.sm_hz for sample in samples} == {None}
    fill_context(row, [], polls((1, 1, 1)))
    assert row.sm_hz is None


def throttled(share):
    """The first share of each second."""
    return lambda ms: ms % 1000 < 1000 * share


def test_five_per_cent_of_throttled_samples_are_left_out_and_counted():
    slow = throttled(0.05)
    seen = every_50_ms(25, 1975, lambda ms: 0x20 * slow(ms))
    row, samples = row_of([a_second(0, slow), a_second(1, slow)], seen)
    assert (row.status, row.n_samples, row.n_blocks) == ("ok", 190, 2)
    assert row.n_discarded == 10
    assert (row.value, row.max, row.stdev) == (pytest.approx(0.003), 0.003, pytest.approx(0, abs=1e-12))
    assert (row.n_mild, row.n_severe) == (0, 0)
    assert len(samples) == 200
    assert {s.value for s in samples if s.flag == "excluded"} == {0.009}
    assert row.event_reasons == 0x20


def test_twenty_per_cent_make_the_row_unstable_and_keep_its_value():
    slow = throttled(0.2)
    row, _ = row_of([a_second(0, slow), a_second(1, slow)], every_50_ms(25, 1975, lambda ms: 0x20 * slow(ms)))
    assert (row.status, row.n_discarded, row.n_samples) == ("unstable", 40, 160)
    assert row.reason == "slowdown: 40 of 200 samples were taken at a throttled or a low clock"
    assert row.value == pytest.approx(0.003)


def test_a_row_without_a_sample_left_has_no_value():
    row, samples = row_of([a_second(0), a_second(1)], every_50_ms(25, 1975, lambda ms: 0x40))
    assert (row.status, row.value, row.mean, row.n_samples, row.n_blocks) == ("unstable", None, None, 0, 0)
    assert row.n_discarded == 200
    assert {sample.flag for sample in samples} == {"excluded"}
    assert row.sm_hz == SETTLED


def test_a_block_that_is_left_out_whole_leaves_the_others():
    row, _ = row_of([a_second(0), a_second(1)], every_50_ms(25, 1975, lambda ms: 0x40 * (ms < 1000)))
    assert (row.status, row.n_blocks, row.n_samples) == ("unstable", 1, 100)
    assert row.value == pytest.approx(0.003)


def test_fences_are_drawn_around_what_is_kept():
    """Ten excluded samples must not widen the fences that find an outlier among the others."""
    made = a_second(0, throttled(0.05))
    made.samples[50] = (made.samples[50][0], 0.004)
    row, samples = row_of([made], every_50_ms(25, 975, lambda ms: 0x20 * (ms < 50)))
    assert (row.n_severe, samples[50].flag) == (1, "severe")


# ---- a whole case ----------------------------------------------------------------------------------------------------


class Beside:
    """A sampler whose polls are a function of time."""

    def __init__(self, why):
        self.why = why

    def between(self, start, end):
        first = -(-start // (50 * MS)) * 50 * MS
        return np.array([(ns, SETTLED, 3e9, 40, 300, self.why(ns)) for ns in range(first, end + 1, 50 * MS)], POLL)


def test_a_case_is_joined_with_the_polls_of_its_time():
    clock = FakeClock()
    gpu = FakeGpu(clock)
    asked = []
    beside = Beside(lambda ns: asked.append(ns) or 4)
    result = measure_case(
        doubling(), [gpu_arm(gpu, device_s=2e-3, regimes=("graph", "wall"))], DESIGN, 0, gpu, clock,
        beside=Instruments(beside, settled_sm_hz=SETTLED),
    )  # fmt: skip
    assert {row.status for row in result.rows} == {"ok"}
    for row in result.rows:
        assert (row.sm_hz, row.event_reasons, row.n_discarded) == (SETTLED, 4, 0)
        of_block = [s for s in result.samples[row.key] if s.block == 1]
        polled = [s for s in of_block if s.sm_hz is not None]
        length = (of_block[-1].start_ns - of_block[0].start_ns) // (50 * MS)
        assert length <= len(polled) <= length + 2
    assert len(asked) == len(set(asked)), "a case asks for its polls once"


def test_a_hot_device_makes_a_cases_rows_unstable():
    clock = FakeClock()
    gpu = FakeGpu(clock)
    result = measure_case(
        doubling(), [gpu_arm(gpu, device_s=2e-3)], DESIGN, 0, gpu, clock, beside=Instruments(Beside(lambda ns: 0x8))
    )
    assert {(row.status, row.value) for row in result.rows} == {("unstable", None)}
    assert all(row.n_discarded > 0 for row in result.rows)
    assert median(row.n_samples for row in result.rows) == 0
