"""cuDNN's and oneDNN's arms: right answers where they run here, and flags that are stated and put back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from measured_layers import SHAPE, layer_case, layer_inputs, measured

from frugal.cusnn import baselines
from frugal.cusnn.baselines import CUDNN, OFFERED, flags
from frugal.provenance import source_hash
from frugal.timing import Unsupported
from kernels.sparse import ConvShape

BYTES, FLOP = 1200.0, 2.0 * SHAPE.macs


def arm(name: str, shape: ConvShape = SHAPE):
    return baselines.arm(name, shape, bytes_min=BYTES)


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


@pytest.mark.parametrize("name", ["gemm_fp32", "onednn_fp32", "onednn_fp32_cl", "cudnn_fp32"])
@pytest.mark.parametrize(("k", "stride"), [(1, 1), (1, 2), (3, 2)])
def test_other_filters_and_strides(name: str, k: int, stride: int):
    shape = ConvShape(2, 3, 5, 6, 5, k=k, stride=stride, pad=k // 2)
    inputs = {"x": torch.randn(2, 3, 5, 6), "w": torch.randn(5, 3, k, k)}
    expected = torch.nn.functional.conv2d(
        inputs["x"].double(), inputs["w"].double(), stride=stride, padding=k // 2
    ).float()
    torch.testing.assert_close(arm(name, shape).prepare(inputs).run().contiguous(), expected)


# ---- torch.compile: what it makes is not looked at here (it tunes for minutes), but how it is asked ------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """(module, options) of each compilation; the module itself stands in for what is compiled."""
    found: list[tuple] = []

    def compile_(module, *, dynamic, options):
        assert dynamic is False
        found.append((module, options))
        return module

    monkeypatch.setattr(torch, "compile", compile_)
    return found


def test_a_compiled_arm_is_compiled_once_and_right(asked):
    shape = ConvShape(2, 3, 7, 5, 4, stride=2)
    made = arm("torch_compile_fp32", shape)
    for _ in range(2):  # other inputs, the same code
        inputs = {"x": torch.randn(2, 3, 7, 5), "w": torch.randn(4, 3, 3, 3)}
        expected = torch.nn.functional.conv2d(inputs["x"], inputs["w"], stride=2, padding=1)
        torch.testing.assert_close(made.prepare(inputs).run(), expected)
    ((_, options),) = asked
    assert options["max_autotune"]
    # the keys of these two do not hold cuDNN's TF32 flag
    assert (options["fx_graph_cache"], options["autotune_local_cache"]) == (False, False)


def test_what_is_compiled_for_two_arms_shares_no_code(asked):
    for name in baselines.COMPILED:
        arm(name).prepare(layer_inputs())
    first, second = (module.forward.__code__ for module, _ in asked)
    assert first is not second


def test_the_options_are_torchs_own_for_max_autotune():
    from torch._inductor import list_mode_options, list_options

    assert baselines.INDUCTOR.items() >= list_mode_options("max-autotune-no-cudagraphs").items()
    assert set(baselines.INDUCTOR) <= set(list_options())


def test_a_machine_that_cannot_compile_says_so(monkeypatch: pytest.MonkeyPatch):
    def broken(*given):
        raise baselines.BackendCompilerFailed(print, RuntimeError("no compiler\nand more"), None)

    monkeypatch.setattr(torch, "compile", lambda module, **named: broken)
    with pytest.raises(Unsupported, match=r"torch\.compile cannot compile a convolution here: .*no compiler"):
        arm("torch_compile_tf32").prepare(layer_inputs())


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
        ("torch_compile_fp32", "float32", False, "nchw", 1200),
        ("torch_compile_tf32", "float32", True, "nchw", 1200),
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
