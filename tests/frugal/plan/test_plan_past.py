"""What is learned from earlier campaigns, from files whose blocks have known lengths."""

from __future__ import annotations

from pathlib import Path

import pytest
from plan_campaigns import session, tables

from frugal import records
from frugal.plan import past
from frugal.plan.past import BUILT_IN
from frugal.provenance.software import REPOSITORY

H200 = REPOSITORY / "results" / "recorded" / "nvidia-h200"
UNKNOWN = {"gpu_name": None}


def test_the_terms_of_a_session(tmp_path: Path):
    # Two cases of two arms with two blocks each: blocks of 0.5 s between 0.1 and 1, of 50 samples. Before each block
    # lie 0.1 s, which are its warm-up, and before the second case 1 s, of which 0.5 are load on a GPU.
    session(tmp_path, elapsed_s=60.0)
    found = past.learn(tables(tmp_path), "cuda", "mine")
    terms = found.terms
    assert terms.fill["graph"] == pytest.approx((0.5 - 0.1) / (1.0 - 0.1), rel=1e-3)
    assert terms.fill["cold"] == BUILT_IN["cuda"].fill["cold"]  # nothing is known of it
    assert terms.samples == 50
    span = 8 * 0.5 + 7 * 0.1 + 1.0 - 0.5 / 50  # to the start of the last sample
    around = span - 8 * (0.5 + 0.1) - 2 * 0.5
    assert terms.arm_s == pytest.approx(max(0.0, around) / 4, abs=1e-6)
    assert terms.start_s == pytest.approx(past.PROCESS_S + 60.0 - span - 2.0, abs=1e-6)  # 2 s of warm-up
    assert (terms.flops, terms.bytes_per_s) == (5e13, 4e12)
    assert found.origin == "mine"
    assert found.sd_session == {}  # one session compares nothing


def test_what_lies_around_cases_is_shared_by_arms(tmp_path: Path):
    for number, around_s in enumerate((3.0, 5.0)):
        session(tmp_path, number=number, cases=11, around_s=around_s, kind="cpu", timing={"block_max_s": 2.0})
    terms = past.learn(tables(tmp_path), "cpu", "mine").terms
    # Of 22 arms in 11 cases, with 10 pauses between them; the first case's own lies before the first sample. The
    # warm-up of the first block is not in the span either, and a sample is missing at its end: less than 2 %.
    assert terms.arm_s == pytest.approx(10 * 4.0 / 22, rel=0.02)
    assert terms.fill["graph"] == pytest.approx((0.5 - 0.1) / (2.0 - 0.1), rel=1e-3)


def test_rotated_buffers_are_a_regime_of_their_own(tmp_path: Path):
    session(tmp_path, l2="rotated", block_s=0.9, per_block=90)
    fill = past.learn(tables(tmp_path), "cuda", "mine").terms.fill
    assert fill["graph_rotated"] == pytest.approx(0.8 / 0.9, rel=1e-3)
    assert fill["graph"] == BUILT_IN["cuda"].fill["graph"]


def test_other_devices_and_controls_teach_nothing(tmp_path: Path):
    session(tmp_path, kind="cpu")
    assert past.learn(tables(tmp_path), "cuda", "mine") is None
    assert past.learn(tables(tmp_path), "cpu", "mine") is not None


def test_what_cannot_be_read_teaches_nothing(tmp_path: Path):
    assert past.learn(tmp_path, "cpu", "mine") is None
    session(tmp_path, kind="cpu")
    tables(tmp_path)
    (tmp_path / "samples.parquet").write_bytes((tmp_path / "samples.parquet").read_bytes()[:100])
    assert past.learn(tmp_path, "cpu", "mine") is None


def test_one_s_own_results_come_first_and_the_recorded_ones_tell_the_noise(tmp_path: Path):
    session(tmp_path)
    found = past.find("cuda", UNKNOWN, tables(tmp_path), [H200])
    assert found.origin == "earlier results"
    assert found.terms.samples == 50
    rows = [row for row in records.read(H200, "comparisons").to_pylist() if row["system"] == "cusnn"]
    spread = [row["sd_session"] for row in rows if row["metric"] == "time" and row["sd_session"] is not None]
    assert found.sd_session["cusnn"] == sorted(spread)
    assert len(spread) > 200


def test_a_recorded_campaign_stands_in_with_the_datasheets_rates(tmp_path: Path):
    found = past.find("cuda", {"gpu_name": "NVIDIA A100-SXM4-80GB"}, tmp_path, [H200])
    assert found.origin == "recorded nvidia-h200"
    assert (found.terms.flops, found.terms.bytes_per_s) == (19.5e12, 2039e9)
    found = past.find("cuda", {"gpu_name": "a GPU that nobody listed"}, tmp_path, [H200])
    assert found.terms.flops == pytest.approx(51.2e12, rel=0.01)  # as the recorded sessions measured


def test_without_any_campaign_the_constants_stand_in(tmp_path: Path):
    found = past.find("cpu", {}, tmp_path, [H200])  # which has no CPU
    assert (found.origin, found.terms, found.sd_session) == ("built in", BUILT_IN["cpu"], {})


def test_the_constants_of_a_gpu_are_those_of_the_recorded_campaign():
    found = past.learn(H200, "cuda", "recorded")
    learned, built_in = found.terms, BUILT_IN["cuda"]
    assert past.BUILT_IN_ARMS["cuda"]["networks"] == pytest.approx(found.arm_s["networks"], rel=0.2)
    assert found.terms_of("networks").arm_s > 10 * found.terms_of("layers").arm_s > 0
    assert built_in.start_s == pytest.approx(learned.start_s, rel=0.5)
    assert built_in.arm_s == pytest.approx(learned.arm_s, abs=0.02)
    assert built_in.fill["graph"] == pytest.approx(learned.fill["graph"], abs=0.02)
    assert built_in.samples == pytest.approx(learned.samples, rel=0.5)
