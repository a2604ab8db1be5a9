"""Which arms a layer gets, with counts done by hand, and the cases of a small network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import fake_kernels
import numpy as np
import pytest
import torch
from PIL import Image
from small_network import info, small

from frugal import provenance
from frugal.cusnn import bench_layer, offered
from frugal.data.image_to_bin import image_to_bin
from frugal.errors import FrugalError
from frugal.models.weights import RANDOM
from frugal.timing import Arm, Case, CpuDevice, Design, measure_case
from frugal.timing.case import ARMS_MAX
from kernels.sparse import ConvShape, variants

SHAPE = ConvShape(B=2, C=3, H=5, W=7, N=4)
CUDNN = ["cudnn_fp32", "cudnn_fp32_cl", "cudnn_tf32", "cudnn_tf32_cl", "cudnn_fp16_cl"]
COMPILED = ["torch_compile_fp32", "torch_compile_tf32"]


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    return fake_kernels.kernels(variants(), tmp_path / "kernels", monkeypatch)[0]


# ---- arms ------------------------------------------------------------------------------------------------------------


def test_arms_are_made_by_name(kernels):
    found = bench_layer.arms(SHAPE, 0.5, ["sparse", "v1_naive", "paper_scheme", "cudnn_fp32", *COMPILED], kernels)
    assert [(arm.name, arm.role) for arm in found] == [
        ("sparse", "ours"), ("v1_naive", "ours"), ("paper_scheme", "paper_emulation"), ("cudnn_fp32", "baseline"),
        ("torch_compile_fp32", "baseline"), ("torch_compile_tf32", "baseline"),
    ]  # fmt: skip
    found = bench_layer.arms(SHAPE, 0.5, ["sparse", "dense_twin", "onednn_fp32", "gemm_fp32"], None)
    assert [arm.name for arm in found] == ["sparse", "dense_twin", "onednn_fp32", "gemm_fp32"]


def test_work_and_traffic_by_hand(kernels):
    # 2 images · 4 outputs · 35 pixels · 3 inputs · 9 taps = 7560 multiply-adds
    dense = 15120.0
    # float32: input 2·3·35 = 210, output 2·4·35 = 280, weights 4·3·9 = 108 values
    moved = 4.0 * (210 + 280 + 108)
    names = ["sparse", "dense_twin", "v2_dense", *CUDNN, *COMPILED, "gemm_fp32"]
    found = bench_layer.arms(SHAPE, 0.25, names, kernels)
    found += bench_layer.arms(SHAPE, 0.25, ["sparse", "dense_twin", "onednn_fp32"], None)
    assert len(found) == len(names) + 3
    for arm in found:
        assert arm.flop == (dense * 0.75 if arm.name == "sparse" else dense)
        assert arm.bytes_min == (moved / 2 if arm.name == "cudnn_fp16_cl" else moved)


def test_traffic_with_a_stride_counts_the_smaller_output():
    strided = ConvShape(B=1, C=3, H=5, W=7, N=4, stride=2)
    (arm,) = bench_layer.arms(strided, 0.0, ["onednn_fp32"], None)
    assert arm.bytes_min == 4.0 * (3 * 35 + 4 * 3 * 4 + 108)
    assert arm.flop == 2.0 * 4 * 12 * 3 * 9


# ---- the cases -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The cases of the small network on 4 pictures, on a CPU."""
    monkeypatch.setattr(bench_layer, "load_network", lambda path: (small(), info()))
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    image_to_bin(tmp_path, tmp_path / "images.bin", size=32, resize=32)

    def call(experiment: str = "layers", **cusnn: object) -> list[tuple[Case, list[Arm]]]:
        given = {
            "preset": "quick", "ours": ["sparse"], "baselines": ["gemm_fp32"], "layers": "distinct",
            "kernel_sizes": [3], "batch_sizes": [1, 3], "deterministic": True, "variants": [],
        }  # fmt: skip
        found = bench_layer.cases(
            CpuDevice(),
            provenance.device_record("cpu"),
            said.append,
            experiment=experiment,
            cusnn=given | cusnn,
            weights=["w.safetensors"],
            images=[str(tmp_path / "images.bin")],
            kernels=[],
        )
        return list(found)

    said: list[str] = []
    call.said = said
    return call


