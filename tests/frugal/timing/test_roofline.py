"""The roofline's columns, and times that no machine of this kind can reach."""

from __future__ import annotations

import pytest

from frugal import hardware
from frugal.timing import roofline
from tests.frugal.record_rows import a_row, a_run

H200 = hardware.lookup("NVIDIA H200")
L2 = 60 * 2**20
RUN = {
    "gpu_name": "NVIDIA H200", "l2_bytes": L2, "sm_hz_max": H200.boost_hz, "copy_bytes_per_s": 4e12,
    "flops_fp32": 50e12, "flops_tf32": 370e12, "flops_fp16": 700e12,
}  # fmt: skip


def filled(*rows, **run):
    """The rows with their roofline, and the keys of those that lost their value."""
    beyond = roofline.fill(rows, a_run(**RUN | run))
    return (*rows, beyond)


def cold(**given):
    return a_row(**{"regime": "cold", "l2": None, "value": 1e-3, "dtype": "float32", "tf32": False} | given)


def test_the_longer_of_the_two_terms_is_the_roof():
    memory, compute, _ = filled(cold(case_id="a", bytes_min=2e9, flop=5e9), cold(case_id="b", bytes_min=1e8, flop=25e9))
    # 2 GB at 4 TB/s are 0.5 ms, 25 GFLOP at 50 TFLOP/s too
    assert (memory.roofline_s, memory.roof) == (pytest.approx(5e-4, rel=1e-12), "memory")
    assert (compute.roofline_s, compute.roof) == (pytest.approx(5e-4, rel=1e-12), "compute")
    assert memory.roofline_fraction == compute.roofline_fraction == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("regime", "l2", "reason", "roof"),
    [
        ("cold", None, None, "memory"),
        ("graph", "rotated", None, "memory"),
        ("graph", "rotated", "rotated_short: 64 sets hold 1 MB", "compute"),
        ("graph", "resident", None, "compute"),
        ("hot", None, None, "compute"),
        ("wall", None, None, "compute"),
    ],
)
def test_memory_is_a_roof_only_where_data_come_from_memory(regime, l2, reason, roof):
    row, _ = filled(cold(regime=regime, l2=l2, reason=reason, bytes_min=2e9, flop=5e9))
    assert row.roof == roof
    assert row.roofline_s == pytest.approx(5e-4 if roof == "memory" else 1e-4, rel=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tf32", "peak"),
    [
        ("float32", False, 50e12),
        ("float32", None, 50e12),
        ("float32", True, 370e12),
        ("float16", False, 700e12),
        ("bfloat16", False, 700e12),
    ],
)
def test_the_peak_is_that_of_the_arms_precision(dtype, tf32, peak):
    row, _ = filled(cold(dtype=dtype, tf32=tf32, bytes_min=0.0, flop=10e9))
    assert row.roofline_s == pytest.approx(10e9 / peak, rel=1e-12)


@pytest.mark.parametrize(
    "given",
    [
        {"bytes_min": None, "flop": 1e9},
        {"bytes_min": 1e6, "flop": None},
        {"bytes_min": 1e6, "flop": 1e9, "dtype": "float64"},
        {"bytes_min": 0.0, "flop": 0.0},
        {"bytes_min": 1e6, "flop": 1e9, "value": None, "status": "oom"},
        {"bytes_min": 1e6, "flop": 1e9, "metric": "energy_gross", "regime": "graph", "l2": "resident"},
    ],
    ids=str,
)
def test_without_work_or_ceiling_there_is_no_roofline(given):
    row, beyond = filled(cold(**given))
    assert (row.roofline_s, row.roofline_fraction, row.roof, beyond) == (None, None, None, [])


def test_a_ceiling_that_was_not_measured_leaves_none():
    row, _ = filled(cold(bytes_min=1e6, flop=1e9), copy_bytes_per_s=None)
    assert row.roofline_s is None


