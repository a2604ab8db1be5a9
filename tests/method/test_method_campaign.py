"""A null campaign and a planted difference through every step: arms, rounds, blocks, rows, files, tables, verdicts.

The machine is a clock that moves when an arm runs, by a time that is drawn as in simulated_campaigns.
"""

import random

import numpy as np
import pytest
import torch
from simulated_campaigns import MATMUL, at_most

from frugal import records
from frugal.aggregate import aggregate
from frugal.compare import compare
from frugal.timing import Arm, Case, CpuDevice, Design, Prepared, Reference, run_session
from tests.frugal.record_rows import a_run
from tests.frugal.timing.timing_fakes import FakeClock

NULL, SLOWED = 40, 8  # cases in which our arm is the baseline's equal, and in which it takes 2 % longer
PLANTED = 1.02
DESIGN = Design.of("headline", block_min_s=0.0, warmup_cpu_s=0.0, block_warmup_s=0.0, regimes=["wall"], n_min=10)


def doubling(number):
    def inputs(seed, phase):
        return {"x": torch.randn(4, generator=torch.Generator().manual_seed(seed))}

    def reference(given):
        y = 2 * given["x"].double()
        return Reference(y, y.abs(), 1)

    experiment = "null" if number < NULL else "planted"
    return Case("cusnn", experiment, {"number": number}, inputs, reference, layer=f"conv{number}")


def arm(name, role, seconds, clock, rng):
    """Takes `seconds` as this process sees it, and half a per cent of noise a run."""
    here = seconds * np.exp(rng.gauss(0, MATMUL.process))

    def prepare(inputs):
        y = torch.empty_like(inputs["x"])

        def run():
            torch.mul(inputs["x"], 2, out=y)
            clock.advance(here * np.exp(rng.gauss(0, 0.005)))

        return Prepared(run, (y,))

    return Arm(name, role, prepare, regimes=("wall",), source_hash="abc")


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    rng, clock, jobs = random.Random(1), FakeClock(), []
    for session in range(DESIGN.sessions):
        cases = [
            (
                doubling(number),
                [
                    arm("base", "baseline", 1e-3, clock, rng),
                    arm("ours", "ours", 1e-3 * (1 if number < NULL else PLANTED), clock, rng),
                ],
            )
            for number in range(NULL + SLOWED)
        ]
        run = a_run(run_id=f"01R{session}", session=session, device_kind="cpu", device_key="cpu-some-2c")
        jobs.append(folder / f"session-{session}.parquet")
        run_session(
            cases, DESIGN, session, CpuDevice(), run, jobs[-1], clock, journal=False, on_progress=lambda line: None
        )
    aggregate(jobs, folder)
    tables = [records.read(folder / f"{name}.parquet", name) for name in ("measurements", "samples", "runs")]
    return compare(*tables).to_pylist()


def of(comparisons, experiment):
    return [row for row in comparisons if row["experiment"] == experiment]


def test_a_null_campaign_of_forty_cases_claims_nothing(comparisons):
    rows = of(comparisons, "null")
    assert len(rows) == NULL
    # Holm's promise is at most one campaign in twenty with a false claim; this seed is one of the nineteen
    assert {row["verdict"] for row in rows} <= {"SAME", "INCONCLUSIVE"}
    assert sum(row["p_raw"] < 0.05 for row in rows) <= at_most(0.05, NULL)
    assert sum(row["verdict"] == "SAME" for row in rows) >= 0.9 * NULL


def test_planted_two_percent_are_found_in_every_case(comparisons):
    rows = of(comparisons, "planted")
    assert len(rows) == SLOWED
    assert {row["verdict"] for row in rows} == {"SLOWER"}
    assert sum(not row["ratio_low"] <= 1 / PLANTED <= row["ratio_high"] for row in rows) <= at_most(0.05, SLOWED)
    assert np.median([row["ratio"] for row in rows]) == pytest.approx(1 / PLANTED, abs=0.001)