def test_every_layer_and_batch_is_a_case_with_its_arms(cases):
    found = cases()
    assert [(case.layer, case.columns["n"]) for case, _ in found] == [
        ("steps.0", 1), ("steps.0", 3), ("steps.3", 1), ("steps.3", 3),
        ("steps.12", 1), ("steps.12", 3), ("steps.15", 1), ("steps.15", 3),
    ]  # fmt: skip
    counts = {case.layer: case.axes["layers_of_shape"] for case, _ in found}
    assert counts == {"steps.0": 1, "steps.3": 3, "steps.12": 1, "steps.15": 1}
    assert cases.said == ["resnet50 (random weights): the inputs of its layers from 4 images"]
    for case, arms in found:
        columns = case.columns
        assert (case.system, case.experiment, columns["dataset"]) == ("cusnn", "layers", "photographs")
        outputs = -(-columns["h"] // columns["stride"]) * -(-columns["w"] // columns["stride"])
        dense = 2 * columns["n"] * outputs * columns["c"] * columns["k"] * 9
        assert columns["flop_dense_equiv"] == dense
        assert [arm.name for arm in arms] == ["sparse", "gemm_fp32"]
        kept = 1 - columns["sparsity_measured"]
        assert 0 < kept < 1 or (kept == 1 and case.layer == "steps.0")  # the photographs themselves
        # one multiplication, one order
        assert [arm.flop for arm in arms] == pytest.approx([kept * dense, dense], rel=1e-12)


def test_filters_of_size_1_are_layers_too(cases):
    found = cases(kernel_sizes=[1], batch_sizes=[2])
    assert [(case.layer, case.columns["r"], case.columns["pad"]) for case, _ in found] == [("steps.18", 1, 0)]


@pytest.mark.parametrize("experiment", ["layers", "break_even", "ladder"])
def test_every_case_is_measured_and_right(cases, experiment: str):
    design = Design.of("smoke", n_min=3, block_max_s=0.002, regimes=["wall"])
    small = {"preset": "smoke", "layers": "all", "kernel_sizes": [1, 3], "sparsities": [0.5], "batch_sizes": [1]}
    made = cases(experiment, **small)
    assert len(made) == {"layers": 7, "break_even": 3, "ladder": 2}[experiment]
    for case, arms in [one for one in made if one[0].columns["c"] <= 128]:  # float64 references of more take seconds
        arms = [arm for arm in arms if not arm.name.startswith("v")]
        for row in measure_case(case, arms, design, 0, CpuDevice()).rows:
            assert row.status in ("ok", "unstable"), row.reason  # a busy machine may spread a block's samples
            assert (row.verified_before, row.verified_after, row.regime) == (True, True, "wall")


class Chosen(torch.nn.Module):
    """A ReLU before a convolution of one of the map's shapes, 64 channels of 56² to 256, and one of another shape."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = torch.nn.Conv2d(3, 64, 3, padding=1)
        self.own = torch.nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, x):
        return self.own(torch.relu(self.before(torch.nn.functional.interpolate(x, size=56))))


@pytest.mark.parametrize(("origin", "there"), [("trained", True), (RANDOM, False)])
def test_the_map_takes_real_zeros_where_weights_are_trained(cases, monkeypatch, origin: str, there: bool):
    monkeypatch.setattr(bench_layer, "load_network", lambda path: (Chosen().eval(), info(origin)))
    found = cases("break_even", kernel_sizes=[1], sparsities=[0.0, 0.9], batch_sizes=[1, 2])
    patterns = [(case.axes["pattern"], case.axes["sparsity"], case.axes["batch"]) for case, _ in found]
    assert patterns.count(("bernoulli", 0.9, 2)) == 3  # three 1×1 shapes
    # its own zeros are about half: none can be taken away
    real = [("real", 0.9, 1), ("real", 0.9, 2)] if there else []
    assert [one for one in patterns if one[0] == "real"] == real
    for case, arms in found:
        if case.axes["pattern"] == "real":
            assert (case.axes["c"], case.axes["k"], case.columns["dataset"]) == (64, 256, "photographs")
        assert {regime for arm in arms for regime in arm.regimes} == {"wall"}


def test_a_batch_that_no_images_fill_is_refused(cases):
    with pytest.raises(FrugalError, match=r"cusnn\.batch_sizes has 8, but there are 4 images"):
        cases(batch_sizes=[8])


# ---- what is offered: read while planning ----------------------------------------------------------------------------


def offers(wanted, kind="cuda", network=None, **shape):
    return offered.arms(wanted, kind, dataclasses.replace(ConvShape(1, 64, 56, 56, 64), **shape), network)


@pytest.mark.parametrize(
    ("wanted", "kind", "expected"),
    [
        (["onednn_fp32", "sparse"], "cpu", ["sparse", "onednn_fp32"]),  # ours first
        (["gemm_fp32", "cudnn_tf32", "paper_scheme"], "cpu", ["gemm_fp32"]),
        (["gemm_fp32", "cudnn_tf32", "paper_scheme"], "cuda", ["paper_scheme", "cudnn_tf32", "gemm_fp32"]),
        (["onednn_fp32"], "cuda", []),
        ([], "cpu", []),
    ],
)
def test_only_wanted_arms_and_only_those_of_the_device(wanted, kind: str, expected):
    assert offers(wanted, kind) == expected


def test_the_papers_scheme_is_for_three_by_three_with_stride_1_and_one_image():
    both = ["paper_scheme", "paper_dispatch"]
    assert offers(both) == both
    for other in ({"B": 2}, {"stride": 2}, {"k": 1, "pad": 0}):
        assert offers(both, **other) == []


@pytest.mark.parametrize(
    ("network", "shape", "there"),
    [
        ("densenet169", {}, True),
        ("resnet50", {"B": 8, "stride": 2}, True),
        ("resnet50", {"B": 2}, False),
        ("resnet50", {"k": 1, "pad": 0}, False),
        ("resnet152", {}, False),
        (None, {}, False),
    ],
)
def test_torch_compile_is_tuned_where_that_takes_minutes_and_not_hours(network, shape, there: bool):
    assert offers(COMPILED, network=network, **shape) == (COMPILED if there else [])


def test_the_ladder_has_no_more_arms_than_a_case_may_have():
    for batch in (1, 8):
        names = offered.ladder("cuda", ConvShape(batch, 64, 56, 56, 64))
        assert len(set(names)) == len(names) <= ARMS_MAX
        assert ("paper_scheme" in names) == (batch == 1)


def test_an_experiment_with_one_regime_has_only_the_arms_that_know_it():
    wanted = ["sparse", "paper_scheme", "paper_dispatch", "cudnn_fp32", *COMPILED]
    assert offered.one_regime(wanted, "cuda", ConvShape(1, 64, 56, 56, 64)) == ["sparse", "paper_scheme", "cudnn_fp32"]
