"""Which arms a layer gets, with counts done by hand, and a whole session over a small network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fake_kernels
import numba
import numpy as np
import pytest
import torch
from PIL import Image
from small_network import info, small

from frugal import provenance, records
from frugal.config import Config
from frugal.cusnn import bench_layer
from frugal.data.image_to_bin import image_to_bin
from frugal.errors import FrugalError
from kernels.sparse import ConvShape, variants

SHAPE = ConvShape(B=2, C=3, H=5, W=7, N=4)
DEFAULTS = [*Config().cusnn.ours, *Config().cusnn.baselines]
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


# ---- a session -------------------------------------------------------------------------------------------------------


@pytest.fixture
def _threads() -> Iterator[None]:
    """A session pins the threads of its process, which here is the tests' own."""
    before = torch.get_num_threads(), numba.get_num_threads()
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


def run_session(folder: Path, monkeypatch: pytest.MonkeyPatch, device: dict, **cusnn: object) -> Path:
    """A session over the layers of the small network on 4 pictures; the path of its job file."""
    monkeypatch.setattr(bench_layer, "load_network", lambda path: (small(), info()))
    monkeypatch.setattr(bench_layer, "ceilings", lambda device, clock: {"flops_fp32": 1e9})
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    image_to_bin(folder, folder / "images.bin", size=32, resize=32)
    provenance.write_device_record(device, folder / "device.json")
    timing = dict.fromkeys(bench_layer.TIMING) | {"n_min": 3, "block_max_s": 0.002, "regimes": ["wall"]}
    bench_layer.session(
        preset="smoke",
        timing=timing | {"threads": 1, "seed": 1, "flush": "write"},
        cusnn={"regimes": None, "ours": ["sparse"], "baselines": ["gemm_fp32"], "layers": "distinct"}
        | {"batch_sizes": [1, 3]}
        | cusnn,
        weights=[folder / "w.safetensors"],
        images=[folder / "images.bin"],
        kernels=[],
        device=folder / "device.json",
        session=0,
        sessions=1,
        threads=1,
        config_json="{}",
        campaign_id=None,
        log="logs/x.log",
        out=folder / "session-0.parquet",
        say=lambda line: None,
    )
    return folder / "session-0.parquet"


@pytest.mark.usefixtures("_threads")
def test_a_session_measures_every_arm_of_every_layer_and_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, rows, samples = records.read_job(run_session(tmp_path, monkeypatch, provenance.device_record("cpu")))
    assert (run.experiment, run.device_kind, run.threads, run.sessions_planned) == ("layers", "cpu", 1, 1)
    assert run.flops_fp32 == 1e9  # measured in the same session
    assert {(row.layer, row.n, row.arm) for row in rows} == {
        (layer, batch, arm) for layer in ("steps.3", "steps.15") for batch in (1, 3) for arm in ("sparse", "gemm_fp32")
    }
    for row in rows:
        assert row.status in ("ok", "unstable"), row.reason  # a busy machine may spread a block's samples
        assert (row.verified_before, row.verified_after, row.regime, row.dataset) == (True, True, "wall", "photographs")
        assert row.flop_dense_equiv == 2 * row.n * row.h * row.w * row.c * row.k * 9
        kept = 1 - row.sparsity_measured if row.arm == "sparse" else 1.0
        assert row.flop == pytest.approx(kept * row.flop_dense_equiv, rel=1e-12)  # one multiplication, one order
        assert samples[row.key]
    axes = {row.layer: json.loads(row.axes_json)["layers_of_shape"] for row in rows}
    assert axes == {"steps.3": 3, "steps.15": 1}


@pytest.mark.usefixtures("_threads")
def test_cusnns_own_regimes_come_before_those_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = run_session(tmp_path, monkeypatch, provenance.device_record("cpu"), regimes=["graph"], baselines=[])
    assert {row.regime for row in records.read_job(path)[1]} == {"graph"}


def test_a_session_on_another_machine_is_refused_before_anything_is_measured(tmp_path: Path, monkeypatch):
    device = provenance.device_record("cpu") | {"device_key": "cpu-another-64c"}
    with pytest.raises(FrugalError, match="planned for cpu-another-64c"):
        run_session(tmp_path, monkeypatch, device)
    assert not (tmp_path / "session-0.parquet").exists()


def test_a_batch_that_no_images_fill_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(FrugalError, match=r"cusnn\.batch_sizes has 8, but there are 4 images"):
        run_session(tmp_path, monkeypatch, provenance.device_record("cpu"), batch_sizes=[8])