def test_a_copy_has_bytes_alone():
    row, _ = filled(cold(dtype="int32", tf32=None, bytes_min=2e9, flop=0.0))
    assert (row.roof, row.roofline_s) == ("memory", pytest.approx(5e-4, rel=1e-12))


@pytest.mark.parametrize(("share", "possible"), [(1.04, True), (1.06, False)])
def test_a_time_beyond_the_datasheets_peak_is_no_time(share, possible):
    least = 1e9 / H200.flops_fp32
    row, beyond = filled(cold(bytes_min=0.0, flop=1e9, value=least / share, mean=1.0, n_samples=60))
    if possible:
        assert (row.status, beyond) == ("ok", [])
        assert "of the measured compute roof" in row.reason
    else:
        assert (row.status, row.value, row.mean, row.roofline_fraction) == ("incorrect", None, None, None)
        assert row.reason.startswith("beyond_roof: 1.06 of the datasheet's compute roof")
        assert beyond == [row.key]


def test_a_clock_above_the_datasheets_raises_its_peak():
    least = 1e9 / H200.flops_fp32
    row, beyond = filled(cold(bytes_min=0.0, flop=1e9, value=least / 1.2), sm_hz_max=1.2 * H200.boost_hz)
    assert (row.status, beyond) == ("ok", [])


@pytest.mark.parametrize(("share", "possible"), [(1.04, True), (1.06, False)])
def test_what_a_cache_may_keep_back_is_not_held_against_a_time(share, possible):
    moved = 2e9
    least = (moved - L2) / H200.bytes_per_s
    row, _ = filled(cold(bytes_min=moved, flop=0.0, value=least / share))
    assert (row.status == "ok") == possible
    inside, _ = filled(cold(bytes_min=float(L2), flop=0.0, value=1e-9))  # a row of bytes that fit the cache
    assert inside.status == "ok"


def test_a_librarys_convolution_may_need_fewer_multiplications():
    least = 1e9 / H200.flops_fp32
    given = {"bytes_min": 0.0, "flop": 1e9, "value": least / 2}
    winograd, product, beyond = filled(
        cold(arm="cudnn_fp32", role="baseline", r=3, **given), cold(arm="matmul", role="baseline", r=None, **given)
    )
    assert (winograd.status, product.status) == ("ok", "incorrect")
    assert "a fast algorithm needs fewer multiplications" in winograd.reason
    assert beyond == [product.key]


def test_without_a_datasheet_nothing_is_beyond_it():
    row, beyond = filled(cold(bytes_min=0.0, flop=1e9, value=1e-9), gpu_name="NVIDIA Unlisted 1")
    assert (row.status, beyond) == ("ok", [])


def dense(value, arm="dense_twin", role="ours", **given):
    return cold(**{"arm": arm, "role": role, "value": value, "flop": 1e9, "flop_dense_equiv": 1e9, "bytes_min": 1e6}
                | given)  # fmt: skip


@pytest.mark.parametrize(("seconds", "flagged"), [(0.92e-3, False), (0.90e-3, True)])
def test_a_dense_arm_far_ahead_of_the_library_is_for_review(seconds, flagged):
    ours, *_ = filled(
        dense(seconds),
        dense(1.5e-3, "cudnn_slow", "baseline"),
        dense(1e-3, "cudnn_fp32", "baseline"),
        dense(1e-4, "cudnn_tf32", "baseline", tf32=True),
        dense(1e-4, "cudnn_fp32", "baseline", regime="wall"),
    )
    assert (ours.reason or "").startswith("review: 1.11 times as fast as cudnn_fp32") == flagged
    assert ours.status == "ok"


def test_an_arm_that_leaves_out_work_may_be_far_ahead():
    ours, *_ = filled(dense(1e-4, "sparse", flop=3e8), dense(1e-3, "cudnn_fp32", "baseline"))
    assert ours.reason is None
