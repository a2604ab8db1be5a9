"""Which arms a layer gets, with counts done by hand, and the cases of a small network."""

from __future__ import annotations

from pathlib import Path

import fake_kernels
import numpy as np
import pytest
from PIL import Image
from small_network import info, small

from frugal import provenance
from frugal.config import Config
from frugal.cusnn import bench_layer
from frugal.data.image_to_bin import image_to_bin
from frugal.errors import FrugalError
from frugal.timing import Arm, Case, CpuDevice, Design, measure_case
from kernels.sparse import ConvShape, variants

SHAPE = ConvShape(B=2, C=3, H=5, W=7, N=4)
LADDER = ["v2_dense", "v1_naive"]
DEFAULTS = [*Config().cusnn.ours, *LADDER, *Config().cusnn.baselines]
GPU_ARMS = ["sparse", "dense_twin", "v2_dense", "v1_naive"]
CUDNN = ["cudnn_fp32", "cudnn_fp32_cl", "cudnn_tf32", "cudnn_tf32_cl", "cudnn_fp16_cl"]


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    return fake_kernels.kernels(variants(), tmp_path / "kernels", monkeypatch)[0]


# ---- arms ------------------------------------------------------------------------------------------------------------


def test_a_cpu_gets_what_it_has_of_the_default_arms():
    names = [arm.name for arm in bench_layer.arms(SHAPE, 0.5, DEFAULTS, "cpu", None)]
    assert names == ["sparse", "dense_twin", "onednn_fp32", "onednn_fp32_cl"]


def test_a_gpu_gets_what_it_has_of_the_default_arms(kernels):
    names = [arm.name for arm in bench_layer.arms(SHAPE, 0.5, DEFAULTS, "cuda", kernels)]
    assert names == GPU_ARMS + CUDNN


@pytest.mark.parametrize(
    ("wanted", "kind", "expected"),
    [
        (["onednn_fp32", "sparse"], "cpu", ["sparse", "onednn_fp32"]),  # ours first
        (["gemm_fp32", "cudnn_tf32", "v1_naive"], "cpu", ["gemm_fp32"]),
        (["gemm_fp32", "cudnn_tf32", "v1_naive"], "cuda", ["v1_naive", "cudnn_tf32", "gemm_fp32"]),
        (["onednn_fp32"], "cuda", []),
        ([], "cpu", []),
    ],
)
def test_only_wanted_arms_and_only_those_of_the_device(wanted, kind: str, expected, kernels):
    found = bench_layer.arms(SHAPE, 0.5, wanted, kind, kernels if kind == "cuda" else None)
    assert [arm.name for arm in found] == expected


def test_work_and_traffic_by_hand(kernels):
    # 2 images · 4 outputs · 35 pixels · 3 inputs · 9 taps = 7560 multiply-adds
    dense = 15120.0
    # float32: input 2·3·35 = 210, output 2·4·35 = 280, weights 4·3·9 = 108 values
    moved = 4.0 * (210 + 280 + 108)
    found = bench_layer.arms(SHAPE, 0.25, [*DEFAULTS, "gemm_fp32"], "cuda", kernels)
    found += bench_layer.arms(SHAPE, 0.25, ["sparse", "dense_twin", "onednn_fp32"], "cpu", None)
    assert len(found) == len(GPU_ARMS) + len(CUDNN) + 1 + 3
    for arm in found:
        assert arm.flop == (dense * 0.75 if arm.name == "sparse" else dense)
        assert arm.bytes_min == (moved / 2 if arm.name == "cudnn_fp16_cl" else moved)


# ---- the cases -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The cases of the small network on 4 pictures, on a CPU."""
    monkeypatch.setattr(bench_layer, "load_network", lambda path: (small(), info()))
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    image_to_bin(tmp_path, tmp_path / "images.bin", size=32, resize=32)

    def call(**cusnn: object) -> list[tuple[Case, list[Arm]]]:
        given = {"ours": ["sparse"], "baselines": ["gemm_fp32"], "layers": "distinct", "batch_sizes": [1, 3]}
        found = bench_layer.cases(
            CpuDevice(),
            provenance.device_record("cpu"),
            said.append,
            experiment="layers",
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
        ("steps.3", 1), ("steps.3", 3), ("steps.15", 1), ("steps.15", 3),
    ]  # fmt: skip
    assert {case.layer: case.axes["layers_of_shape"] for case, _ in found} == {"steps.3": 3, "steps.15": 1}
    assert cases.said == ["resnet50 (random weights): the inputs of its layers from 4 images"]
    for case, arms in found:
        columns = case.columns
        assert (case.system, case.experiment, columns["dataset"]) == ("cusnn", "layers", "photographs")
        dense = 2 * columns["n"] * columns["h"] * columns["w"] * columns["c"] * columns["k"] * 9
        assert columns["flop_dense_equiv"] == dense
        assert [arm.name for arm in arms] == ["sparse", "gemm_fp32"]
        kept = 1 - columns["sparsity_measured"]
        assert 0 < kept < 1
        # one multiplication, one order
        assert [arm.flop for arm in arms] == pytest.approx([kept * dense, dense], rel=1e-12)


def test_every_case_is_measured_and_right(cases):
    design = Design.of("smoke", n_min=3, block_max_s=0.002, regimes=["wall"])
    for case, arms in cases():
        for row in measure_case(case, arms, design, 0, CpuDevice()).rows:
            assert row.status in ("ok", "unstable"), row.reason  # a busy machine may spread a block's samples
            assert (row.verified_before, row.verified_after, row.regime) == (True, True, "wall")


def test_a_batch_that_no_images_fill_is_refused(cases):
    with pytest.raises(FrugalError, match=r"cusnn\.batch_sizes has 8, but there are 4 images"):
        cases(batch_sizes=[8])
