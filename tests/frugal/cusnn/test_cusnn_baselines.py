"""cuDNN's and oneDNN's arms: right answers where they run here, and flags that are stated and put back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from measured_layers import layer_case, layer_inputs, measured

from frugal.cusnn import baselines
from frugal.cusnn.baselines import CUDNN, OFFERED, flags
from frugal.provenance import source_hash

BYTES, FLOP = 1200.0, 7.0


def arm(name: str, pad: int = 1):
    return baselines.arm(name, pad, flop=FLOP, bytes_min=BYTES)


# ---- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFERED["cpu"])
def test_a_baseline_of_the_cpu_is_right_before_and_after_it_is_timed(name: str):
    made = arm(name)
    rows = measured(made, regimes=("cold", "wall"))
    assert set(rows) == {(name, "cold"), (name, "wall")}
    for row in rows.values():
        assert row.status in ("ok", "unstable"), row.reason  # a busy machine may spread a block's samples
        assert (row.verified_before, row.verified_after, row.tolerance_rule) == (True, True, "a_priori_x4")
        assert row.value > 0
        assert (row.role, row.dtype, row.flop, row.bytes_min) == ("baseline", "float32", FLOP, BYTES)
        assert row.source_hash == source_hash("frugal.cusnn.baselines")


@pytest.mark.parametrize("name", [*OFFERED["cpu"], "cudnn_fp32", "cudnn_fp32_cl"])
def test_a_float32_arm_computes_the_convolution(name: str):
    inputs = layer_inputs()
    expected = layer_case().reference(inputs)
    with arm(name).context():
        got = arm(name).prepare(inputs).run()
    # γ_K of 45 products in float32 is 2.7e-6; Winograd is no plain sum and gets four times as much
    assert ((got.double() - expected.y).abs() <= 4 * 2.7e-6 * expected.s + 2**-24 * expected.y.abs()).all()


def test_the_float16_arm_takes_rounded_operands_and_gives_float16():
    inputs = layer_inputs()
    got = arm("cudnn_fp16_cl").prepare(inputs).run()
    expected = layer_case().reference({name: value.half().float() for name, value in inputs.items()})
    assert got.dtype == torch.float16
    # half a spacing of the output, and float32 sums of 45 products at the worst in float16 (45 · 2⁻¹¹)
    assert ((got.double() - expected.y).abs() <= 45 * 2**-11 * expected.s + 2**-11 * expected.y.abs()).all()


@pytest.mark.parametrize("name", [*CUDNN, *baselines.ONEDNN])
def test_operands_lie_in_memory_as_the_layout_says(name: str):
    made = arm(name)
    prepared = made.prepare(layer_inputs())
    order = torch.channels_last if made.layout == "nhwc" else torch.contiguous_format
    for tensor in (*prepared.keep, prepared.run()):
        assert tensor.is_contiguous(memory_format=order)
        assert str(tensor.dtype) == f"torch.{made.dtype}"


def test_the_matrix_product_pads_as_the_convolution_does():
    inputs = {"x": torch.randn(2, 3, 4, 6), "w": torch.randn(5, 3, 1, 1)}
    expected = torch.nn.functional.conv2d(inputs["x"], inputs["w"])
    torch.testing.assert_close(arm("gemm_fp32", pad=0).prepare(inputs).run(), expected)


def test_inputs_are_left_as_they_were():
    inputs = layer_inputs()
    before = {name: value.clone() for name, value in inputs.items()}
    for name in (*CUDNN, *OFFERED["cpu"]):
        arm(name).prepare(inputs).run()
    assert all(torch.equal(inputs[name], before[name]) for name in before)


# ---- what is stated --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "tf32", "layout", "bytes_min"),
    [
        ("cudnn_fp32", "float32", False, "nchw", 1200),
        ("cudnn_fp32_cl", "float32", False, "nhwc", 1200),
        ("cudnn_tf32", "float32", True, "nchw", 1200),
        ("cudnn_tf32_cl", "float32", True, "nhwc", 1200),
        ("cudnn_fp16_cl", "float16", False, "nhwc", 600),  # half as many bytes a value
        ("gemm_fp32", "float32", False, "nchw", 1200),
    ],
)
def test_arms_of_a_gpu_say_what_they_are(name: str, dtype: str, tf32: bool, layout: str, bytes_min: float):
    made = arm(name)
    assert name in OFFERED["cuda"]
    assert (made.name, made.role, made.dtype, made.tf32, made.layout) == (name, "baseline", dtype, tf32, layout)
    assert (made.bytes_min, made.flop) == (bytes_min, FLOP)
    assert made.regimes == ("cold", "graph", "graph_rotated", "wall")
    with made.context():
        assert switches()[:3] == (tf32, tf32, True)


@pytest.mark.parametrize(("name", "layout"), [("onednn_fp32", "nchw"), ("onednn_fp32_cl", "nhwc")])
def test_arms_of_a_cpu_say_what_they_are(name: str, layout: str):
    made = arm(name)
    assert name in OFFERED["cpu"]
    assert (made.role, made.dtype, made.tf32, made.layout) == ("baseline", "float32", None, layout)
    assert (made.bytes_min, made.flop, made.regimes) == (1200, FLOP, ("cold", "wall"))


# ---- flags -----------------------------------------------------------------------------------------------------------


def switches() -> tuple:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.benchmark_limit


def switch(values: tuple) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.benchmark_limit = values


@pytest.fixture
def kept() -> Iterator[None]:
    before = switches()
    yield
    switch(before)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("before", [(True, False, False, 7), (False, True, True, 3), (True, True, False, 0)])
@pytest.mark.parametrize("tf32", [True, False])
def test_all_four_switches_are_put_back_also_after_an_exception(before: tuple, tf32: bool):
    switch(before)
    with flags(tf32):
        assert switches() == (tf32, tf32, True, 0)
    assert switches() == before
    with pytest.raises(ZeroDivisionError), flags(tf32):
        raise ZeroDivisionError
    assert switches() == before
